"""Measure the models on one GPU with random weights, part by part: ``make bench-gpu``.

Every part runs in a process of its own, of nine minutes at most, and its figures are written to
benchmarks/results/gpu.json and docs/gpu.md before the next begins, so that what was measured stays whatever happens
later. Needs PyTorch and what lies in the folder of wheels beside it (``make gpu-wheels``); a part whose packages are
missing is left out, and the file says so. ``--device cpu --size tiny`` shows in a minute that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.document import write_table
from benchmarks.gpu.wheels import unpacked

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("matrix_rate", "hpsv3", "nextflow", "infinity", "update_nextflow", "update_infinity", "reward_path")
MINUTES = 9.0  # a part may take
Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run all parts, or be the process of one; 1 where a part failed."""
    given = _parser().parse_args(arguments)
    if given.part:
        return _one(given)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*unpacked(given.wheels), str(ROOT / "src"), str(ROOT)])}
    found: Figures = {"device": given.device, "size": given.size, "parts": {}}
    for name in given.parts.split(","):
        print(f"[gpu] {name}", flush=True)
        found["parts"][name] = _run(name, given, environment)
        print(json.dumps(found["parts"][name]), flush=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if given.table:
            write_table(found, given.table)
    return int(any("failed" in part for part in found["parts"].values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("--size", choices=["full", "tiny"], default="full", help="of the models")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas (default: all)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that a part may take (default: %(default)s)")
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "gpu-wheels", help="folder of wheels")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "gpu.md", help="page whose table is replaced")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser


def _run(name: str, given: argparse.Namespace, environment: dict[str, str]) -> Figures:
    """The figures of one part, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--device", given.device, "--size", given.size]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=60 * given.minutes
        )
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return _figures(text) | {"failed": f"took more than {given.minutes:g} minutes"}
    found = _figures(done.stdout) | {"part_s": time.monotonic() - began}
    return found if done.returncode == 0 else found | {"failed": f"exit code {done.returncode}; see the output"}


def _figures(text: str) -> Figures:
    """All lines of JSON that a part printed, joined: a part prints what it knows as soon as it knows it."""
    found: Figures = {}
    for line in text.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def _one(given: argparse.Namespace) -> int:
    from benchmarks.gpu.setting import open_setting

    try:
        measure = _measure_of(given.part)
    except ImportError as error:
        print(
            json.dumps({"skipped": f"{error.name or error} is missing here: put its wheel into the folder of wheels"})
        )
        return 0
    for figures in measure(open_setting(given.device, given.size)):
        print(json.dumps(figures), flush=True)
    return 0


def _measure_of(name: str) -> Any:  # noqa: ANN401
    from benchmarks.gpu import hpsv3, setting

    if name == "matrix_rate":
        return setting.measure
    if name == "hpsv3":
        return hpsv3.measure
    if name == "reward_path":
        from benchmarks.gpu import reward_path

        return reward_path.measure
    from benchmarks.gpu import models

    return models.MEASURES[name]


if __name__ == "__main__":
    raise SystemExit(main())
