"""The tables of docs/scale.md that rest on what was measured."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from benchmarks.scale import assumptions as given
from benchmarks.scale import limits as bounds
from benchmarks.scale.measured import Results
from benchmarks.scale.simulation import WORKERS
from benchmarks.scale.tables import Table
from benchmarks.scale.traffic import trajectory_bytes
from varl.trainer.recipe.sections import CheckpointSettings


def limits(results: Results) -> Table:
    """Where each shared part becomes the limit."""
    rows = [[limit.part, limit.bound, f"{float(f'{limit.gpus:.2g}'):,.0f}"] for limit in bounds.limits(results)]
    return [["part", "what bounds it", "GPUs of the cluster"], *rows]


def replicas(results: Results) -> Table:
    """How many rollout GPUs one copy of a part serves."""
    rows = [[part.part, f"{part.capacity:.1f}", f"{part.rollout_gpus:.1f}"] for part in bounds.replicas(results)]
    return [["one copy of", "images/s", "serves rollout GPUs"], *rows]


def redis(results: Results) -> Table:
    """The costs of a group, and of an idle poll."""
    units = {
        "redis CPU us a group": "redis-server, CPU µs",
        "worker CPU us a group": "worker: take, encode, publish, CPU µs",
        "trainer CPU us a group": "trainer: receive, decode, acknowledge, CPU µs",
        "bytes of memory a group kept": "memory of Redis until acknowledged, bytes",
        "groups/s, one process doing all": "groups/s, one process doing all in turn",
        "MB/s, one process doing all": "MB/s, the same",
    }
    rows = [
        [name, *(f"{results.value('redis', kind, unit):,.0f}" for kind in ("prefix", "suffix"))]
        for unit, name in units.items()
    ]
    polls = [
        [f"idle poll, {jobs} jobs in hand, redis CPU µs", f"{bounds.poll_us(results, jobs):,.0f}", ""]
        for jobs in (64, 512)
    ]
    return [
        ["one group", "prefix", "suffix"],
        ["bytes", *(f"{trajectory_bytes(kind):,}" for kind in ("prefix", "suffix"))],
        *rows,
        *polls,
    ]


def memory(results: Results) -> Table:
    """Memory of Redis between two checkpoints at the default interval."""
    kept = bounds.mean(lambda kind: results.value("redis", kind, "bytes of memory a group kept"))
    every = CheckpointSettings().every
    rows = [[f"{prompts:,}", f"{every * prompts * kept / 1e9:.2f} GB"] for prompts in (given.PROMPTS, 128, 1024)]
    return [["prompts an update", f"groups of {every} updates"], *rows]


def images(results: Results) -> Table:
    """What an image costs outside the GPUs."""
    rows = [
        [case, *(_cell(results, case, unit) for unit in ("CPU ms", "bytes", "words read"))]
        for case in results.cases("images")
    ]
    return [["one image of 1024×1024, one thread", "CPU ms", "bytes", "words read"], *rows]


def _cell(results: Results, case: str, unit: str) -> str:
    found = results.curve("images", case, unit)
    return f"{found[0]:,.0f}" if found else ""


def stream(results: Results) -> Table:
    """Groups per second of fake workers that always have jobs waiting."""
    cases = results.cases("stream")
    curves = {case: results.curve("stream", case, "groups/s") for case in cases}
    rows = [
        [str(workers), *(f"{curves[case][workers]:.1f} of {workers / sleep(case):g}" for case in cases)]
        for workers in WORKERS
    ]
    return [
        ["workers", *cases],
        *rows,
        ["most MB/s", *(f"{max(results.curve('stream', case, 'MB/s').values()):.0f}" for case in cases)],
    ]


def updates(results: Results) -> Table:
    """Groups per second update by update, and what whole waves would give."""
    cases = results.cases("updates")
    curves = {case: results.curve("updates", case, "groups/s") for case in cases}
    rows = [
        [str(workers), *(f"{curves[case][workers]:.1f} of {wave_rate(case, workers):.1f}" for case in cases)]
        for workers in WORKERS
    ]
    return [["workers", *cases], *rows]


def sleep(case: str) -> float:
    """Seconds a group of a case such as "prefix, 0.25 s a group, 16 prompts an update"."""
    return float(case.split(", ")[1].removesuffix(" s a group"))


def wave_rate(case: str, workers: int) -> float:
    """Groups/s where an update's groups come in whole waves and nothing else takes time.

    The model of ``mix.phases``.
    """
    prompts = int(case.split(", ")[2].removesuffix(" prompts an update"))
    return prompts / (ceil(prompts / workers) * sleep(case))


def tiny(results: Results) -> Table:
    """The real worker of the tiny recipe beside a fake one."""
    units = (
        "s generating a group",
        "s from first image sent to last score",
        "groups/s, real worker",
        "groups/s, fake worker",
    )
    rows = [
        [f"{case} groups", *(f"{results.value('tiny', case, unit, 1):.2f}" for unit in units)]
        for case in results.cases("tiny")
    ]
    return [["tiny recipe, one worker", *units], *rows]


TABLES: dict[str, Callable[[Results], Table]] = {
    "limits": limits,
    "replicas": replicas,
    "redis": redis,
    "memory": memory,
    "images": images,
    "stream": stream,
    "updates": updates,
    "tiny": tiny,
}
