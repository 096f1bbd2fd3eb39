"""``varl study FILE``: train every arm at every seed, and compare them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from varl.cli.parser import Parser, count
from varl.launch.supervisor import sigterm_as_exit
from varl.studies.study.plan import Study, arm_recipe, load_study, main_jobs, tuning_jobs
from varl.studies.study.run import Findings, Runner
from varl.studies.study.summary import write_summary
from varl.trainer.setup import PROBLEMS


def main(arguments: Sequence[str]) -> int:
    """Run what has no result yet and write the summary.

    The exit status: 0, 1 where a run failed, 2 for a bad flag or file, 130 for Ctrl-C; the study goes on when it is
    started again.
    """
    parser = Parser(
        "varl.cli.study", "Trains the arms of a study at its seeds and compares them, with paired intervals."
    )
    parser.add_argument("study", type=Path, metavar="FILE", help="TOML file, such as recipes/studies/method.toml")
    parser.add_argument(
        "--dir", type=Path, default=Path("runs/studies"), metavar="DIR", help="where the study's folder is made"
    )
    parser.add_argument("--only", action="append", metavar="ARM", help="run this arm alone; may be given several times")
    parser.add_argument("--so-far", action="store_true", help="train nothing: write the page of the finished runs")
    parser.add_argument(
        "--pace",
        type=count(1),
        metavar="ROUNDS",
        help="finish no run: train each arm for a few updates, in so many rounds, to time them side by side",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the runs and their sizes, then stop")
    flags = parser.parse_args(arguments)
    try:
        study = load_study(flags.study)
    except (OSError, ValueError) as error:
        parser.error(f"argument FILE: {error}")
    unknown = set(flags.only or ()) - study.arms.keys()
    if unknown:
        parser.error(f"argument --only: the study has no arm {', '.join(sorted(unknown))}")
    folder: Path = flags.dir / study.name
    if flags.dry_run:
        sys.stdout.write(_plan(study, folder))
        return 0
    found = _found(parser, Runner(study, folder, _say), flags)
    if isinstance(found, int):
        return found
    if flags.so_far and not found.runs:
        parser.error(f"argument FILE: no run of it is finished in {folder}")
    page = write_summary(folder, study, found, " ".join([parser.prog, *arguments]))
    sys.stdout.write(page.read_text(encoding="utf-8") + f"\n{page}\n")
    return 1 if found.failures else 0


def _found(parser: Parser, runner: Runner, flags: Namespace) -> Findings | int:
    """What the study found, or the exit status where it was stopped."""
    only: Sequence[str] = flags.only or ()
    try:
        with sigterm_as_exit():
            if flags.pace:
                runner.measure_pace(flags.pace, only)
            return runner.finished(only) if flags.pace or flags.so_far else runner.run(only)
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted; the same command goes on where it was\n")
        return 130
    except PROBLEMS as error:
        sys.stderr.write(f"{parser.prog}: {type(error).__name__}: {error}\n")
        return 1


def _plan(study: Study, folder: Path) -> str:
    """A line for each run: its updates; learning rates that are not chosen yet are the first of those tried."""
    first = study.tuning.learning_rates[0] if study.tuning else 1e-5
    rates = {name: arm.learning_rate or first for name, arm in study.arms.items()}
    jobs = [*tuning_jobs(study), *main_jobs(study, rates)]
    lines = [f"{job.arm}/{job.name}: {arm_recipe(study, job, folder).run.updates} updates" for job in jobs]
    return "\n".join([*lines, f"{len(jobs)} runs, in {folder}", ""])


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
