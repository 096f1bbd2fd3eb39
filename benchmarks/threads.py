"""Milliseconds of a training step of the tiny model for each way in which OpenMP's threads wait.

It is measured on an idle machine and on a loaded one:

    .venv/bin/python benchmarks/threads.py

PyTorch brings GNU's libgomp, whose waiting thread spins GOMP_SPINCOUNT times before it sleeps: 300,000 unless told
otherwise, some milliseconds, in which it keeps a core from the thread that it waits for as soon as others want the
cores too. Settings take turns, each time in a process of its own, idle and then loaded, so that what else happens on
the machine meets all of them. Idle samples are taken in the real-time class where this user may, ahead of all other
work, and the least of them counts; of the loaded ones the median.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean, median

import torch

import varl.policy.nextflow
from benchmarks.shared import Row, report
from varl.launch.cores import usable_cores
from varl.launch.threads import SPIN_COUNT
from varl.policy.nextflow import NextFlowPolicy
from varl.trainer.recipe.sections import ObjectiveSettings, OptimizerSettings
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import UpdateOutcome, Updater

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "checkpoints" / "tiny"
PROMPT = "a red sign that says 'BREAD'"
CANDIDATES, THREADS = 4, 2
PATIENCE_S = 4.0  # a sample ends after its steps or this time: spinning threads can take seconds for a step
SPINNING = "300000, libgomp's own"
SETTINGS = {SPINNING: 300_000, **{str(count): count for count in (1_000, 300, 0)}}
IDLE, LOADED = "idle", "loaded"
Sample = dict[str, float]  # wall, cpu: milliseconds a step. norm: gradient norm of the first step


def main() -> None:
    """Run the rounds and leave the result."""
    parser = argparse.ArgumentParser(prog="python benchmarks/threads.py", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=5, help="samples of each setting, idle and loaded (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of a sample (default: %(default)s)")
    parser.add_argument(
        "--measure", action="store_true", help="be the measured process: a sample for each line of stdin, as JSON"
    )
    args = parser.parse_args()
    if args.measure:
        measure(args.steps)
        return
    samples = {(name, loaded): list[Sample]() for name in SETTINGS for loaded in (False, True)}
    for _ in range(args.rounds):
        for name in SETTINGS:
            for loaded, one in zip((False, True), idle_and_loaded(SETTINGS[name], args.steps), strict=True):
                samples[name, loaded].append(one)
                print(
                    f"{name}, {'loaded' if loaded else 'idle'}: {one['wall']:.1f} ms, CPU {one['cpu']:.1f} ms",
                    flush=True,
                )
    check_same_numbers([found[0]["norm"] for found in samples.values()])
    settings: Row = {
        "threads": THREADS,
        "candidates": CANDIDATES,
        "steps": args.steps,
        "rounds": args.rounds,
        "chosen": SPIN_COUNT,
    }
    report("threads", settings, rows(samples))


def idle_and_loaded(spins: int, steps: int) -> tuple[Sample, Sample]:
    """Two samples of a process whose threads spin so many times; the load comes once it is warm."""
    environment = {**os.environ, "GOMP_SPINCOUNT": str(spins), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, __file__, "--measure", "--steps", str(steps)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        idle = next_sample(process, IDLE)
        with busy_cores():
            return idle, next_sample(process, LOADED)


def next_sample(process: subprocess.Popen[str], condition: str) -> Sample:
    """Have the process measure, and wait for the result."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{condition}\n")
    process.stdin.flush()
    found: Sample = json.loads(process.stdout.readline())
    return found


@contextmanager
def busy_cores() -> Iterator[None]:
    """A process on each core that does nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_cores())]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(steps: int) -> None:
    """Print a sample of at most ``steps`` updates of the tiny model on one group for each line of stdin.

    The first update is left out.
    """
    torch.set_num_threads(THREADS)
    policy, reference = (varl.policy.nextflow.load(MODEL) for _ in range(2))
    updater = Updater(policy, reference, ObjectiveSettings(), OptimizerSettings())
    group = group_of(policy)
    norm = step(updater, group, 0)
    for line in sys.stdin:
        go_ahead_of_others(line.strip() == IDLE)
        print(json.dumps(sample(updater, group, steps) | {"norm": norm}), flush=True)


def go_ahead_of_others(ahead: bool) -> None:
    """Put all threads of this process into the real-time class, or back.

    Without the right to, they stay where they are.
    """
    policy, priority = (os.SCHED_RR, 1) if ahead else (os.SCHED_OTHER, 0)
    with suppress(PermissionError):
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


def sample(updater: Updater, group: GroupBatch, steps: int) -> Sample:
    """Means over the steps that fit into PATIENCE_S."""
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    while done < steps and time.perf_counter() - wall < PATIENCE_S:
        done += 1
        step(updater, group, done)
    return {"wall": 1000 * (time.perf_counter() - wall) / done, "cpu": 1000 * (time.process_time() - cpu) / done}


def group_of(policy: NextFlowPolicy) -> GroupBatch:
    """Random candidates of whole images, half of them with a reward.

    They are stale, so that a step may move them off their log-probabilities.
    """
    steps = tuple(height * width for height, width in policy.grids)
    tokens = torch.randint(
        policy.config.tokenizer.codes, (CANDIDATES, sum(steps)), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        reported = policy.distribution(PROMPT, tokens, 0).log_prob(tokens)
    total = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(CANDIDATES // 2)
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    rewards = total[:, None]
    return GroupBatch(
        PROMPT, range(len(steps)), steps, tokens, reported, mask, {"ocr": rewards}, rewards, total, staleness=1
    )


def step(updater: Updater, group: GroupBatch, number: int) -> float:
    """Norm of the gradient of one update."""
    outcome, metrics = updater.update([group], number, by_scale=False)
    if outcome is not UpdateOutcome.STEPPED:
        raise SystemExit(f"no step was taken, so its time says nothing: {outcome.value}")
    return metrics["grad_norm"]


def check_same_numbers(norms: list[float]) -> None:
    """How threads wait must change no number."""
    if len(set(norms)) != 1:
        raise SystemExit(f"gradient norms differ between settings: {sorted(set(norms))}")


def rows(samples: Mapping[tuple[str, bool], list[Sample]]) -> list[Row]:
    """A row for each setting, its ratios to libgomp's own setting last."""
    idle = {name: min(one["wall"] for one in samples[name, False]) for name in SETTINGS}
    loaded = {name: median(one["wall"] for one in samples[name, True]) for name in SETTINGS}
    return [
        {
            "spins": name,
            "idle ms": idle[name],
            "idle CPU ms": fmean(one["cpu"] for one in samples[name, False]),
            "loaded ms": loaded[name],
            "loaded / idle": loaded[name] / idle[name],
            "idle / spinning idle": idle[name] / idle[SPINNING],
            "loaded / spinning loaded": loaded[name] / loaded[SPINNING],
        }
        for name in SETTINGS
    ]


if __name__ == "__main__":
    main()
