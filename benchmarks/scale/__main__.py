"""``python -m benchmarks.scale paper | simulate``.

The tables of docs/scale.md by arithmetic, and what is measured for them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.scale import charts, document, images, redis_load, simulation, tiny
from benchmarks.scale.measured import Results
from benchmarks.shared import Row, report
from varl.launch.private_redis import private_redis

LOADS = (("prefix", 1.0), ("suffix", 1.0), ("prefix", 0.1), ("suffix", 0.1))
PROMPTS = (16, 64)


def main() -> None:
    """Write what was asked for; both end with the tables of docs/scale.md and its charts made again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser(
        "paper", help="compute the tables again; takes what was measured from benchmarks/results/scale.json"
    )
    simulate = commands.add_parser(
        "simulate", help="measure Redis, the fake workers and the tiny recipe's worker first (10 minutes)"
    )
    simulate.add_argument(
        "--window", type=float, default=6.0, help="seconds that a rate is counted over (default: %(default)s)"
    )
    simulate.add_argument(
        "--groups", type=int, default=320, help="sent through Redis one by one (default: %(default)s)"
    )
    simulate.add_argument("--updates", type=int, default=2, help="collected for a rate (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.command == "simulate":
        _simulate(arguments.window, arguments.groups, arguments.updates)
    results = Results.read()
    document.write(results)
    charts.write(results)


def _simulate(window: float, groups: int, updates: int) -> None:
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    with tempfile.TemporaryDirectory() as directory, private_redis(Path(directory)) as url:
        rows = [*redis_load.measure(url, groups), *images.measure(), *_curves(url, window, updates), *tiny.measure(url)]
        settings: Row = {"redis": redis_load.version(url), "window": window, "groups": groups, "updates": updates}
    report("scale", {**settings, "load average before": load}, rows)


def _curves(url: str, window: float, updates: int) -> list[Row]:
    rows = list[Row]()
    for workers in simulation.WORKERS:
        for kind, seconds in LOADS:
            rows += simulation.stream(url, simulation.Load(kind, seconds, workers), window)
        for prompts in PROMPTS:
            rows += simulation.updates(url, simulation.Load("prefix", 0.25, workers), prompts, updates)
    return rows


if __name__ == "__main__":
    main()
