"""Servers to compare with, each started as a process of its own by ``benchmarks.serving.processes.running``."""

from __future__ import annotations

import argparse


def flags() -> argparse.Namespace:
    """The flags that every server takes; none of these serves gRPC."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--batch", type=int, default=1)
    return parser.parse_args()
