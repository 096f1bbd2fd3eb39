"""The service without its protocols: what HTTP and gRPC both do with a request."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from enum import StrEnum

from starlette.requests import ClientDisconnect

from varl.metadata import MetadataError, check_metadata
from varl.services.serving.admission import Admission
from varl.services.serving.batching.batcher import Batcher
from varl.services.serving.batching.queue import (
    BatchLimits,
    ItemFailedError,
    LateError,
    QueueFullError,
    UnavailableError,
)
from varl.services.serving.batching.spans import BatchSpans
from varl.services.serving.images import ImageLimits, decode_image
from varl.services.serving.metrics import Metrics
from varl.services.serving.reward_source import RewardAnswer
from varl.services.serving.scoring import (
    BatchResult,
    ErrorCode,
    Outcome,
    Pixels,
    RawSample,
    SampleError,
    ScoreBatch,
    Scorer,
    ScorerSample,
)
from varl.services.serving.settings import ServingSettings
from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid, shown
from varl.services.serving.tracing import own_tracer

MAX_ID_CHARS = 256  # of a sample
_log = logging.getLogger("varl.serving")


class State(StrEnum):
    """Only READY takes requests."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


# What goes wrong for one sample and would for the others as well: the request is rejected whole.
_REJECTIONS: Mapping[type[Exception], tuple[RejectionCode, float | None]] = {
    LateError: (RejectionCode.DEADLINE_EXCEEDED, None),
    QueueFullError: (RejectionCode.OVERLOADED, 1.0),
    UnavailableError: (RejectionCode.NOT_READY, 1.0),
}


