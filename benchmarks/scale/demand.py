"""GPU-seconds of the parts of one group and one update at the papers' settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import ceil

from benchmarks.scale import assumptions as given
from benchmarks.scale.flops import Pass, bandwidth_share, cache_bytes, decoder_flops, flops, seconds, sizes
from benchmarks.scale.stages import drawing, teaching
from benchmarks.scale.traffic import TASKS, weight_bytes
from varl.policy.base import cells

CONFIG = given.NEXTFLOW_7B
CELLS = tuple(cells(CONFIG.grids))
BRANCHES = {True: (given.TEXT_TOKENS, given.EMPTY_TEXT_TOKENS), False: (given.TEXT_TOKENS,)}


@dataclass(frozen=True)
class Demand:
    """Seconds on one GPU to sample and decode a group, score its images with HPSv3, and train on one candidate."""

    kind: str
    images: int
    group: int
    draw: float
    decode: float
    hpsv3: float
    candidate: float

    @property
    def rollout(self) -> float:
        """Seconds of a rollout GPU for the group."""
        return self.draw + self.decode

    @property
    def update(self) -> float:
        """Seconds of a trainer GPU for all candidates of the group."""
        return self.group * self.candidate


def sequence_bytes(guided: bool = True) -> int:
    """Memory of one sequence while its last scale is drawn.

    Keys and values of every branch, the branches' logits and the probabilities.
    """
    branches = BRANCHES[guided]
    logits = (len(branches) + 1) * CELLS[-1] * CONFIG.tokenizer.codes * given.LOGIT_BYTES
    return sum(text + sum(CELLS[1:]) for text in branches) * cache_bytes(CONFIG) + logits


def sample_batch(card: given.Card, guided: bool = True) -> int:
    """Sequences that fit beside the weights, rounded down to a power of two."""
    room = card.memory * given.USABLE - weight_bytes()
    return 1 << (int(room // sequence_bytes(guided)).bit_length() - 1)


def group_passes(kind: str, card: given.Card, guided: bool = True) -> list[Pass]:
    """Transformer passes of a group in a rollout worker."""
    return drawing(CELLS, TASKS[kind], sample_batch(card, guided), BRANCHES[guided])


def image_passes(guided: bool = True) -> list[Pass]:
    """Transformer passes of one image on its own."""
    return drawing(CELLS, replace(TASKS["full"], group=1), 1, BRANCHES[guided])


def image_flops(guided: bool) -> float:
    """FLOPs of drawing one image's tokens on its own."""
    return sum(flops(CONFIG, run) for run in image_passes(guided))


def bandwidth_bound(kind: str, card: given.Card, rates: given.Rates) -> float:
    """Share of a group's drawing time that memory bandwidth bounds, in [0, 1]."""
    return bandwidth_share(CONFIG, group_passes(kind, card), card, rates.draw)


def candidate_flops(kind: str) -> float:
    """FLOPs of training on one candidate: forward, recomputed forward, backward and the reference model's forward."""
    return given.UPDATE_FORWARDS * sum(flops(CONFIG, run) for run in teaching(CELLS, TASKS[kind], given.TEXT_TOKENS))


@cache
def demand(kind: str, card: given.Card, rates: given.Rates, guided: bool = True) -> Demand:
    """What one group of a kind asks of each part."""
    task = TASKS[kind]
    return Demand(
        kind=kind,
        images=task.images,
        group=task.group,
        draw=seconds(CONFIG, group_passes(kind, card, guided), card, rates.draw),
        decode=task.images * decoder_flops() / (card.flops * rates.decode),
        hpsv3=task.images / hpsv3_images_per_second(card, rates),
        candidate=candidate_flops(kind) / (card.flops * rates.update),
    )


def hpsv3_images_per_second(card: given.Card, rates: given.Rates) -> float:
    """Images that one HPSv3 GPU scores in a second."""
    return card.flops * rates.hpsv3 / given.HPSV3_FLOPS


def least_trainers(card: given.Card) -> int:
    """GPUs over which weights, gradients, optimiser and reference model must be split to fit."""
    room = card.memory * given.USABLE - given.TRAINER_WORKSPACE
    return ceil(given.TRAINER_BYTES * sizes(CONFIG).parameters / room)
