"""Groups per second of 1 to 64 fake workers on the real queue.

In one stream, and update by update as the trainer collects them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scale.measured import line
from benchmarks.scale.redis_load import redis_cpu
from benchmarks.scale.traffic import LAYOUT, job_of_kind, trajectory_bytes, trajectory_of
from benchmarks.shared import Row
from varl.launch.supervisor import tied_to_this_process
from varl.trajectories.codec import encode_trajectory
from varl.trajectories.collect import Patience, collect
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import rollout_pb2

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS = (1, 2, 4, 8, 16, 32, 64)
PROCESSES = 8
START_TIMEOUT_S = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """Fake workers that answer jobs of one kind after so many seconds each."""

    kind: str
    seconds: float
    workers: int

    @property
    def case(self) -> str:
        """As it stands in the results."""
        return f"{self.kind}, {self.seconds:g} s a group"


def stream(url: str, load: Load, window: float) -> Iterator[Row]:
    """Rate over ``window`` seconds while there are always jobs waiting, counted once every worker has delivered."""
    run_id = f"stream-{load.kind}-{load.seconds:g}-{load.workers}"
    client = connect(url)
    trainer = RunQueue(client, run_id, "trainer")
    trainer.submit([job_of_kind(load.kind, index, run_id) for index in range(2 * load.workers + 16)])
    with fake_workers(url, run_id, load):
        _wait_for_all(trainer, run_id, load)
        groups, redis_before, busy_before, start = 0, redis_cpu(client), _busy_seconds(), time.perf_counter()
        while (elapsed := time.perf_counter() - start) < window:
            groups += _turn(trainer, run_id, load.kind)[0]
        redis_used, busy = redis_cpu(client) - redis_before, _busy_seconds() - busy_before
    trainer.purge(0)
    yield line("stream", load.case, groups / elapsed, "groups/s", load.workers)
    yield line("stream", load.case, groups * trajectory_bytes(load.kind) / elapsed / 1e6, "MB/s", load.workers)
    yield line("stream", load.case, redis_used / elapsed, "cores, redis", load.workers)
    yield line("stream", load.case, busy / elapsed, "cores, whole machine", load.workers)


def _wait_for_all(trainer: RunQueue, run_id: str, load: Load) -> None:
    """Until every worker has delivered. Raises RuntimeError where one does not."""
    seen, deadline = set[str](), time.monotonic() + START_TIMEOUT_S + load.seconds
    while len(seen) < load.workers:
        seen |= _turn(trainer, run_id, load.kind)[1]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(seen)} of {load.workers} workers have delivered")


def _turn(trainer: RunQueue, run_id: str, kind: str) -> tuple[int, set[str]]:
    """Take in what has come and queue as many new jobs; how many, and from whom."""
    received = trainer.receive(64, 500)
    trainer.acknowledge([got.entry_id for got in received])
    trainer.submit([job_of_kind(kind, got.message.group.job.group + 10_000, run_id) for got in received])
    return len(received), {got.message.group.worker for got in received}


def updates(url: str, load: Load, prompts: int, count: int) -> Iterator[Row]:
    """Rate over ``count`` updates of ``prompts`` groups, by the trainer's own ``collect``.

    None begins before the last one is whole.
    """
    run_id = f"updates-{load.kind}-{prompts}-{load.workers}"
    trainer = RunQueue(connect(url), run_id, "trainer")
    jobs = [job_of_kind(load.kind, index, run_id) for index in range(prompts)]
    with fake_workers(url, run_id, load):
        _collect(trainer, jobs)  # the processes start during this one
        start = time.perf_counter()
        for _ in range(count):
            _collect(trainer, jobs)
        wall = time.perf_counter() - start
    yield line("updates", f"{load.case}, {prompts} prompts an update", count * prompts / wall, "groups/s", load.workers)


def _collect(trainer: RunQueue, jobs: Sequence[rollout_pb2.RolloutJob]) -> None:
    collected = collect(trainer, jobs, LAYOUT, Patience(timeout_s=60, max_attempts=1))
    if len(collected.groups) != len(jobs):
        raise RuntimeError(f"{len(collected.groups)} of {len(jobs)} groups came back")
    trainer.acknowledge(collected.entry_ids)


@contextmanager
def fake_workers(url: str, run_id: str, load: Load) -> Iterator[None]:
    """The load's workers, spread over up to eight processes that end with the block."""
    with tempfile.TemporaryDirectory() as directory:
        template = Path(directory) / "group"
        template.write_bytes(encode_trajectory(trajectory_of(job_of_kind(load.kind))))
        common = ["--url", url, "--run-id", run_id, "--template", str(template), "--seconds", str(load.seconds)]
        shares = [range(first, load.workers, PROCESSES) for first in range(min(PROCESSES, load.workers))]
        processes = [_start([*common, "--workers", str(load.workers), "--mine", *map(str, share)]) for share in shares]
        try:
            yield
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    command = [*tied_to_this_process(), sys.executable, "-m", "benchmarks.scale.fake_worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def _busy_seconds() -> float:
    """Processor seconds of everything on this machine that was not idle."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS
