"""Measure everything, print one table, write benchmarks/results/serving.json."""

from __future__ import annotations

import argparse
import os

from benchmarks.serving import liveness, ocr, overhead, overload, poison
from benchmarks.serving.processes import CLIENT_CORE, SERVER_CORE, on_core
from benchmarks.shared import report


def main() -> None:
    """Keep to the client's core; each server is put on the other one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each probe and of the overload (default: %(default)s)"
    )
    parser.add_argument(
        "--requests", type=int, default=4000, help="of one repetition of the no-op loads (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=160, help="of one round of the OCR servers (default: %(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=5, help="of both (default: %(default)s)")
    arguments = parser.parse_args()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    with on_core(CLIENT_CORE):
        rows = [
            *overhead.measure(arguments.requests, arguments.repetitions),
            *ocr.measure(arguments.images, arguments.repetitions),
            *poison.measure(),
            *liveness.measure(arguments.seconds),
            *overload.measure(arguments.seconds),
        ]
    cores = f"{SERVER_CORE} server, {CLIENT_CORE} clients"
    report(
        "serving", {"cores": cores, "in flight": overhead.CLIENTS, "load average before": load, **vars(arguments)}, rows
    )


if __name__ == "__main__":
    main()
