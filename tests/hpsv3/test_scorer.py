"""The scorer over the real batcher, with engines that fail in ways the real one cannot be made to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.hpsv3_builders import noise, settings_for
from tests.support.hpsv3_scripted import HUGE, LONG, LOST, POISON, SLOW, Scripted, Thing, sample
from varl.services.hpsv3.__main__ import build_scorer
from varl.services.hpsv3.engine import Preference
from varl.services.hpsv3.faults import device_faults
from varl.services.hpsv3.golden import FILE, PICTURES, PROMPT, Golden
from varl.services.hpsv3.native import NativeEngine
from varl.services.hpsv3.scorer import HPSv3Scorer
from varl.services.serving.batching.queue import BatchLimits, FatalModelError, ItemFailedError, UnavailableError
from varl.services.serving.scoring import ErrorCode, Outcome, SampleError, SampleScore, ScorerSample, StartError


async def start(engine: Scripted, folder: Path | None = None, dtype: str = "float32") -> HPSv3Scorer:
    scorer = HPSv3Scorer(lambda: engine, BatchLimits(8), 2, dtype, folder)
    await scorer.start()
    return scorer


async def together(scorer: HPSv3Scorer, engine: Scripted, values: Sequence[int]) -> list[Outcome | BaseException]:
    """Outcomes of samples that wait together while the engine is busy, so that they share a batch."""
    holding = asyncio.create_task(scorer.score(sample(SLOW), ""))
    await asyncio.to_thread(engine.started.wait, 20)
    tasks = [asyncio.create_task(scorer.score(sample(value), "")) for value in values]
    while scorer.batcher.waiting < len(values):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    engine.gate.set()
    await holding
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_samples_that_wait_together_share_a_forward_and_keep_their_scores_apart() -> None:
    engine = Scripted()
    scorer = await start(engine)
    outcomes = await together(scorer, engine, range(10, 18))
    assert [outcome.value for outcome in outcomes if isinstance(outcome, SampleScore)] == list(range(10, 18))
    assert sorted(engine.batches[-1]) == list(range(10, 18))
    assert engine.preparing.isdisjoint(engine.scoring)
    await scorer.close()


async def test_a_poison_item_fails_alone() -> None:
    engine = Scripted()
    scorer = await start(engine)
    first, poison, third, fourth = await together(scorer, engine, [10, POISON, 12, 13])
    assert isinstance(poison, ItemFailedError)
    assert [outcome.value for outcome in (first, third, fourth) if isinstance(outcome, SampleScore)] == [10, 12, 13]
    await scorer.close()


async def test_a_batch_that_runs_out_of_memory_is_scored_in_parts() -> None:
    engine = Scripted()
    scorer = await start(engine)
    outcomes = await together(scorer, engine, [10, HUGE, 12])
    assert [outcome.value for outcome in outcomes if isinstance(outcome, SampleScore)] == [10, HUGE, 12]
    assert scorer.batcher.ceiling < 40
    await scorer.close()


async def test_a_lost_device_ends_the_service() -> None:
    scorer = await start(Scripted())
    with pytest.raises(UnavailableError, match="illegal memory access"):
        await scorer.score(sample(LOST), "")
    assert scorer.batcher.fatal.is_set()
    await scorer.close()


async def test_an_image_that_cannot_be_prepared_is_a_typed_error() -> None:
    scorer = await start(Scripted())
    assert await scorer.score(sample(LONG), "") == SampleError(ErrorCode.IMAGE_TOO_LARGE, "image: too long")
    assert scorer.check("no", ()) == SampleError(ErrorCode.INVALID_FIELD, "prompt: no")
    blank = SampleError(ErrorCode.INVALID_FIELD, "prompt: is blank, and this reward judges an image by its prompt")
    assert scorer.check("", ()) == scorer.check(" \n", ()) == blank  # what flow_grpo's /deqa would send
    assert scorer.check("yes", ("word",)) is None
    await scorer.close()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
            MemoryError,
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), FatalModelError),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), FatalModelError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (ValueError("x"), ValueError),
    ],
)
def test_device_errors_are_what_the_batcher_wants(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as found, device_faults():
        raise raised
    assert type(found.value) is expected


class NotFinite(Scripted):
    def score(self, items: Sequence[Thing]) -> list[Preference]:
        return [Preference(float("nan"), 0.0) for _ in items]


async def test_weights_without_finite_scores_are_refused() -> None:
    with pytest.raises(StartError, match="golden sample 'gradient' has no score"):
        await start(NotFinite())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            Golden(prompt="x", image="gradient", mu=0.002, log_sigma=-1.0).model_dump_json(),
            "mu 0.0000, log sigma -1.0000; golden.json has mu 0.0020",
        ),
        ("{", "golden.json"),
        (json.dumps({"prompt": "x", "image": "moon", "mu": 0, "log_sigma": 0}), "golden.json"),
    ],
)
async def test_weights_that_miss_their_golden_score_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(StartError, match=message):
        await start(Scripted(), tmp_path)


async def test_a_golden_score_is_met_within_what_the_dtype_explains(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(Golden(prompt="x", image="gradient", mu=0.002, log_sigma=-1.0).model_dump_json())
    await (await start(Scripted(), tmp_path, "bfloat16")).close()


def link(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)


async def test_the_tiny_checkpoint_meets_the_golden_score_that_it_gave(
    tmp_path: Path, hpsv3_checkpoint: Path, hpsv3_engine: NativeEngine
) -> None:
    (found,) = hpsv3_engine.score([hpsv3_engine.prepare(PICTURES["checkerboard"](), PROMPT)])
    link(hpsv3_checkpoint, tmp_path)
    right = Golden(prompt=PROMPT, image="checkerboard", mu=found.mu, log_sigma=found.log_sigma)
    (tmp_path / FILE).write_text(right.model_dump_json())
    for dtype in ("float32", "bfloat16"):
        scorer = build_scorer(settings_for(tmp_path, dtype=dtype))
        await scorer.start()
        await scorer.close()
    (tmp_path / FILE).write_text(right.model_copy(update={"mu": found.mu + 0.01}).model_dump_json())
    with pytest.raises(StartError, match="do not score the golden sample"):
        await build_scorer(settings_for(tmp_path)).start()


async def test_scores_through_the_batcher_are_those_of_the_engine(
    hpsv3_checkpoint: Path, hpsv3_engine: NativeEngine
) -> None:
    scorer = build_scorer(settings_for(hpsv3_checkpoint))
    await scorer.start()
    images = [noise(40 + 30 * index, 200 - 20 * index, index) for index in range(6)]
    outcomes = await asyncio.gather(*(scorer.score(ScorerSample("a cat", image, ()), "") for image in images))
    for image, outcome in zip(images, outcomes, strict=True):
        (alone,) = hpsv3_engine.score([hpsv3_engine.prepare(image, "a cat")])
        assert isinstance(outcome, SampleScore)
        assert outcome.components == {
            "mu": pytest.approx(alone.mu, abs=2e-6),
            "log_sigma": pytest.approx(alone.log_sigma, abs=2e-6),
        }
        assert outcome.value == outcome.components["mu"]
    await scorer.close()
