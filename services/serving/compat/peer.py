"""What the peers' routes share: which reward is meant, images out of text, all the scores or the failure."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from varl.services.serving.http.base64_images import image_bytes
from varl.services.serving.http.openapi import WatchedRoute
from varl.services.serving.http.problems import problem
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.scoring import (
    MODEL_FAULTS,
    Outcome,
    RawSample,
    SampleError,
    SampleScore,
    ScoreBatch,
)
from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid, shown


class CompatSettings(Protocol):
    """What the routes take from the settings of a service or a gateway."""

    @property
    def max_request_bytes(self) -> int:
        """Bytes of a request."""

    @property
    def max_samples(self) -> int:
        """Samples that one request may hold."""

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


async def sample_problem(_: Request, error: Any) -> JSONResponse:  # noqa: ANN401
    """A failed sample as RFC 9457 problem details; for ``app.add_exception_handler``."""
    return problem(error.status, error.code, str(error))


def chosen_reward(source: RewardSource, named: str | None) -> str:
    """The reward that a URL names, or the only one.

    Raises:
        RequestRejectedError: NO_SUCH_REWARD for an unknown name, INVALID_REQUEST where several are on offer and none is
            named.

    """
    if named is not None:
        check_offered(source, (named,))
        return named
    if len(source.rewards) == 1:
        return source.rewards[0]
    raise invalid(
        FieldFault(
            "reward", f"name one in the URL, as in ?reward={source.rewards[0]}; on offer: {', '.join(source.rewards)}"
        )
    )


def check_offered(source: RewardSource, names: Sequence[str]) -> None:
    """Raises RequestRejectedError (NO_SUCH_REWARD) for a name that is not on offer."""
    for name in names:
        if name not in source.rewards:
            raise RequestRejectedError(
                RejectionCode.NO_SUCH_REWARD, f"reward {shown(name)} is not on offer, only {', '.join(source.rewards)}"
            )


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


async def score_all(source: RewardSource, reward: str, samples: Sequence[RawSample]) -> list[SampleScore]:
    """Every sample's score, in order; [] for no samples.

    Raises:
        RequestRejectedError: the reward turned the batch away.
        SampleFailedError: a sample has no score.

    """
    if not samples:
        return []
    answer = (await source.score_rewards(ScoreBatch(tuple(samples)), (reward,)))[reward]
    if isinstance(answer, RequestRejectedError):
        raise answer
    return scores_of(answer.outcomes)


def scores_of(outcomes: Sequence[Outcome]) -> list[SampleScore]:
    """The outcomes where all are scores; raises SampleFailedError for the first that is none."""
    failed = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, SampleError)]
    if failed:
        raise SampleFailedError(*failed[0], failed=len(failed), total=len(outcomes))
    return [outcome for outcome in outcomes if isinstance(outcome, SampleScore)]


def image_file(text: str, name: str) -> bytes | SampleError:
    """The bytes of an image given as Base64 or as a data: URL; ``name`` is the field, for the error."""
    return image_bytes(text, name)
