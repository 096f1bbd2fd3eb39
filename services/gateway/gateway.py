"""Several rewards as one source.

Each has an answer of its own, and one that is unavailable takes nothing from the others.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from starlette.requests import ClientDisconnect

from varl.launch.waits import Wait
from varl.services.gateway.backend import READY, Backend
from varl.services.gateway.messages import sample_messages
from varl.services.gateway.metrics import GatewayMetrics
from varl.services.gateway.settings import GatewaySettings
from varl.services.serving.admission import Admission
from varl.services.serving.grpc.client import RewardClient
from varl.services.serving.reward_source import RewardAnswer
from varl.services.serving.scoring import ErrorCode, RawSample, SampleError, ScoreBatch
from varl.services.serving.service import State, check_samples, metadata_refusal
from varl.services.serving.status import RejectionCode, RequestRejectedError, shown
from varl.v1 import reward_pb2

_NO_FORMULAS: Mapping[str, str] = MappingProxyType({})


class Gateway:
    """A ``RewardSource`` over gRPC services. Belongs to the event loop that runs when it is made."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises OSError or ValueError where the token or the authority cannot be read."""
        self.settings = settings
        self.state = State.LOADING
        self._backends = _backends(settings)
        self._watches: list[asyncio.Task[None]] = []
        self._admission = Admission(settings.max_in_flight, settings.max_in_flight_bytes)
        self.metrics = GatewayMetrics()
        gauge = self.metrics.gauge
        gauge(
            "varl_gateway_samples_in_flight", "Samples taken in and not yet answered.", lambda: self._admission.samples
        )
        gauge(
            "varl_gateway_bytes_in_flight",
            "Bytes of images taken in and not yet answered.",
            lambda: self._admission.bytes,
        )
        ready = {name: partial(self._is_ready, name) for name in self._backends}
        self.metrics.gauges("varl_gateway_reward_ready", "1 where a reward can score, else 0.", ready)

    def _is_ready(self, name: str) -> float:
        return float(self.states()[name] == READY)

    async def start(self) -> None:
        """Follow every service; return once one of them serves."""
        self._watches = [asyncio.create_task(backend.watch()) for backend in self._backends.values()]
        waits = [asyncio.create_task(backend.serves.wait()) for backend in self._backends.values()]
        try:
            async with Wait(f"the first of {', '.join(self._backends)}").telling():
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.state = State.READY

    async def close(self) -> None:
        """Follow the services no more and close the connections."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.gather(*(backend.close() for backend in self._backends.values()))

    @property
    def rewards(self) -> tuple[str, ...]:
        """Names of the rewards, as in the settings."""
        return tuple(self._backends)

    def states(self) -> Mapping[str, str]:
        """What each reward is doing; all are "draining" once the gateway is told to stop."""
        if self.state is State.DRAINING:
            return dict.fromkeys(self._backends, str(self.state))
        return {name: backend.state for name, backend in self._backends.items()}

    def infos(self) -> Mapping[str, reward_pb2.GetInfoResponse | None]:
        """What each service last said it offers; None where it was never there."""
        return {name: backend.info for name, backend in self._backends.items()}

    @contextmanager
    def counted(self, protocol: str) -> Iterator[None]:
        """Count what happens to one request on ``protocol`` ("http"), from reading it to answering it."""
        began = time.monotonic()
        outcome = "internal"
        try:
            yield
            outcome = "ok"
        except RequestRejectedError as rejection:
            outcome = rejection.code
            raise
        except (asyncio.CancelledError, ClientDisconnect):
            outcome = "client_gone"
            raise
        finally:
            self.metrics.request(protocol, outcome)
            self.metrics.duration(time.monotonic() - began)

    async def score_rewards(
        self, batch: ScoreBatch, rewards: Sequence[str], formulas: Mapping[str, str] = _NO_FORMULAS
    ) -> Mapping[str, RewardAnswer]:
        """As ``RewardSource`` says; ``formulas`` go before the batch's for the rewards that they name."""
        self._check_names("rewards", rewards)
        self._check_names("formulas", tuple(formulas))
        check_samples(batch.samples, self.settings.max_samples)
        samples = []
        for sample in batch.samples:
            samples.append(_bounded(sample, self.settings.max_image_bytes))
            if sample.metadata:
                await asyncio.sleep(0)  # checking it takes long; others have their turn
        try:
            return await self._admitted(replace(batch, samples=tuple(samples)), rewards, formulas)
        except RequestRejectedError as rejection:  # of the gateway's own, whichever reward it is
            return dict.fromkeys(rewards, rejection)

    def _check_names(self, field: str, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._backends:
                detail = f"{field}: {shown(name)} is not on offer, only {', '.join(self._backends)}"
                raise RequestRejectedError(RejectionCode.NO_SUCH_REWARD, detail)

    async def _admitted(
        self, batch: ScoreBatch, rewards: Sequence[str], formulas: Mapping[str, str]
    ) -> Mapping[str, RewardAnswer]:
        if self.state is State.DRAINING:
            raise RequestRejectedError(RejectionCode.NOT_READY, "the gateway is draining", retry_after=1.0)
        size = sum(len(sample.image) for sample in batch.samples if isinstance(sample.image, bytes))
        deadline = min(
            time.monotonic() + self.settings.request_seconds, math.inf if batch.deadline is None else batch.deadline
        )
        with self._admission.admit(len(batch.samples), size, deadline):
            messages = sample_messages(batch.samples)
            asked = (self._ask(name, messages, batch, formulas.get(name, batch.formula), deadline) for name in rewards)
            return dict(zip(rewards, await asyncio.gather(*asked), strict=True))

    async def _ask(
        self, name: str, messages: Sequence[reward_pb2.Sample], batch: ScoreBatch, formula: str, deadline: float
    ) -> RewardAnswer:
        began = time.monotonic()
        answer = await self._backends[name].score(messages, batch.samples, formula, deadline - began)
        outcome = answer.code if isinstance(answer, RequestRejectedError) else "ok"
        self.metrics.answer(name, outcome, time.monotonic() - began)
        return answer


def _backends(settings: GatewaySettings) -> dict[str, Backend]:
    credentials, seconds = settings.backend_files().read(), settings.request_seconds
    clients = {
        name: RewardClient(target, seconds, credentials=credentials, patient=False)
        for name, target in settings.reward.items()
    }
    return {name: Backend(name, client) for name, client in clients.items()}


def _bounded(sample: RawSample, max_bytes: int) -> RawSample:
    """The sample, or in place of its image why no service is sent it."""
    refused = metadata_refusal(sample)
    if refused and not isinstance(sample.image, SampleError):
        return replace(sample, image=refused, metadata={})
    if isinstance(sample.image, SampleError) or len(sample.image) <= max_bytes:
        return sample
    detail = f"image: {len(sample.image)} bytes, at most {max_bytes} are taken"
    return replace(sample, image=SampleError(ErrorCode.IMAGE_TOO_LARGE, detail))
