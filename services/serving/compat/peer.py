"""What the peers' routes share: whether a reward can score, all the scores or the failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from varl.services.serving.compat.choice import Choice
from varl.services.serving.http.openapi import WatchedRoute
from varl.services.serving.http.problems import problem
from varl.services.serving.reward_source import RewardAnswer, RewardSource
from varl.services.serving.scoring import (
    MODEL_FAULTS,
    Outcome,
    RawSample,
    SampleError,
    SampleScore,
    ScoreBatch,
)
from varl.services.serving.service import State
from varl.services.serving.status import STATUS, FieldFault, RejectionCode, RequestRejectedError, invalid

_LAST_STATES = frozenset({State.DRAINING, State.FAILED})  # no other comes after them
_LEAST_PAUSE = 0.05  # seconds


class CompatSettings(Protocol):
    """What the routes take from the settings of a service or a gateway."""

    @property
    def max_request_bytes(self) -> int:
        """Bytes of a request."""

    @property
    def max_samples(self) -> int:
        """Samples that one request may hold."""

    @property
    def request_seconds(self) -> float:
        """Seconds that a request may take."""

    @property
    def compat_pickle(self) -> bool:
        """Whether the peers that send pickles are served."""


def peer_router(path: str, tag: str | None = None) -> APIRouter:
    """A router of one peer below /compat, whose endpoints end when the client hangs up.

    Without a tag it is not in the API pages.
    """
    return APIRouter(
        prefix=f"/compat/{path}",
        route_class=WatchedRoute,
        tags=[tag] if tag else None,
        include_in_schema=tag is not None,
    )


class SampleFailedError(Exception):
    """A sample has no score, for a peer whose answer has no place for that."""

    def __init__(self, index: int, error: SampleError, failed: int, total: int) -> None:
        super().__init__(f"sample {index}: {error.code}: {error.detail} ({failed} of {total} samples failed)")
        self.code = error.code

    @property
    def status(self) -> HTTPStatus:
        """500 where the model failed, 422 where the sample is at fault."""
        return HTTPStatus.INTERNAL_SERVER_ERROR if self.code in MODEL_FAULTS else HTTPStatus.UNPROCESSABLE_ENTITY


@contextmanager
def counted(source: RewardSource) -> Iterator[None]:
    """Count a request as ``source`` does; a failed sample has a metric of its own, its request was answered."""
    failure = None
    with source.counted("http"):
        try:
            yield
        except SampleFailedError as error:
            failure = error
    if failure is not None:
        raise failure


async def sample_problem(_: Request, error: Any) -> JSONResponse:  # noqa: ANN401
    """A failed sample as RFC 9457 problem details; for ``app.add_exception_handler``."""
    return problem(error.status, error.code, str(error))


def check_ready(source: RewardSource, names: Sequence[str]) -> None:
    """Raises RequestRejectedError (NOT_READY) where one of the rewards cannot score."""
    waiting = [f"{name} is {state}" for name, state in source.states().items() if name in names and state != "ready"]
    if waiting:
        raise RequestRejectedError(RejectionCode.NOT_READY, ", ".join(waiting), retry_after=1.0)


def check_lengths(**lists: Sized) -> None:
    """Raises RequestRejectedError (INVALID_REQUEST) where the lists differ in length."""
    (first, head), *others = lists.items()
    for name, other in others:
        if len(other) != len(head):
            raise invalid(FieldFault(name, f"{len(other)} entries, but {first} has {len(head)}"))


async def score_all(
    source: RewardSource, choice: Choice, samples: Sequence[RawSample], patience: float = 0.0
) -> list[SampleScore]:
    """Every sample's score by the chosen reward and formula, in order; [] for no samples.

    A refusal that may pass is waited out for ``patience`` seconds, for a client that soon gives up.

    Raises:
        RequestRejectedError: the reward turned the batch away.
        SampleFailedError: a sample has no score.

    """
    if not samples:
        return []
    deadline = time.monotonic() + patience if patience else None
    answer = await patiently(
        source, ScoreBatch(tuple(samples), choice.formula, deadline=deadline), choice.reward, patience
    )
    if isinstance(answer, RequestRejectedError):
        raise answer
    return scores_of(answer.outcomes)


def scores_of(outcomes: Sequence[Outcome]) -> list[SampleScore]:
    """The outcomes where all are scores; raises SampleFailedError for the first that is none."""
    failed = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, SampleError)]
    if failed:
        raise SampleFailedError(*failed[0], failed=len(failed), total=len(outcomes))
    return [outcome for outcome in outcomes if isinstance(outcome, SampleScore)]


async def patiently(source: RewardSource, batch: ScoreBatch, reward: str, seconds: float) -> RewardAnswer:
    """The answer of one reward; for so many seconds a refusal that may pass is waited out.

    Each one that is waited out is counted, as it would be if the client came again itself.
    """
    last = time.monotonic() + seconds
    while True:
        answer = (await source.score_rewards(batch, (reward,)))[reward]
        if not isinstance(answer, RequestRejectedError) or not STATUS[answer.code].retryable:
            return answer
        pause = 1.0 if answer.retry_after is None else max(_LEAST_PAUSE, answer.retry_after)
        if time.monotonic() + pause > last or source.states()[reward] in _LAST_STATES:
            return answer
        with suppress(RequestRejectedError), source.counted("http"):
            raise answer
        await asyncio.sleep(pause)