class ScoringService:
    """Checks, decodes, scores. Belongs to one event loop."""

    def __init__(self, settings: ServingSettings, scorer: Scorer) -> None:
        self.settings = settings
        self.scorer = scorer
        self._state = State.LOADING
        self._admission = Admission(settings.max_in_flight, settings.max_in_flight_bytes)
        self.metrics = Metrics(scorer.reward, lambda: self._admission.samples)
        self.metrics.gauge(
            "varl_bytes_in_flight", "Bytes of images taken in and not yet answered.", lambda: self._admission.bytes
        )
        self.metrics.watch(scorer.batcher)
        tracer = own_tracer()
        scorer.batcher.spans = None if tracer is None else BatchSpans(tracer)
        self._limits = ImageLimits(
            settings.max_image_bytes, settings.max_pixels, settings.max_aspect_ratio, settings.min_side
        )
        # Small files go to a thread together: handing each over alone costs as much as decoding it.
        limits = BatchLimits(8, 32 * 2**10, queue_items=settings.max_decoded, queue_bytes=settings.max_in_flight_bytes)
        self._decoder: Batcher[bytes, Pixels | SampleError] = Batcher(
            lambda: self._decode, limits, settings.decode_threads
        )
        self._decoded = asyncio.Semaphore(settings.max_decoded)
        self._turn = asyncio.Lock()

    @property
    def fatal(self) -> asyncio.Event:
        """Set once the model is lost; the process is to end then."""
        return self.scorer.batcher.fatal

    @property
    def state(self) -> State:
        """FAILED from the moment that the model is lost, whatever was set."""
        return State.FAILED if self.fatal.is_set() else self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    async def start(self) -> None:
        """Load the model; raises StartError."""
        await self._decoder.start()
        await self.scorer.start()
        self.state = State.READY

    async def close(self) -> None:
        """Free the model and the decoding threads."""
        await self._decoder.close()
        await self.scorer.close()

    @contextmanager
    def counted(self, protocol: str) -> Iterator[None]:
        """Count what happens to one request on ``protocol`` ("http", "grpc"), from reading it to answering it."""
        began = time.monotonic()
        try:
            yield
        except RequestRejectedError as rejection:
            self.metrics.request(protocol, rejection.code)
            raise
        except (asyncio.CancelledError, ClientDisconnect):
            self.metrics.request(protocol, "client_gone")
            raise
        self.metrics.request(protocol, "ok")
        self.metrics.duration(protocol, time.monotonic() - began)

    async def score(self, batch: ScoreBatch) -> BatchResult:
        """One outcome per sample; raises RequestRejectedError where nothing can be scored."""
        if self.state is not State.READY:
            raise RequestRejectedError(RejectionCode.NOT_READY, f"the service is {self.state}", retry_after=1.0)
        self._check(batch)
        now, size = (
            time.monotonic(),
            sum(len(sample.image) for sample in batch.samples if isinstance(sample.image, bytes)),
        )
        deadline = min(now + self.settings.request_seconds, math.inf if batch.deadline is None else batch.deadline)
        with self._admission.admit(len(batch.samples), size, deadline):
            try:
                async with asyncio.timeout(deadline - now):
                    outcomes = await self._outcomes(batch, deadline)
            except TimeoutError as error:
                raise RequestRejectedError(
                    RejectionCode.DEADLINE_EXCEEDED, "the deadline passed before every sample was scored"
                ) from error
        return BatchResult(tuple(sample.id for sample in batch.samples), outcomes, model=self.scorer.model)

    @property
    def rewards(self) -> tuple[str, ...]:
        """The one reward."""
        return (self.scorer.reward,)

    def states(self) -> Mapping[str, str]:
        """State of the one reward."""
        return {self.scorer.reward: self.state}

    async def score_rewards(self, batch: ScoreBatch, rewards: Sequence[str]) -> Mapping[str, RewardAnswer]:
        """``score`` under the reward's name; raises RequestRejectedError for another name."""
        for name in rewards:
            if name != self.scorer.reward:
                raise RequestRejectedError(
                    RejectionCode.NO_SUCH_REWARD,
                    f"rewards: {shown(name)} is not on offer, only {self.scorer.reward!r} is",
                )
        try:
            return {self.scorer.reward: await self.score(batch)} if rewards else {}
        except RequestRejectedError as rejection:
            return {self.scorer.reward: rejection}

    def _check(self, batch: ScoreBatch) -> None:
        check_samples(batch.samples, self.settings.max_samples)
        if batch.formula and batch.formula not in self.scorer.formulas:
            raise invalid(FieldFault("formula", f"{shown(batch.formula)} is none of {', '.join(self.scorer.formulas)}"))

    async def _outcomes(self, batch: ScoreBatch, deadline: float) -> tuple[Outcome, ...]:
        if len(batch.samples) == 1:  # without the cost of a task
            found = [await self._outcome(batch.samples[0], batch.formula, deadline)]
        else:
            found = await asyncio.gather(*(self._outcome(sample, batch.formula, deadline) for sample in batch.samples))
        for outcome in found:
            if isinstance(outcome, RequestRejectedError):
                raise outcome
        outcomes = tuple(outcome for outcome in found if not isinstance(outcome, RequestRejectedError))
        for outcome in outcomes:
            self.metrics.sample(outcome.code if isinstance(outcome, SampleError) else None)
        return outcomes

    async def _outcome(self, sample: RawSample, formula: str, deadline: float) -> Outcome | RequestRejectedError:
        try:
            if sample.metadata:  # checking it takes milliseconds, by the hundred: others have their turn between two
                async with self._turn:
                    await asyncio.sleep(0)
                    refusal = self._refusal(sample)
            else:
                refusal = self._refusal(sample)
            return _finite(refusal or await self._score_one(sample, formula, deadline))
        except ItemFailedError as error:
            return SampleError(ErrorCode.ENGINE_FAILED, str(error))
        except (LateError, QueueFullError, UnavailableError) as error:
            code, retry_after = _REJECTIONS[type(error)]
            return RequestRejectedError(code, str(error), retry_after=retry_after)
        except Exception:  # a defect met on one sample must not fail the others
            _log.exception("scoring a sample failed")
            return SampleError(ErrorCode.ENGINE_FAILED, "unexpected failure, see the service's log")

    def _refusal(self, sample: RawSample) -> SampleError | None:
        limits = self.settings
        if isinstance(sample.image, SampleError):
            return sample.image
        if len(sample.prompt) > limits.max_prompt_chars:
            return SampleError(
                ErrorCode.PROMPT_TOO_LONG,
                f"prompt: {len(sample.prompt)} characters, at most {limits.max_prompt_chars} are taken",
            )
        if len(sample.target_words) > limits.max_target_words:
            detail = f"target_words: {len(sample.target_words)} given, at most {limits.max_target_words} are taken"
            return SampleError(ErrorCode.INVALID_FIELD, detail)
        if sum(map(len, sample.target_words)) > limits.max_prompt_chars:
            return SampleError(
                ErrorCode.INVALID_FIELD, f"target_words: more than {limits.max_prompt_chars} characters together"
            )
        refused = metadata_refusal(sample)
        if refused:
            return refused
        return self.scorer.check(sample.prompt, sample.target_words)

    async def _score_one(self, sample: RawSample, formula: str, deadline: float) -> Outcome:
        assert isinstance(sample.image, bytes) and not isinstance(sample.metadata, SampleError)  # noqa: S101
        async with self._decoded:
            size = len(sample.image)
            pixels = await self._decoder.submit(sample.image, cost=max(1, size), size=size, deadline=deadline)
            if isinstance(pixels, SampleError):
                return pixels
            checked = ScorerSample(sample.prompt, pixels, sample.target_words, deadline, sample.metadata, sample.id)
            return await self.scorer.score(checked, formula)

    def _decode(self, images: Sequence[bytes]) -> list[Pixels | SampleError]:
        """On a decoding thread."""
        return [self._decode_one(image) for image in images]

    def _decode_one(self, image: bytes) -> Pixels | SampleError:
        began = time.monotonic()
        pixels = decode_image(image, self._limits)
        self.metrics.decoded(time.monotonic() - began)
        return pixels


