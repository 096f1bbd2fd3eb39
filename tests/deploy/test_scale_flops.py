"""The arithmetic of benchmarks/scale against the code that it stands for, run on small models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scale import assumptions as given
from benchmarks.scale import demand, flops
from benchmarks.scale.stages import FULL, PREFIX, SUFFIX, Task, drawing, teaching
from tests.support.trajectory_builders import make_job
from varl.policy.base import cells
from varl.policy.kv_cache import KeyValue, KVCache
from varl.policy.nextflow import NextFlowPolicy, build_random
from varl.policy.nextflow.transformer import Codes
from varl.services.rollout.generation import Limits, TokensStep, generate
from varl.v1 import rollout_pb2

PROMPT = "a red sign that says 'BREAD'"
TEXT = len(PROMPT) + 1  # bytes, and <boi>
TASKS = (
    Task(FULL, 0, 5, 1),
    Task(PREFIX, 3, 5, 2),
    Task(SUFFIX, 2, 5, 1),
    Task(PREFIX, 4, 3, 1),
    Task(SUFFIX, 4, 3, 1),
)


@pytest.fixture(scope="module")
def policy() -> NextFlowPolicy:
    return build_random()


@contextmanager
def recorded(policy: NextFlowPolicy) -> Iterator[Counter[tuple[str | int, ...]]]:
    """What the transformer is asked for: ("run", rows, new, seen) and ("head", rows, positions)."""
    first, draw = policy.module.layers[0], policy.module.sample
    seen, run, head = Counter[tuple[str | int, ...]](), first.forward, policy.module.visual_logits

    def spy_run(
        x: torch.Tensor, turn: KeyValue, past: Sequence[KeyValue], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, KeyValue]:
        seen["run", x.shape[0], x.shape[1], sum(keys.shape[2] for keys, _ in past)] += 1
        return run(x, turn, past, mask)  # type: ignore[no-any-return]

    def spy_sample(codes: Codes, caches: Sequence[KVCache], keep: bool) -> torch.Tensor:
        prompts, rows, new, _ = codes.vectors.shape
        assert prompts == 1
        for cache in caches:
            seen["run", rows, new, cache.length - new * keep] += 1
        return draw(codes, caches, keep)

    def spy_head(hidden: torch.Tensor) -> torch.Tensor:
        seen["head", hidden.shape[0], hidden.shape[1]] += 1
        return head(hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "forward", spy_run)
        patch.setattr(policy.module, "sample", spy_sample)
        patch.setattr(policy.module, "visual_logits", spy_head)
        yield seen


def counted(runs: list[flops.Pass]) -> Counter[tuple[str | int, ...]]:
    seen = Counter[tuple[str | int, ...]](("run", run.rows, run.new, run.seen) for run in runs if run.new)
    return seen + Counter(("head", run.rows, run.head) for run in runs if run.head)


def job_of(task: Task, cfg: float) -> rollout_pb2.RolloutJob:
    sampling = rollout_pb2.Sampling(temperature=1.0, top_p=1.0, cfg=cfg)
    job = make_job(prompt=PROMPT, stage=task.stage, sampling=sampling, split_scale=task.split)
    job.group_size, job.continuations = task.group, task.copies
    return job


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_group_is_drawn_in_the_passes_that_are_counted(
    policy: NextFlowPolicy, task: Task, batch: int, guided: bool
) -> None:
    with recorded(policy) as seen:
        steps = list(generate(policy, job_of(task, cfg=2.0 * guided), Limits(sequences=batch, decode=64)))
    texts = (TEXT, given.EMPTY_TEXT_TOKENS) if guided else (TEXT,)
    assert seen == counted(drawing(cells(policy.grids), task, batch, texts))
    assert sum(len(step.places) for step in steps if not isinstance(step, TokensStep)) == task.images


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_candidate_is_trained_in_the_flops_that_are_counted(policy: NextFlowPolicy, task: Task) -> None:
    counts = cells(policy.grids)
    tokens = sum(counts[: task.split] if task.stage == PREFIX else counts)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        policy.distribution(
            PROMPT, torch.zeros(1, tokens, dtype=torch.int64), task.split if task.stage == SUFFIX else 0
        ).logits()
    expected = sum(flops.flops(policy.config, run) for run in teaching(counts, task, TEXT))
    assert counter.get_total_flops() == expected


def test_the_7b_model_has_the_sizes_of_its_configuration() -> None:
    size = given.NEXTFLOW_7B.transformer
    attention = 2 * size.dim * size.dim + 2 * size.dim * size.kv_heads * 128
    layers = size.depth * (attention + 3 * size.dim * size.mlp_dim)
    found = flops.sizes(given.NEXTFLOW_7B)
    assert found.layers == layers
    assert found.adapter == 40 * size.dim + size.dim**2
    embeddings = size.dim * (2 * size.text_vocab + given.NEXTFLOW_7B.tokenizer.codes)
    assert found.parameters == pytest.approx(
        layers + found.adapter + embeddings, rel=1e-3
    )  # biases, gains and special tokens are the rest
    assert sum(cells(given.NEXTFLOW_7B.grids)) == 10_084
    assert given.NEXTFLOW_7B.grids[-1] == (given.IMAGE_SIDE // given.STRIDE,) * 2


def test_memory_of_a_pass_by_hand(policy: NextFlowPolicy) -> None:
    size, codes = policy.config.transformer, policy.config.tokenizer.codes
    layers = flops.sizes(policy.config).layers
    kept = (
        3 * (10 + 7) * 2 * size.depth * size.kv_heads * 16 * 2
    )  # rows, positions, keys and values, layers, heads, head size, bytes
    head = 3 * 7 * codes * given.LOGIT_BYTES * given.LOGIT_TOUCHES
    assert flops.memory_bytes(policy.config, flops.Pass(3, 7, 10, 7)) == 2 * (layers + size.dim * codes) + kept + head


def test_a_pass_takes_as_long_as_the_slower_of_arithmetic_and_memory(policy: NextFlowPolicy) -> None:
    run = flops.Pass(3, 7, 10, 7)
    work, moved = flops.flops(policy.config, run), flops.memory_bytes(policy.config, run)
    slow_memory, slow_arithmetic = given.Card("a", work, moved / 100, 1), given.Card("b", work / 100, moved, 1)
    assert flops.seconds(policy.config, [run], slow_memory, 0.5) == pytest.approx(100 / given.USABLE)
    assert flops.seconds(policy.config, [run], slow_arithmetic, 0.5) == pytest.approx(200)
    assert flops.bandwidth_share(policy.config, [run], slow_memory, 0.5) == 1
    assert flops.bandwidth_share(policy.config, [run], slow_arithmetic, 0.5) == 0


def test_the_pixel_decoder_is_counted_as_its_convolutions() -> None:
    before = given.DECODER_CHANNELS * given.DECODER_MULTIPLES[-1]
    parts, first = list[nn.Module](), before
    for level, multiple in reversed(list(enumerate(given.DECODER_MULTIPLES))):
        width = given.DECODER_CHANNELS * multiple
        inputs = [before, *[width] * (2 * (given.DECODER_BLOCKS + 1) - 1)]
        parts += [nn.Conv2d(channels, width, 3, padding=1) for channels in inputs]
        if level:
            parts += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
        before = width
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        nn.Sequential(*parts).to("meta")(torch.empty(1, first, 4, 4, device="meta"))
    assert counter.get_total_flops() == flops.decoder_flops(side=64)


def test_the_published_rates_are_what_the_authors_speeds_come_to() -> None:
    draw, update = flops.published_shares(given.NEXTFLOW_7B, demand.image_passes(), given.H100)
    assert given.PUBLISHED.draw == pytest.approx(draw, abs=0.005)
    assert given.PUBLISHED.update == pytest.approx(update, abs=0.005)
