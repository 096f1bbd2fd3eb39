"""``varl generate PROMPT -o cat.png``: draw images of a prompt on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from varl.cli.model import add_model, sampling_of, the_policy
from varl.cli.parser import Parser, add_sampling, count
from varl.policy.base import TrainablePolicy
from varl.policy.generate import Pixels, arrange, generate_by_scale

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def main(arguments: Sequence[str]) -> int:
    """Draw, write, print the paths.

    The exit status: 0, 1 where an image cannot be written, 2 for a bad flag, model or weights.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    policy = the_policy(parser, flags)
    try:
        for path in _write(policy, flags):
            sys.stdout.write(f"{path}\n")
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {flags.output} cannot be written: {error}\n")
        return 1
    except ValueError as error:  # the model cannot read this prompt
        parser.error(f"argument PROMPT: {error}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.generate", "Draws images of a prompt. A PNG carries the prompt, seed and sampler as text."
    )
    parser.add_argument("prompt", metavar="PROMPT", help="for example \"a red sign 'STAMP' at the middle\"")
    add_model(parser, Path("checkpoints/tiny_signs"))
    parser.add_argument(
        "-o",
        "--output",
        type=_image_path,
        default="image.png",
        metavar="FILE",
        help=f"{', '.join(FORMATS)}: the format",
    )
    parser.add_argument("-n", "--count", type=count(1), default=1, metavar="N", help="images, arranged in one picture")
    parser.add_argument("--seed", type=count(0), default=0, help="the same seed draws the same images")
    add_sampling(parser, 1.0, 0, 1.0, 0.0)
    parser.add_argument(
        "--scales", action="store_true", help="also write the picture after each scale, as FILE.scale1.png and so on"
    )
    parser.add_argument("--device", default="cpu", help="torch device: cpu, cuda, …")
    return parser


def _image_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} must end in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def _write(policy: TrainablePolicy, flags: argparse.Namespace) -> list[Path]:
    """Write the picture, and with --scales those before it; the paths in the order of writing."""
    steps = list(generate_by_scale(policy, flags.prompt, flags.count, flags.seed, sampling_of(flags)))
    facts = {
        "prompt": flags.prompt,
        "seed": str(flags.seed),
        "sampling": json.dumps(
            {name: getattr(flags, name) for name in ("temperature", "top_k", "top_p", "guidance", "guidance_schedule")}
        ),
        "model": str(flags.model),
        "weights": str(flags.weights or "base"),
    }
    output: Path = flags.output
    shown = (
        {output.with_name(f"{output.stem}.scale{step.scale + 1}{output.suffix}"): step for step in steps}
        if flags.scales
        else {}
    )
    pictures = {path: step.pixels for path, step in shown.items()} | {output: steps[-1].pixels}
    for path, pixels in pictures.items():
        _save(pixels, path, facts)
    return list(pictures)


def _save(images: Pixels, path: Path, facts: dict[str, str]) -> None:
    text = PngInfo()
    for name, value in facts.items():
        text.add_itxt(name, value)
    kind = FORMATS[path.suffix.lower()]
    Image.fromarray(arrange(images)).save(path, kind, **({"pnginfo": text} if kind == "PNG" else {"quality": 95}))
