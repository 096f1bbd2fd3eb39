"""Settings of the service around a reward of one's own."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from varl.services.reward.place import parse_place
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.settings import Count, Seconds, ServingSettings


class RewardSettings(ServingSettings):
    """Serves a reward of one's own, a subclass of varl.reward.Reward."""

    model_config = SettingsConfigDict(env_prefix="VARL_REWARD_", cli_prog_name="python -m varl.services.reward")

    reward: CliPositionalArg[str] = Field(description="The class: PATH.py:Class, or package.module:Class.")
    device: str = Field("cpu", description="Handed to the reward's load: cpu, cuda:0, …")
    max_batch: Count | None = Field(
        None, description="Samples in one call of score at most; default: the class's batch_size."
    )
    max_wait: Seconds = Field(0.0, description="Seconds that a free reward waits for a fuller batch.")

    @field_validator("reward")
    @classmethod
    def _is_there(cls, reward: str) -> str:
        parse_place(reward)
        return reward

    def scoring_limits(self, batch_size: int) -> BatchLimits:
        """Limits of a batcher for a class with this ``batch_size``."""
        return self.batch_limits(self.max_batch or batch_size, max_wait=self.max_wait)
