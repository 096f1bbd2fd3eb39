"""The seam between the protocols and whatever answers them.

A service with one model, or a gateway over several rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from varl.services.serving.scoring import BatchResult, ScoreBatch
from varl.services.serving.status import RequestRejectedError

RewardAnswer = BatchResult | RequestRejectedError


class RewardSource(Protocol):
    """Scores samples by one or more rewards, each with an answer of its own."""

    @property
    def rewards(self) -> tuple[str, ...]:
        """Names of the rewards on offer, in a fixed order."""

    def states(self) -> Mapping[str, str]:
        """What each reward is doing: "ready", or why it cannot score ("loading", "draining", "unreachable")."""

    def counted(self, protocol: str) -> AbstractContextManager[None]:
        """Count what happens to one request on ``protocol`` ("http", "grpc"), from reading it to answering it."""

    async def score_rewards(self, batch: ScoreBatch, rewards: Sequence[str]) -> Mapping[str, RewardAnswer]:
        """One answer per name of ``rewards``, in their order.

        A reward that could not score the batch has its rejection for an answer.

        Raises:
            RequestRejectedError: the request itself is wrong, for example a name that is not on offer (NO_SUCH_REWARD).

        """
