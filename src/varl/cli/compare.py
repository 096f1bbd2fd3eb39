"""``varl compare RUN_A RUN_B``: two finished runs, paired by held-out prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from varl.cli.parser import Parser
from varl.studies.compare import compare


def main(arguments: Sequence[str]) -> int:
    """Print the comparison.

    The exit status: 0, 1 where the runs cannot be compared, 2 for a bad flag.
    """
    parser = Parser("varl.cli.compare", "Compares two finished runs: settings, and figures paired by held-out prompt.")
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="a finished run's directory, such as runs/demo")
    first, second = parser.parse_args(arguments).runs
    try:
        sys.stdout.write(compare(first, second))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    return 0
