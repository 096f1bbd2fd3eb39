"""``varl report RUN_DIR [--beside RUN]``: write report.html again from the files that the run left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from varl.cli.parser import Parser
from varl.studies.compare import comparison
from varl.studies.report.report import write_report


def main(arguments: Sequence[str]) -> int:
    """Write the page and print its path.

    The exit status: 0, 1 where a file of the run is absent or damaged, 2 for a bad flag.
    """
    parser = Parser("varl.cli.report", "Writes report.html of a run directory again, from the files that the run left.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a finished run's directory, such as runs/demo")
    parser.add_argument(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="another finished run, read on the same prompts and seeds, to compare with; may be given again",
    )
    flags = parser.parse_args(arguments)
    directory: Path = flags.run_dir
    try:
        beside = [comparison(other, directory) for other in flags.beside]
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: --beside: {error}\n")
        return 1
    try:
        sys.stdout.write(f"{write_report(directory, beside)}\n")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {directory} holds no finished run: {error}\n")
        return 1
    return 0
