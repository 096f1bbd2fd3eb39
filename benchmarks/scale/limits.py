"""At how many GPUs each shared part becomes the limit: its capacity over what a GPU of the planned mix asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import sqrt

from benchmarks.scale import assumptions as given
from benchmarks.scale.demand import demand, hpsv3_images_per_second
from benchmarks.scale.measured import Results
from benchmarks.scale.mix import Cluster, Forecast, best_mix, cycle_mean, distribution_seconds
from benchmarks.scale.traffic import raw_image_bytes, trajectory_bytes

LARGE = 512  # GPUs of the mix whose proportions are scaled up and down
GROWING = 2 * LARGE  # its prompts: as many for each GPU as the paper's 16 are for 8
POLLS_A_SECOND = 2  # of an idle worker (services/rollout/worker.py, BLOCK_MS)
WEIGHT_SHARE = 0.25  # of an update, from which on weight distribution is called the limit
MANY, FEW = 512, 64  # jobs in hand in the two measurements of an idle poll


@dataclass(frozen=True)
class Limit:
    """A shared part, what bounds it, and the GPUs of the planned cluster that reach that bound."""

    part: str
    bound: str
    gpus: float


@dataclass(frozen=True)
class Replica:
    """A part that grows by copies: how many rollout GPUs one of them serves."""

    part: str
    capacity: float  # images/s
    rollout_gpus: float


def mean(of: Callable[[str], float]) -> float:
    """The mean over prefix and suffix groups in the paper's proportion."""
    return cycle_mean(of("prefix"), of("suffix"))


def growing_forecast() -> Forecast:
    """The planned mix of a large cluster whose prompts have grown with it."""
    return best_mix(Cluster(LARGE, GROWING))


def limits(results: Results) -> list[Limit]:
    """All limits, the first to be met first."""
    rate = growing_forecast().groups_per_second / LARGE
    rates = {
        "Redis: one core": _groups_per_second(results, "redis"),
        "Redis: a 10 Gb/s link, groups in and out": given.REDIS_NETWORK / (2 * mean(trajectory_bytes)),
        "trainer: groups taken in one after another": _groups_per_second(results, "trainer", "redis"),
    }
    found = [Limit(part, f"{capacity:.0f} groups/s", capacity / rate) for part, capacity in rates.items()]
    found += [
        Limit("rollout, at the paper's 16 prompts", "16 groups at a time, one to a GPU", fixed_prompts_gpus()),
        Limit("weights through the shared store", f"{WEIGHT_SHARE:.0%} of an update", weights_gpus()),
        Limit("Redis: polls of idle workers, half of all", "one core", polls_gpus(results)),
    ]
    return sorted(found, key=lambda limit: limit.gpus)


def _groups_per_second(results: Results, *who: str) -> float:
    """Where those parts work on a group in turn, each on a core of its own."""
    return 1e6 / mean(lambda kind: sum(results.value("redis", kind, f"{part} CPU us a group") for part in who))


def fixed_prompts_gpus() -> int:
    """The smallest cluster that draws 16 prompts in one wave: from there on no further rollout GPU has work."""
    return next(gpus for gpus in count(8) if best_mix(Cluster(gpus, given.PROMPTS)).mix.rollout == given.PROMPTS)


def weights_gpus() -> int:
    """The smallest cluster whose weights take a quarter of an update to reach the workers.

    The number of prompts grows with the cluster.
    """
    large = growing_forecast()
    work = large.phases.rollout + large.phases.update
    share = large.mix.rollout / LARGE

    def taken(gpus: int) -> float:
        spent = distribution_seconds(round(gpus * share))
        return spent / (work + spent)

    return next(gpus for gpus in count(given.GPUS_A_NODE, given.GPUS_A_NODE) if taken(gpus) >= WEIGHT_SHARE)


def polls_gpus(results: Results) -> float:
    """Where idle polls fill one core, half of the workers being idle.

    A poll looks through all jobs in hand, so the cost is quadratic.
    """
    few, many = (poll_us(results, jobs) for jobs in (FEW, MANY))
    slope = (many - few) / (MANY - FEW)
    fixed = few - slope * FEW
    # POLLS/2 w (fixed + slope w / 2) = 1e6 for w workers
    a, b = slope * POLLS_A_SECOND / 4, fixed * POLLS_A_SECOND / 2
    workers = (sqrt(b**2 + 4e6 * a) - b) / (2 * a)
    return workers * LARGE / growing_forecast().mix.rollout


def poll_us(results: Results, jobs: int) -> float:
    """Microseconds of Redis for the poll of an idle worker while others have ``jobs`` in hand."""
    return results.value("redis", f"idle poll, {jobs} jobs in hand", "redis CPU us a poll")


def images_per_second() -> float:
    """Images that one rollout GPU sends to the rewards while it works, on prefix groups, which have the most."""
    need = demand("prefix", given.H100, given.PLANNED)
    return need.images / need.rollout


def replicas(results: Results) -> list[Replica]:
    """How far one copy of each reward part goes."""
    ocr = 1e3 / results.value("images", "OCR of 1024x1024, four signs", "CPU ms")
    png = 1e3 / results.value("images", "PNG of a photograph", "CPU ms")
    found = {
        "HPSv3, one H100": hpsv3_images_per_second(given.H100, given.PLANNED),
        "HPSv3 replica's 10 Gb/s, raw images": given.REDIS_NETWORK / raw_image_bytes(),
        "OCR, one core": ocr,
        "rollout worker's PNG files, one core": png,
    }
    return [Replica(part, capacity, capacity / images_per_second()) for part, capacity in found.items()]
