"""Which model a command samples, with which weights and how."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError

from varl.cli.parser import Parser
from varl.launch.resources import find
from varl.policy.base import SamplingParams, TrainablePolicy
from varl.policy.load import DtypeName, load


def add_model(parser: argparse.ArgumentParser, default: Path | None) -> None:
    """Add --model, --weights, --dtype, --plugin and --guidance-schedule."""
    parser.add_argument("--model", type=Path, default=default, metavar="DIR", help="folder of the model")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="safetensors file of trained weights; default: the model's own"
    )
    parser.add_argument(
        "--dtype",
        choices=get_args(DtypeName),
        default="float32",
        help="of the model's weights and arithmetic; bfloat16 takes half the memory",
    )
    parser.add_argument(
        "--plugin",
        default="",
        metavar="MODULE:FUNCTION",
        help="loader of a model of your own, whatever its config.json says (policy/README.md)",
    )
    parser.add_argument(
        "--guidance-schedule",
        choices=("ramp", "constant"),
        default="ramp",
        help="ramp: from 0 at the first scale to --guidance at the last",
    )


def sampling_of(flags: argparse.Namespace) -> SamplingParams:
    """How the flags want tokens to be sampled."""
    return SamplingParams(
        flags.temperature, flags.top_k, flags.top_p, flags.guidance, flags.guidance_schedule == "constant"
    )


def the_policy(parser: Parser, flags: argparse.Namespace) -> TrainablePolicy:
    """The model with its weights; ends the process with a message that names the flag where it cannot be loaded."""
    folder = find(flags.model)
    if not flags.plugin and not (folder / "config.json").is_file():
        parser.error(f"argument --model: there is no model folder {flags.model} (one with a config.json)")
    if flags.weights and not flags.weights.is_file():
        parser.error(f"argument --weights: there is no file {flags.weights}")
    try:
        policy = load(folder, flags.device, flags.dtype, flags.plugin)
    except (OSError, ValueError, SafetensorError) as error:
        parser.error(f"argument --model: {flags.model} cannot be loaded: {error}")
    except RuntimeError as error:  # torch's, of a device that it does not know or have
        parser.error(f"argument --device: {flags.device}: {error}")
    try:
        if flags.weights:
            policy.load_weights(str(flags.weights))
    except (OSError, ValueError, SafetensorError) as error:
        parser.error(f"argument --weights: {error}")
    return policy
