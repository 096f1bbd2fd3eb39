"""``varl score IMAGE … --prompt TEXT``: ask a running reward service, or one that is started for the call."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from varl.cli.parser import Parser
from varl.cli.rewards import URL, add_service, reward_client
from varl.client import Outcome, RewardError, Score, Scores
from varl.launch.supervisor import ChildDiedError, sigterm_as_exit


def main(arguments: Sequence[str]) -> int:
    """Score and print.

    The exit status: 0, 1 where an image has no score or nobody answers, 2 for a bad flag, 130 for Ctrl-C.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        with sigterm_as_exit(), reward_client(parser, flags) as client:
            count, images = len(flags.images), [path.read_bytes() for path in flags.images]
            found = client.score(images, [flags.prompt or ""] * count, target_words=[flags.target] * count)
    except KeyboardInterrupt:
        return 130
    except (RewardError, ChildDiedError, TimeoutError, OSError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    sys.stdout.write(_json(flags.images, found) if flags.json else _table(flags.images, found))
    return 0 if all(isinstance(outcome, Score) for scores in found.values() for outcome in scores.outcomes) else 1


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.score",
        "Scores image files by a running reward service or gateway, or by a service started for the call.",
    )
    parser.add_argument("images", nargs="+", type=_image, metavar="IMAGE", help="PNG, JPEG or WebP files")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what all of the images were made from, for rewards that judge by it; OCR looks for its quoted words",
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="WORD", help="a word to look for; may be given several times"
    )
    add_service(parser, URL)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _image(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def _json(images: Sequence[Path], found: Mapping[str, Scores]) -> str:
    """An object by reward: the models that answered, and a score or an error for each image."""
    record: dict[str, Any] = {
        name: {
            "models": [asdict(model) for model in scores.models],
            "images": [
                {"image": str(path), **_fields(outcome)} for path, outcome in zip(images, scores.outcomes, strict=True)
            ],
        }
        for name, scores in found.items()
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _fields(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) if isinstance(outcome, Score) else {"error": asdict(outcome)}


def _table(images: Sequence[Path], found: Mapping[str, Scores]) -> str:
    """A line for each image and reward: value, components, words that were read; or why there is no score."""
    rows = [
        (str(path), name, *_cells(outcome))
        for name, scores in found.items()
        for path, outcome in zip(images, scores.outcomes, strict=True)
    ]
    widths = [max(len(cell) for cell in column) for column in list(zip(*rows, strict=True))[:-1]]
    return "".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]) + "\n"
        for row in rows
    )


def _cells(outcome: Outcome) -> tuple[str, str]:
    if not isinstance(outcome, Score):
        return "-", f"{outcome.code}: {outcome.detail}"
    parts = [f"{name} {value:.3f}" for name, value in outcome.components.items()]
    words = [f"read: {' '.join(word.text for word in outcome.words)}"] if outcome.words else []
    return f"{outcome.value:.3f}", ", ".join([*parts, *words])
