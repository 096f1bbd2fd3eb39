"""``varl convert DIR``: published Infinity files as a model folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from varl.cli.parser import Parser, number
from varl.policy.infinity.convert import convert, preset_name
from varl.policy.infinity.hub import PUBLISHED, fetch
from varl.policy.infinity.schedule import SIZES, nearest_template
from varl.policy.load import DtypeName, torch_dtype


def main(arguments: Sequence[str]) -> int:
    """Convert and say what was written.

    The exit status: 0, 1 where files cannot be had, do not fit or cannot be written, 2 for a bad flag.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    _check(parser, flags)
    try:
        transformer, tokenizer, size = _files(flags)
        config = convert(
            transformer,
            tokenizer,
            flags.output,
            nearest_template(flags.aspect_ratio),
            SIZES[size],
            torch_dtype(flags.dtype),
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    height, width = config.image_size
    sys.stdout.write(f"{flags.output}: Infinity {preset_name(config)}, images of {height} x {width} pixels\n")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.convert",
        "Turns published Infinity files into a model folder. The prompts' rows come next: varl encode.",
    )
    parser.add_argument("output", type=Path, metavar="DIR", help="the model folder that is written")
    parser.add_argument(
        "--transformer", type=Path, metavar="PATH", help=".pth or .safetensors file, or folder of shards with an index"
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="such as infinity_vae_d32reg.pth")
    parser.add_argument("--hub", metavar="REPOSITORY", help="instead of both, download: FoundationVision/Infinity")
    parser.add_argument("--model", choices=tuple(PUBLISHED), default="125M", help="which one of --hub")
    parser.add_argument(
        "--size", choices=tuple(SIZES), help="pixels of the images; default: what the model of --hub was trained for"
    )
    parser.add_argument(
        "--aspect-ratio",
        type=number(lambda x: x > 0, "above 0"),
        default=1.0,
        metavar="R",
        help="height over width; the nearest of the published templates is taken",
    )
    parser.add_argument("--dtype", choices=get_args(DtypeName), default="float32", help="of the transformer's weights")
    return parser


def _check(parser: Parser, flags: argparse.Namespace) -> None:
    if flags.hub and (flags.transformer or flags.tokenizer):
        parser.error("argument --hub: not with --transformer or --tokenizer")
    if flags.hub:
        return
    for flag in ("transformer", "tokenizer", "size"):
        if getattr(flags, flag) is None:
            parser.error(f"argument --{flag}: needed unless there is --hub")
    for flag in ("transformer", "tokenizer"):
        if not getattr(flags, flag).exists():
            parser.error(f"argument --{flag}: there is no {getattr(flags, flag)}")


def _files(flags: argparse.Namespace) -> tuple[Path, Path, str]:
    if not flags.hub:
        return flags.transformer, flags.tokenizer, flags.size
    model = PUBLISHED[flags.model]
    return *fetch(flags.hub, model), flags.size or model.size
