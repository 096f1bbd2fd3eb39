"""``varl encode DIR``: the text encoder's rows of prompts, kept in an Infinity model's folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from varl.cli.parser import Parser
from varl.policy.infinity.config import InfinityConfig
from varl.policy.infinity.text import ROWS, StoredRows, T5Rows, encode
from varl.trajectories.prompt_files import load_prompts


def main(arguments: Sequence[str]) -> int:
    """Compute the rows that are not there yet and say how many.

    The exit status: 0, 1 where the encoder or a file cannot be used or written, 2 for a bad flag.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    for name, folder in (("DIR", flags.model), ("--encoder", flags.encoder)):
        if not (folder / "config.json").is_file():
            parser.error(f"argument {name}: there is no folder {folder} with a config.json")
    try:
        config = InfinityConfig.read(flags.model).transformer
        prompts = [spec.prompt for file in flags.prompts for spec in load_prompts(file)]
        target = StoredRows(flags.model / ROWS, config)
        count = encode(prompts, T5Rows(flags.encoder, config, flags.device), target)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    sys.stdout.write(f"{target.path}: {count} prompts more\n")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.encode", "Computes the rows of prompts once, so that no worker and no trainer loads the text encoder."
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="an Infinity model's folder, as varl convert writes it")
    parser.add_argument(
        "--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSON Lines of prompts, as recipes have"
    )
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR", help="folder of flan-t5-xl")
    parser.add_argument("--device", default="cpu", help="torch device of the encoder: cpu, cuda, …")
    return parser
