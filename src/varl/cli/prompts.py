"""``varl prompts FORMAT --data PATH -o FILE.jsonl``: prompts as others publish them, as recipes read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from varl.cli.parser import Parser
from varl.evaluation.benchmarks.items import Item, cvtg_2k, hpsv3
from varl.metadata import MetadataError, check_metadata
from varl.services.ocr.targets import resolve_targets
from varl.trajectories.prompt_files import Located, Reader, numbered_lines, save_prompts, sound_prompts, text_prompts
from varl.trajectories.prompt_tables import csv_prompts, folder_prompts
from varl.trajectories.prompts import PromptSpec


def main(arguments: Sequence[str]) -> int:
    """Convert and print how many.

    The exit status: 0, 1 where the file cannot be written, 2 for a bad flag or file.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        specs = sound_prompts(FORMATS[flags.format](flags.data))
    except OSError as error:
        parser.error(f"argument --data: {error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(f"argument --data: {error}")
    if not specs:
        parser.error(f"argument --data: there is no prompt in {flags.data}")
    try:
        save_prompts(flags.output, specs)
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {flags.output} cannot be written: {error}\n")
        return 1
    bare = sum(not spec.target_words for spec in specs)
    sys.stdout.write(f"{flags.output}: {len(specs)} prompts, {bare} of them without target words\n")
    return 0


def _parser() -> Parser:
    parser = Parser("varl.cli.prompts", "Converts published prompts to a prompt file of recipes, JSON Lines.")
    parser.add_argument(
        "format",
        choices=list(FORMATS),
        help="lines: a prompt a line, as flow_grpo's OCR prompts; geneval: JSON Lines, all but the prompt as metadata; "
        "csv: columns prompt, target_words (if any), others as metadata; folder: a .txt file a prompt",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="the published folder or file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the prompt file to write")
    return parser


def _specs(read: Callable[[Path], list[Item]]) -> Reader:
    return lambda path: [(f"prompt of {item.image}", PromptSpec(item.prompt, item.targets)) for item in read(path)]


def _quoted(path: Path) -> Iterator[Located]:
    """A prompt a line, with its quoted words as target words."""
    for where, spec in text_prompts(path):
        yield where, PromptSpec(spec.prompt, resolve_targets(spec.prompt, ()))


def _geneval(path: Path) -> Iterator[Located]:
    """JSON Lines of objects with a prompt; their other fields are what a reward is told as metadata."""
    return ((where, _with_metadata(line, where)) for where, line in numbered_lines(path))


def _with_metadata(line: str, where: str) -> PromptSpec:
    try:
        fields = json.loads(line)
        prompt = fields.pop("prompt")
        check_metadata(fields)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, MetadataError) as error:
        raise ValueError(f"{where}: want a JSON object with a prompt: {error!r}") from error
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: prompt: want a string")
    return PromptSpec(prompt, (), fields)


FORMATS: Mapping[str, Reader] = {
    "cvtg-2k": _specs(cvtg_2k),
    "hpsv3": _specs(hpsv3),
    "lines": _quoted,
    "geneval": _geneval,
    "csv": csv_prompts,
    "folder": folder_prompts,
}
