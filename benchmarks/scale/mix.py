"""The mix of rollout, HPSv3 and trainer GPUs that makes the shortest update.

An integer search over a model of the trainer's loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from benchmarks.scale import assumptions as given
from benchmarks.scale.demand import Demand, demand, least_trainers
from benchmarks.scale.traffic import weight_bytes

Needs = Mapping[str, Demand]  # by kind of update: "prefix", "suffix"


@dataclass(frozen=True)
class Mix:
    """GPUs of each part; ``hpsv3`` is 0 where the reward is OCR alone, which runs on CPU cores."""

    rollout: int
    hpsv3: int
    trainer: int

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.rollout + self.hpsv3 + self.trainer


@dataclass(frozen=True)
class Cluster:
    """What is available: GPUs of one kind, and the number of prompts per update.

    hpsv3: whether HPSv3 scores the images. overlap: whether an update may overlap the next rollout.
    """

    gpus: int
    prompts: int
    card: given.Card = given.H100
    rates: given.Rates = given.PLANNED
    hpsv3: bool = True
    overlap: bool = False


@dataclass(frozen=True)
class Phases:
    """Seconds of one update: groups drawn and scored, trained on, weights handed to the workers."""

    rollout: float
    update: float
    weights: float

    @property
    def total(self) -> float:
        """Length of a strictly on-policy update, whose phases follow each other."""
        return self.rollout + self.update + self.weights


@dataclass(frozen=True)
class Forecast:
    """A mix and what it gives, averaged over three prefix updates and a suffix update."""

    mix: Mix
    phases: Phases
    seconds: float
    groups_per_second: float
    utilisation: float  # GPU-seconds of work over GPU-seconds of the whole cluster, in [0, 1]
    idle: int  # GPUs with no part to play


def distribution_seconds(workers: int) -> float:
    """Time from the end of an update until all rollout GPUs hold its weights.

    The GPUs of a node read the file once, through its cache.
    """
    size, nodes = weight_bytes(), ceil(workers / given.GPUS_A_NODE)
    return size / given.STORE_WRITE + max(size / given.NODE_READ, nodes * size / given.STORE_READ)


def phases(need: Demand, prompts: int, mix: Mix) -> Phases:
    """One update of a stage.

    A group is one job on one GPU, so groups come in whole waves, and candidates in whole passes.
    """
    waves, passes = ceil(prompts / mix.rollout), ceil(prompts * need.group / mix.trainer)
    scoring = prompts * need.hpsv3 / mix.hpsv3 if mix.hpsv3 else 0.0
    return Phases(max(waves * need.rollout, scoring), passes * need.candidate, distribution_seconds(mix.rollout))


def mean_phases(needs: Needs, prompts: int, mix: Mix) -> Phases:
    """The mean over ``PREFIX_PER_SUFFIX`` prefix updates and one suffix update."""
    prefix, suffix = phases(needs["prefix"], prompts, mix), phases(needs["suffix"], prompts, mix)
    return Phases(cycle_mean(prefix.rollout, suffix.rollout), cycle_mean(prefix.update, suffix.update), prefix.weights)


def overlapped_seconds(needs: Needs, prompts: int, mix: Mix) -> float:
    """Mean length of an update where the rollout of the next one runs beside it, on weights one version old."""
    cycle = [phases(needs["prefix"], prompts, mix)] * given.PREFIX_PER_SUFFIX + [phases(needs["suffix"], prompts, mix)]
    pairs = zip(cycle, [*cycle[1:], cycle[0]], strict=True)
    return sum(max(now.update, after.rollout + after.weights) for now, after in pairs) / len(cycle)


def best_mix(cluster: Cluster) -> Forecast:
    """The fastest mix of at most ``gpus`` GPUs, the smallest of equals. Raises ValueError where no mix fits."""
    needs = {kind: demand(kind, cluster.card, cluster.rates) for kind in ("prefix", "suffix")}

    def length(mix: Mix) -> float:
        if cluster.overlap:
            return overlapped_seconds(needs, cluster.prompts, mix)
        return mean_phases(needs, cluster.prompts, mix).total

    best = min(
        _mixes(cluster, needs["prefix"].group),
        key=lambda mix: (length(mix), sum((mix.rollout, mix.hpsv3, mix.trainer))),
        default=None,
    )
    if best is None:
        raise ValueError(f"{cluster.gpus} GPUs are too few")
    return _forecast(cluster, needs, best, length(best))


def _mixes(cluster: Cluster, group: int) -> Iterator[Mix]:
    """All mixes worth a look.

    No more trainers than candidates, rollout GPUs than the waves need, HPSv3 than an eighth.
    """
    for trainer in range(least_trainers(cluster.card), min(cluster.gpus, cluster.prompts * group + 1)):
        for hpsv3 in range(1, 1 + max(1, cluster.gpus // 8)) if cluster.hpsv3 else (0,):
            rollout = min(cluster.gpus - trainer - hpsv3, cluster.prompts)
            if rollout >= 1:
                yield Mix(ceil(cluster.prompts / ceil(cluster.prompts / rollout)), hpsv3, trainer)


def _forecast(cluster: Cluster, needs: Needs, mix: Mix, length: float) -> Forecast:
    work = {kind: need.rollout + bool(mix.hpsv3) * need.hpsv3 + need.update for kind, need in needs.items()}
    busy = cluster.prompts * cycle_mean(work["prefix"], work["suffix"])
    found = mean_phases(needs, cluster.prompts, mix)
    return Forecast(
        mix, found, length, cluster.prompts / length, busy / (cluster.gpus * length), cluster.gpus - mix.gpus
    )


def cycle_mean(prefix: float, suffix: float) -> float:
    """The mean over ``PREFIX_PER_SUFFIX`` prefix updates and one suffix update."""
    return (given.PREFIX_PER_SUFFIX * prefix + suffix) / (given.PREFIX_PER_SUFFIX + 1)
