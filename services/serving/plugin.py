"""A reward of one's own: a class with a name and ``score``, which the whole service then stands around.

``varl.reward`` has the names for users. The advanced seam is ``scoring.Scorer``, for rewards with several models or
stages.
"""

from __future__ import annotations

import inspect
import logging
import math
import numbers
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np

from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import BatchLimits, ItemFailedError, UnavailableError
from varl.services.serving.scoring import (
    MODEL_FAULTS,
    ErrorCode,
    ModelInfo,
    Outcome,
    Region,
    SampleError,
    SampleScore,
    ScorerSample,
    StartError,
    polygon_fault,
)

_log = logging.getLogger("varl.reward")
GOLDEN_PROMPT = "a red sign that says 'READY'"


class Reward(ABC):
    """A reward: subclass it, give it a name, and say how samples are scored."""

    name: ClassVar[str]  # in answers, metrics and recipes; letters, digits, "_", "-" and "."
    batch_size: ClassVar[int] = 16  # samples that one call of ``score`` gets at most
    revision: str = ""  # of weights, which ``load`` may set as it finds them; default: a digest of the source file

    def load(self, device: str) -> None:  # noqa: B027
        """Get ready, once, on the thread that will score; ``device`` is the service's --device ("cpu", "cuda:0", …)."""

    @abstractmethod
    def score(self, samples: Sequence[ScorerSample]) -> Sequence[float | SampleScore | SampleError]:
        """One answer a sample, in order.

        A number, a ``Score`` with components and regions, or a ``SampleError`` for that sample alone.
        Each sample has ``pixels`` (uint8 [H, W, 3], RGB), ``prompt``, ``target_words``, ``metadata`` and ``id``. An
        exception, or an answer that is not finite or of another type, is the sample's typed error and never a number; a
        batch that fails is halved until the guilty sample stands alone.
        """

    def golden(self) -> ScorerSample:
        """The sample that is scored at the start, before anything is served.

        Override it where ``score`` needs metadata.
        """
        ramp = np.linspace(0, 255, 64).astype(np.uint8)
        pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
        return ScorerSample(GOLDEN_PROMPT, pixels, ("READY",))


class RewardScorer:
    """A ``Scorer`` over one instance of a ``Reward`` class, which lives on the batcher's thread."""

    formulas = ("value",)

    def __init__(self, kind: type[Reward], device: str, limits: BatchLimits) -> None:
        self.reward = kind.name
        self.model = model_info(kind)
        self._kind, self._device = kind, device
        self._golden: ScorerSample | None = None
        self.batcher: Batcher[ScorerSample, Outcome] = Batcher(self._load, limits)

    def _load(self) -> _Model:
        reward = self._kind()
        reward.load(self._device)
        if reward.revision:
            self.model = replace(self.model, revision=reward.revision)
        self._golden = reward.golden()
        return _Model(reward)

    async def start(self) -> None:
        """Load the reward and score its golden sample; raises StartError, naming the class, where either fails."""
        with redirect_stdout(
            sys.stderr
        ):  # stdout is for the ready line alone, which a print of the reward must not come before
            await self._load_and_prove(self.model.name)

    async def _load_and_prove(self, where: str) -> None:
        try:
            await self.batcher.start()
        except Exception as error:
            _log.exception("loading %s failed", where)
            raise StartError(f"{where}: load failed: {type(error).__name__}: {error}") from error
        assert self._golden is not None  # noqa: S101
        try:
            found = await self.score(self._golden, "")
        except (ItemFailedError, UnavailableError) as error:
            raise StartError(f"{where}: score failed on the golden sample: {error}") from error
        if isinstance(found, SampleError) and found.code in MODEL_FAULTS:
            raise StartError(f"{where}: score failed on the golden sample: {found.detail}")
        if isinstance(found, SampleError):
            _log.warning("%s refuses the golden sample: %s: %s", where, found.code, found.detail)

    def check(self, prompt: str, target_words: tuple[str, ...]) -> SampleError | None:
        """Nothing: the reward itself judges its samples."""
        return None

    async def score(self, sample: ScorerSample, formula: str) -> Outcome:
        """The reward's answer to one sample; raises what ``Batcher.submit`` does."""
        return await self.batcher.submit(sample, size=sample.pixels.nbytes, deadline=sample.deadline)

    async def close(self) -> None:
        """End the thread."""
        await self.batcher.close()


class _Model:
    """What the batcher calls.

    Answers are checked on the model's thread, where a tensor's value may have to be waited for.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def __call__(self, samples: Sequence[ScorerSample]) -> list[Outcome]:
        return [outcome(answer) for answer in self._reward.score(samples)]


def model_info(kind: type[Reward]) -> ModelInfo:
    """Module and class, and the class's own revision or a digest of its source file."""
    digest = sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()[:16]
    return ModelInfo("python", f"{kind.__module__}:{kind.__qualname__}", kind.revision or digest)


def outcome(answer: object) -> Outcome:
    """What a reward gave for one sample, checked.

    What is no finite number, sound score or error is ENGINE_FAILED or NOT_FINITE.
    """
    if isinstance(answer, SampleError):
        return SampleError(ErrorCode(answer.code), str(answer.detail))
    score = answer if isinstance(answer, SampleScore) else SampleScore(answer)  # type: ignore[arg-type] # judged below
    try:
        value = _number("the value", score.value)
        components = {str(name): _number(f"component {name!r}", part) for name, part in score.components.items()}
        regions = tuple(_region(region) for region in score.regions)
    except (
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:  # the last is torch's, of a tensor that is no number
        return SampleError(ErrorCode.ENGINE_FAILED, f"score() answered {type(answer).__name__}: {error}")
    if not all(map(math.isfinite, (value, *components.values()))):
        return SampleError(ErrorCode.NOT_FINITE, "the reward's answer is not a finite number")
    return SampleScore(value, components, tuple(score.words), regions)


def _number(what: str, value: object) -> float:
    """A Python or numpy number, or a tensor of one element, as float."""
    item = getattr(value, "item", None)
    plain = item() if callable(item) else value
    if not isinstance(plain, numbers.Real):
        raise TypeError(f"{what} is a {type(value).__name__}, want a number, a Score or a SampleError")
    return float(plain)


def _region(region: Region) -> Region:
    polygon = tuple(_number("a corner", value) for value in region.polygon)
    fault = polygon_fault(polygon)
    if fault:
        raise ValueError(f"a region of {fault}")
    return Region(polygon, str(region.label))


def checked_name(kind: type[Reward]) -> str:
    """The reward's name; raises ValueError where the class has none that can stand in a recipe and a metric."""
    name: object = getattr(kind, "name", None)
    if not isinstance(name, str) or not name or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError(f'{kind.__qualname__}.name is {name!r}: want letters, digits, "_", "-" and "."')
    return name
