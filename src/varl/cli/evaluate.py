"""``varl evaluate --weights FILE --sampler T=1.0 --sampler greedy``: held-out figures of weights and samplers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from varl.cli.parser import Parser, add_sampling, count
from varl.evaluation.samplers import Sampler, parse_sampler
from varl.launch.machine import describe_machine
from varl.launch.resources import MissingFilesError
from varl.launch.supervisor import sigterm_as_exit
from varl.policy.base import SamplingParams
from varl.studies.samplers import BASE, SamplerReading, changes_of, evaluate_samplers
from varl.trainer.local_services import check_rewards
from varl.trainer.recipe.config import Recipe, load_recipe
from varl.trainer.recipe.dry_run import check_files
from varl.trainer.recipe.sections import EvaluationSettings
from varl.trainer.setup import PROBLEMS


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print a table, write --out.

    The exit status: 0, 1 where a part fails, 2 for a bad flag, 130 for Ctrl-C.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    recipe = _recipe(parser, flags)
    samplers = _samplers(parser, flags, recipe.evaluation.sampling.params())
    try:
        with sigterm_as_exit():
            found = evaluate_samplers(recipe, flags.weights or [BASE], samplers, flags.prompts, _say)
        sys.stdout.write(_table(found))
        if flags.out:
            flags.out.write_text(
                json.dumps(_record(parser, arguments, recipe, found), indent=1) + "\n", encoding="utf-8"
            )
    except KeyboardInterrupt:
        return 130
    except PROBLEMS as error:
        sys.stderr.write(f"{parser.prog}: {type(error).__name__}: {error}\n")
        return 1
    return 0


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.evaluate",
        "Evaluates weights on held-out prompts, with Redis, rewards and a rollout worker started for it.",
    )
    parser.add_argument(
        "--recipe", default="recipes/tiny_demo.toml", metavar="FILE", help="its model, prompts, rewards and sampler"
    )
    parser.add_argument(
        "--weights",
        action="append",
        metavar="FILE",
        help="safetensors file, or base: the recipe's model, which is the default; may be given several times",
    )
    parser.add_argument("--prompts", type=count(1), default=256, metavar="N", help="held-out prompts, from the first")
    parser.add_argument(
        "--images-per-prompt",
        type=count(1),
        metavar="N",
        help="images of each prompt, which all figures are means over; default: the recipe's, mostly 1",
    )
    parser.add_argument("--seed", type=count(0), metavar="N", help="seed of the images; default: the recipe's")
    parser.add_argument(
        "--sampler",
        action="append",
        metavar="S",
        help="greedy, or T=1.0,k=50,p=0.9,g=2 in parts; default: the recipe's own; may be given several times",
    )
    add_sampling(parser, None, None, None, None)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    return parser


def _recipe(parser: Parser, flags: argparse.Namespace) -> Recipe:
    """The recipe, whose files and the weights are there; else the process ends with a message that names the flag."""
    try:
        recipe = _drawn_as(load_recipe(flags.recipe), flags)
        check_rewards(recipe)
        check_files(recipe)
    except (MissingFilesError, ValidationError, ValueError) as error:
        parser.error(f"argument --recipe: {error}")
    for path in flags.weights or []:
        if path != BASE and not Path(path).is_file():
            parser.error(f"argument --weights: there is no file {path}")
    if flags.out and not flags.out.parent.is_dir():
        parser.error(f"argument --out: there is no folder {flags.out.parent}")
    return recipe


def _drawn_as(recipe: Recipe, flags: argparse.Namespace) -> Recipe:
    """The recipe with the images that the flags want; raises pydantic.ValidationError where a group has no room."""
    given = {"images_per_prompt": flags.images_per_prompt, "seed": flags.seed}
    wanted = {name: value for name, value in given.items() if value is not None}
    evaluation = EvaluationSettings.model_validate(recipe.evaluation.model_dump() | wanted)
    return recipe.model_copy(update={"evaluation": evaluation})


def _samplers(parser: Parser, flags: argparse.Namespace, default: SamplingParams) -> list[Sampler]:
    """The samplers that the flags name; the recipe's own where there is none."""
    given = {"T": flags.temperature, "k": flags.top_k, "p": flags.top_p, "g": flags.guidance}
    parts = [f"{key}={value}" for key, value in given.items() if value is not None]
    texts = [*(flags.sampler or []), *([",".join(parts)] if parts else [])]
    try:
        return [parse_sampler(text, default) for text in texts] or [Sampler(f"T={default.temperature:g}", default)]
    except ValueError as error:
        parser.error(f"argument --sampler: {error}")


def _table(found: Sequence[SamplerReading]) -> str:
    """A line for each evaluation: every figure of its summary that has a standard error, and the mean rewards.

    Then, where there are several weights, what each changed against the first.
    """
    width = max(len(one.weights) for one in found)
    lines = [f"{one.weights:{width}}  {one.sampler.name:14}  {_figures(one.evaluation.summary())}" for one in found]
    changes = [
        f"{one.weights} - {one.first}, paired by prompt  {one.sampler.name}  {_figures(one.difference.summary(), '+')}"
        for one in changes_of(found)
    ]
    return "\n".join([*lines, *changes, ""])


def _figures(summary: dict[str, Any], sign: str = "") -> str:
    errors = {
        name.removesuffix("_se"): error
        for name, error in summary.items()
        if name.endswith("_se") and not isinstance(error, dict)
    }
    figures = {name: (summary[name], error) for name, error in errors.items()}
    figures |= {name: (value, summary["rewards_se"][name]) for name, value in summary["rewards"].items()}
    return "  ".join(
        f"{name} {value:{sign}.3f}" + (f" ± {error:.3f}" if error is not None else "")
        for name, (value, error) in figures.items()
    )


def _record(
    parser: Parser, arguments: Sequence[str], recipe: Recipe, found: Sequence[SamplerReading]
) -> dict[str, Any]:
    rows = [
        {
            "weights": one.weights,
            "sampler": one.sampler.name,
            "sampling": asdict(one.sampler.params),
            "seed": one.evaluation.seed,
            **one.evaluation.summary(),
        }
        for one in found
    ]
    changes = [
        {"weights": one.weights, "first": one.first, "sampler": one.sampler.name, **one.difference.summary()}
        for one in changes_of(found)
    ]
    machine = describe_machine(recipe.run.device).model_dump()
    command = " ".join([parser.prog, *arguments])
    return {"command": command, "machine": machine, "evaluations": rows, "changes": changes}


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
