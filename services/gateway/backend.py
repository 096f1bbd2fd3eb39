"""One reward service behind the gateway: how it is, what it offers, and its answers as values."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import grpc

from varl.services.gateway.messages import BadAnswerError, batch_result
from varl.services.gateway.parts import Part, joined, part_limits, parts
from varl.services.serving.grpc.client import RewardClient, RewardRejected, RewardUnavailable, Trouble
from varl.services.serving.reward_source import RewardAnswer
from varl.services.serving.scoring import BatchResult, RawSample
from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError
from varl.v1 import reward_pb2

_log = logging.getLogger("varl.gateway")
READY = "ready"
_STATES = {grpc.ChannelConnectivity.TRANSIENT_FAILURE: "unavailable", grpc.ChannelConnectivity.SHUTDOWN: "draining"}
_CODES = {
    Trouble.OVERLOADED: RejectionCode.OVERLOADED,
    Trouble.UNREACHABLE: RejectionCode.NOT_READY,
    Trouble.DEADLINE: RejectionCode.DEADLINE_EXCEEDED,
}
_INFO_TIMEOUT = 5.0
_REFRESH = 30.0  # seconds after which a service's info is asked for again: replicas may come up with another model
_AGAIN = 1.0


class Backend:
    """A reward's service, of one replica or more. Belongs to one event loop."""

    def __init__(self, name: str, client: RewardClient) -> None:
        self.name = name
        self.serves = asyncio.Event()
        self.info: reward_pb2.GetInfoResponse | None = None
        self._client = client
        self._state = "connecting"

    @property
    def state(self) -> str:
        """What the service does.

        "ready", or "connecting", "unavailable" (nobody is there who says it serves), "refusing".
        """
        return self._state

    async def watch(self) -> None:
        """Follow the service's health until cancelled; its info is asked for whenever it comes up."""
        while True:
            seen = self._client.connectivity()
            changed = asyncio.create_task(self._client.connectivity_changed(seen))
            try:
                while not changed.done():
                    await asyncio.wait({changed}, timeout=await self._look(seen))
            finally:
                changed.cancel()

    async def _look(self, seen: grpc.ChannelConnectivity) -> float | None:
        """Set the state; seconds until the next look, None for as long as nothing changes."""
        if seen is not grpc.ChannelConnectivity.READY:
            self._set(_STATES.get(seen, "connecting"))
            return None
        try:
            self.info = await self._client.info(_INFO_TIMEOUT)
        except RewardUnavailable:
            return _AGAIN  # a replica that was about to end, or one that is busy: no reason to stop asking for scores
        except RewardRejected as error:
            _log.error("reward %s refuses to say what it offers: %s", self.name, error)
            self._set("refusing")
        else:
            self._set(READY)
        return _REFRESH

    def _set(self, state: str) -> None:
        if state != self._state:
            _log.info("reward %s is %s", self.name, state)
        self._state = state
        if state == READY:
            self.serves.set()
        else:
            self.serves.clear()

    async def score(
        self, messages: Sequence[reward_pb2.Sample], samples: Sequence[RawSample], formula: str, seconds: float
    ) -> RewardAnswer:
        """The service's answer to ``messages``, which stand for ``samples``, within ``seconds``; or its rejection.

        What is more than the service takes at a time is sent in parts, one after the other, so that it asks no more of
        the service at a time than one part does. A part that is rejected is the rejection of all.
        """
        if self._state != READY or self.info is None:
            return RequestRejectedError(RejectionCode.NOT_READY, f"{self.name} is {self._state}", retry_after=1.0)
        end = time.monotonic() + seconds
        results: list[BatchResult] = []
        for part in parts(messages, samples, part_limits(self.info)):
            answer = await self._score_part(part, formula, end)
            while results and isinstance(answer, RequestRejectedError) and _may_pass(answer, end):
                await asyncio.sleep(answer.retry_after or _AGAIN)  # what was scored so far would be scored again
                answer = await self._score_part(part, formula, end)
            if isinstance(answer, RequestRejectedError):
                return answer
            results.append(answer)
        try:
            return joined(results)
        except ValueError as error:  # in the middle of a rolling update
            return RequestRejectedError(RejectionCode.NOT_READY, f"{self.name}: {error}", retry_after=1.0)

    async def _score_part(self, part: Part, formula: str, end: float) -> RewardAnswer:
        try:
            response = await self._client.score(part.messages, formula, end - time.monotonic())
            return batch_result(response, part.samples)
        except RewardUnavailable as error:
            return _unavailable(self.name, error)
        except RewardRejected as error:
            return _refused(self.name, error)
        except BadAnswerError as error:
            return RequestRejectedError(RejectionCode.BACKEND_FAILED, f"{self.name}: {error}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _may_pass(rejection: RequestRejectedError, end: float) -> bool:
    """Whether the same part may be taken before ``end``."""
    later = time.monotonic() + (rejection.retry_after or _AGAIN)
    return STATUS[rejection.code].retryable and later < end


def _unavailable(name: str, error: RewardUnavailable) -> RequestRejectedError:
    later = None if error.trouble is Trouble.DEADLINE else error.retry_after or 1.0
    return RequestRejectedError(_CODES[error.trouble], f"{name}: {error}", retry_after=later)


def _refused(name: str, error: RewardRejected) -> RequestRejectedError:
    """The caller is at fault where the arguments are; a token that the service refuses is the gateway's own."""
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        return RequestRejectedError(RejectionCode.INVALID_REQUEST, f"{name}: {error.detail}")
    _log.error("reward %s refuses requests: %s", name, error)
    return RequestRejectedError(RejectionCode.BACKEND_FAILED, f"{name}: {error}")