def check_samples(samples: Sequence[RawSample], most: int) -> None:
    """Check the number of samples and their ids.

    Raises:
        RequestRejectedError: INVALID_REQUEST: no samples, more than ``most``, or ids that are empty, too long or not
            unique.

    """
    check_number(len(samples), most)
    seen: set[str] = set()
    for index, sample in enumerate(samples):
        fault = _id_fault(sample.id, seen)
        if fault:
            raise invalid(FieldFault(f"samples[{index}].id", fault))
        seen.add(sample.id)


def check_number(samples: int, most: int) -> None:
    """Raises RequestRejectedError (INVALID_REQUEST) unless there are 1 to ``most`` samples."""
    if not 1 <= samples <= most:
        raise invalid(FieldFault("samples", f"{samples} given, 1 to {most} are taken"))


def _id_fault(name: str, seen: Set[str]) -> str:
    if not name:
        return "is empty"
    if len(name) > MAX_ID_CHARS:
        return f"{len(name)} characters, at most {MAX_ID_CHARS} are taken"
    return f"{shown(name)} stands twice" if name in seen else ""


def metadata_refusal(sample: RawSample) -> SampleError | None:
    """What is wrong with a sample's metadata, naming the field; None where nothing is."""
    if isinstance(sample.metadata, SampleError):
        return sample.metadata
    try:
        check_metadata(sample.metadata)
    except MetadataError as error:
        return SampleError(ErrorCode.INVALID_FIELD, str(error))
    return None


def _finite(outcome: Outcome) -> Outcome:
    if isinstance(outcome, SampleError) or all(map(math.isfinite, (outcome.value, *outcome.components.values()))):
        return outcome
    return SampleError(ErrorCode.NOT_FINITE, "the model's answer is not a finite number")
