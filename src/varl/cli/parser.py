"""argparse as the sub-commands use it: their program's name, hints for mistyped flags, and numbers within bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from varl.launch.program import explain_flags, program


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says a flag's default where there is one: None, False and an empty list tell a reader nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default == []
        return action.help if nothing else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Flags of a sub-command; whatever is wrong with them ends the process with status 2 and a message."""

    def __init__(self, module: str, description: str) -> None:
        super().__init__(prog=program(module), description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and what a mistyped flag was meant to be."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        super().error(explain_flags(message, flags))


def count(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least ``least``."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    read.__name__ = "whole number"
    return read


def number(fits: Callable[[float], bool], bounds: str) -> Callable[[str], float]:
    """An argparse type: a finite number that ``fits``; ``bounds`` says which ones do, such as "above 0"."""

    def read(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not fits(value):
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {text}")
        return value

    read.__name__ = "number"
    return read


def add_sampling(
    parser: argparse.ArgumentParser,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    cfg: float | None,
) -> None:
    """Add --temperature, --top-k, --top-p and --guidance with these defaults."""
    above_0, share = number(lambda x: x > 0, "above 0"), number(lambda x: 0 < x <= 1, "above 0 and at most 1")
    parser.add_argument(
        "--temperature", type=above_0, default=temperature, metavar="T", help="the logits are divided by it"
    )
    parser.add_argument(
        "--top-k", type=count(0), default=top_k, metavar="K", help="codes kept at each site; 0 keeps all, 1 is greedy"
    )
    parser.add_argument(
        "--top-p", type=share, default=top_p, metavar="P", help="probability mass kept at each site; 1 keeps all"
    )
    parser.add_argument(
        "--guidance",
        type=number(lambda x: x >= 0, "at least 0"),
        default=cfg,
        metavar="G",
        help="classifier-free guidance; 0 for none",
    )
