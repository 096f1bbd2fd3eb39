"""``varl export RUN_OR_WEIGHTS --to FOLDER --push PLACE``: trained weights as their model was published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from safetensors import SafetensorError

from varl.cli.hub import HUB, push
from varl.cli.parser import Parser
from varl.launch.resources import find
from varl.policy.export import Exportable
from varl.policy.load import DtypeName, architecture, load, torch_dtype
from varl.studies.report.card import Card, held_out, model_card
from varl.trainer.recipe.changes import read_resolved
from varl.trainer.recipe.config import Recipe

FINAL = Path("weights") / "final.safetensors"


def main(arguments: Sequence[str]) -> int:
    """Load, merge, write, and say what was written.

    The exit status: 0, 1 where the files do not fit together or cannot be written, 2 for a bad flag.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.to is None and flags.push is None:
        parser.error("one of the arguments --to and --push is required")
    recipe, weights = _source(parser, flags.source)
    model = _model(parser, flags.model, recipe)
    try:
        with ExitStack() as stack:
            folder = flags.to or Path(stack.enter_context(TemporaryDirectory())) / _name(flags.push)
            _export(model, weights, folder, flags, recipe)
            places = ([flags.to] if flags.to else []) + ([push(folder, flags.push)] if flags.push else [])
    except (OSError, ValueError, SafetensorError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    for place in places:
        sys.stdout.write(f"{place}: {weights} on {model}, with a model card (README.md)\n")
    return 0


def _name(place: str) -> str:
    """The last part of a folder or repository, which the card is headed with."""
    return Path(place.removeprefix(HUB)).resolve().name


def _parser() -> Parser:
    parser = Parser("varl.cli.export", "Writes trained weights, adapters merged, as their model was published.")
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_WEIGHTS", help="run directory, or safetensors file of weights or adapters"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="new or empty folder that is written")
    parser.add_argument(
        "--push",
        metavar="PLACE",
        help="where the files are brought: hf://OWNER/NAME, as HF_TOKEN's owner, or a folder such as a clone of one",
    )
    parser.add_argument(
        "--base-model", metavar="OWNER/NAME", help="the base's name on the hub, for the card; default: what is known"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the base model; default: the run's own")
    parser.add_argument("--dtype", choices=get_args(DtypeName), default="float32", help="of the weights as written")
    return parser


def _source(parser: Parser, source: Path) -> tuple[Recipe | None, Path]:
    """The recipe of a run, if it is one, and the file of its weights."""
    if source.is_file():
        return None, source
    if not (source / "config.toml").is_file():
        parser.error(f"argument RUN_OR_WEIGHTS: {source} is neither a file nor a run directory (with a config.toml)")
    if not (source / FINAL).is_file():
        parser.error(f"argument RUN_OR_WEIGHTS: the run has not ended, so there is no {source / FINAL}: name a file")
    try:
        return read_resolved(source / "config.toml"), source / FINAL
    except ValueError as error:
        parser.error(f"argument RUN_OR_WEIGHTS: {source / 'config.toml'} is no recipe: {error}")


def _model(parser: Parser, given: Path | None, recipe: Recipe | None) -> Path:
    if given is None and recipe is None:
        parser.error("argument --model: needed for a file of weights, whose base nothing else names")
    folder = find(given or recipe.model.dir)  # type: ignore[union-attr]
    if not (folder / "config.json").is_file():
        parser.error(f"argument --model: there is no model folder {folder} (one with a config.json)")
    return folder


def _export(model: Path, weights: Path, folder: Path, flags: argparse.Namespace, recipe: Recipe | None) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    policy = load(model, "cpu", flags.dtype, recipe.model.plugin if recipe else "")
    if not isinstance(policy, Exportable):
        raise ValueError(f"the policy of {model} has no method export (varl.policy.export)")
    policy.load_weights(str(weights))
    folder.mkdir(parents=True, exist_ok=True)
    usage = policy.export(folder, torch_dtype(flags.dtype))
    figures = held_out(flags.source) if recipe else []
    name = folder.resolve().name
    card = Card(name, architecture(model), model, weights, usage, recipe, figures, flags.base_model or "")
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")
