"""The scorer, with engines that fail in ways the real one cannot be made to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from varl.services.ocr.engines.base import (
    EngineFailure,
    EngineModel,
    EngineUnavailableError,
    Image,
    Reading,
    ReadWord,
    TooMuchText,
)
from varl.services.ocr.reward import FORMULAS
from varl.services.ocr.scorer import GOLDEN_WORD, MAX_READ, MAX_TARGETS, OCRScorer
from varl.services.ocr.settings import OCRSettings
from varl.services.serving.batching.queue import BatchLimits, ItemFailedError
from varl.services.serving.scoring import MODEL_FAULTS, ErrorCode, SampleError, SampleScore, ScorerSample, StartError

SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
GOLDEN = ReadWord(GOLDEN_WORD, 1.0, SQUARE)


def image(value: int) -> Image:
    return np.full((8, 8, 3), value, np.uint8)


class Scripted:
    """Answers as the first pixel says.

    1: raises; 2: a failure value; 3: NaN; 4: waits for the gate; 5: answers for two images; otherwise: the golden word.
    """

    model = EngineModel("scripted", "none", "0")

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate or threading.Event()
        self.thread = threading.current_thread()
        self.busy = threading.Lock()
        self.started = threading.Event()
        self.seen: list[int] = []

    def read(self, images: Sequence[Image]) -> list[Reading]:
        assert threading.current_thread() is self.thread
        assert self.busy.acquire(blocking=False)
        try:
            return self._read(int(images[0][0, 0, 0]))
        finally:
            self.busy.release()

    def _read(self, value: int) -> list[Reading]:
        self.seen.append(value)
        if value == 1:
            raise RuntimeError("broken")
        if value == 4:
            self.started.set()
            self.gate.wait(20)
        answers: dict[int, list[Reading]] = {
            2: [EngineFailure("no")],
            3: [[ReadWord("x", float("nan"), SQUARE)]],
            5: [[GOLDEN], [GOLDEN]],
            6: [TooMuchText("image: full of words")],
            7: [[GOLDEN] * (MAX_READ + 1)],
            8: [[ReadWord(f"w{n}", 1.0, SQUARE) for n in range(MAX_READ)]],
        }
        return answers.get(value, [[GOLDEN]])


async def start(engine: Scripted | None = None, strict: bool = True) -> OCRScorer:
    def build() -> Scripted:
        built = engine or Scripted()
        built.thread = threading.current_thread()
        return built

    scorer = OCRScorer(build, 1, strict, BatchLimits())
    await scorer.start()
    return scorer


def sample(value: int) -> ScorerSample:
    return ScorerSample("says 'ready'", image(value), ())


@pytest.mark.parametrize("formula", FORMULAS)
async def test_the_formula_of_the_settings_is_that_of_requests_without_one(formula: str) -> None:
    def build() -> Scripted:
        return Scripted()

    scorer = OCRScorer(build, 1, True, BatchLimits(), formula=formula)
    assert scorer.formulas[0] == OCRSettings.model_validate({"formula": formula}).formula == formula
    assert set(scorer.formulas) == set(FORMULAS)
    await scorer.start()
    asked = ScorerSample("says 'steady'", image(9), ())
    assert await scorer.score(asked, "") == await scorer.score(asked, formula)
    await scorer.close()


@pytest.mark.parametrize(("value", "code"), [(2, ErrorCode.ENGINE_FAILED), (3, ErrorCode.NOT_FINITE)])
async def test_engine_trouble_is_a_typed_error(value: int, code: ErrorCode) -> None:
    scorer = await start()
    outcome = await scorer.score(sample(value), "")
    assert isinstance(outcome, SampleError)
    assert outcome.code is code
    await scorer.close()


@pytest.mark.parametrize(("value", "detail"), [(1, "broken"), (5, "2 answers to 1 items")])
async def test_an_engine_that_breaks_its_promises_fails_one_image_and_the_next_is_read(value: int, detail: str) -> None:
    scorer = await start()
    with pytest.raises(ItemFailedError, match=detail):
        await scorer.score(sample(value), "")
    after = await scorer.score(sample(0), "")
    assert isinstance(after, SampleScore)
    assert after.value == 2.0
    assert after.words[0].polygon == (0, 0, 1, 0, 1, 1, 0, 1)
    await scorer.close()


async def test_formulas_go_by_name_and_the_default_comes_first() -> None:
    scorer = await start()
    assert scorer.formulas[0] == "comp_sim_pen"
    assert set(scorer.formulas) == set(FORMULAS)
    outcome = await scorer.score(sample(0), "flow_grpo")
    assert isinstance(outcome, SampleScore)
    assert outcome.components == {"similarity": 1.0}
    await scorer.close()


async def test_every_instance_stays_on_its_own_thread_and_all_take_part() -> None:
    gate = threading.Event()
    engines: list[Scripted] = []

    def build() -> Scripted:
        engines.append(Scripted(gate))
        return engines[-1]

    scorer = OCRScorer(build, 3, True, BatchLimits())
    await scorer.start()
    slow = [asyncio.create_task(scorer.score(sample(4), "")) for _ in range(3)]
    await asyncio.gather(
        *(asyncio.to_thread(engine.started.wait, 20) for engine in engines)
    )  # all three hold one image at once
    gate.set()
    await asyncio.gather(*slow, *(scorer.score(sample(0), "") for _ in range(50)))
    assert len(engines) == len({engine.thread for engine in engines}) == 3
    assert sum(len(engine.seen) for engine in engines) == 54  # one of them the golden image
    await scorer.close()
    for engine in engines:
        await asyncio.to_thread(engine.thread.join, 20)
        assert not engine.thread.is_alive()


async def test_who_goes_away_before_its_turn_costs_nothing() -> None:
    engine = Scripted()
    scorer = await start(engine)
    holding = asyncio.create_task(scorer.score(sample(4), ""))
    await asyncio.to_thread(engine.started.wait, 20)
    waiting = asyncio.create_task(scorer.score(sample(9), ""))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    engine.gate.set()
    assert isinstance(await holding, SampleScore)
    assert isinstance(await scorer.score(sample(0), ""), SampleScore)
    assert 9 not in engine.seen
    await scorer.close()


async def test_who_goes_away_during_its_turn_leaves_the_engine_working() -> None:
    engine = Scripted()
    scorer = await start(engine)
    holding = asyncio.create_task(scorer.score(sample(4), ""))
    await asyncio.to_thread(engine.started.wait, 20)
    holding.cancel()
    engine.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert isinstance(await scorer.score(sample(0), ""), SampleScore)
    await scorer.close()


class Misreader(Scripted):
    def _read(self, value: int) -> list[Reading]:
        return [[ReadWord("READV", 1.0, SQUARE)]]


async def test_weights_that_misread_the_golden_word_are_refused_where_they_are_known() -> None:
    with pytest.raises(StartError, match=r"READY.*READV"):
        await start(Misreader())
    await (await start(Misreader(), strict=False)).close()


async def test_an_engine_that_cannot_be_built_stops_the_start() -> None:
    def build() -> Scripted:
        raise EngineUnavailableError("nothing here")

    scorer = OCRScorer(build, 2, True, BatchLimits())
    with pytest.raises(StartError, match="nothing here"):
        await scorer.start()
    await scorer.close()


@pytest.mark.parametrize("value", [6, 7])
async def test_too_much_text_is_the_image_s_own_error(value: int) -> None:
    scorer = await start()
    outcome = await scorer.score(sample(value), "")
    assert isinstance(outcome, SampleError)
    assert outcome.code is ErrorCode.TOO_MUCH_TEXT
    assert outcome.code not in MODEL_FAULTS
    await scorer.close()


async def test_many_words_are_compared_as_few_are_and_beside_the_loop() -> None:
    scorer = await start()
    targets = tuple(f"w{n}" for n in range(MAX_TARGETS))
    long = asyncio.create_task(scorer.score(ScorerSample("", image(8), targets), ""))
    turns = 0
    while not long.done():
        await asyncio.sleep(0)
        turns += 1
    outcome = long.result()
    assert isinstance(outcome, SampleScore)
    assert outcome.components["comp"] == 1.0
    assert turns > 1
    await scorer.close()


@pytest.mark.parametrize("words", [" ".join(["ab"] * (MAX_TARGETS + 1)), "a " * 4000])
async def test_target_words_are_counted_once_they_are_split(words: str) -> None:
    scorer = await start()
    for error in (scorer.check("", (words,)), scorer.check(f'a sign "{words}"', ())):
        assert error is not None
        assert error.code is ErrorCode.INVALID_FIELD
        assert f"at most {MAX_TARGETS}" in error.detail
    assert scorer.check("", (" ".join(["ab"] * MAX_TARGETS),)) is None
    await scorer.close()
