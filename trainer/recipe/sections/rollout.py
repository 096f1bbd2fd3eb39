"""What is asked of the rollout workers, and which rewards they ask."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from varl.launch.rewards import is_synthetic
from varl.policy.base import SamplingParams
from varl.trainer.recipe.sections.bounds import MOST, YEAR_S, Count, Name, NonNegative, Number, Positive, Section
from varl.trajectories.job_checks import MAX_CONTINUATIONS, MAX_GROUP_SIZE


class SamplingSettings(Section):
    """How rollouts draw a token; ``objective.log_probs`` says of which distribution the log-probabilities are."""

    temperature: Positive = Field(default=1.0, description="divides the logits")
    top_k: Count = Field(default=0, description="keep the k best codes; 0: all")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="keep the smallest set of codes with this much probability"
    )
    cfg: NonNegative = Field(default=0.0, description="classifier-free guidance at the last scale; 0: off")
    cfg_constant: bool = Field(
        default=False, description="guidance equal on all scales instead of a ramp from 0 [point 11]"
    )

    def params(self) -> SamplingParams:
        """The same values as the policy takes them."""
        return SamplingParams(**self.model_dump())


class RewardSettings(Section):
    """One reward service's part of the total reward."""

    name: Name = Field(description="name by which the rollout workers know the service")
    weight: float = Field(default=1.0, ge=-MOST, le=MOST, description="factor of the raw value in the total reward")
    required: bool = Field(
        default=True,
        description="true: a group without it is dropped; "
        "false: where it fails for an image it is left out of the sum for the whole group",
    )
    serve: str = Field(
        default="",
        pattern=r"^$|^.+:[A-Za-z_]\w*$",
        description="a reward of one's own to start locally: PATH.py:Class or package.module:Class; "
        "empty: ocr or hpsv3, by name; hpsv3 without a checkpoint in arguments is the synthetic 64x64 model",
    )
    address: str = Field(
        default="",
        pattern=r"^$|^.+:\d+$",
        description="host:port (gRPC) of a service that runs already, for the worker that is started with the run; "
        "a worker started elsewhere has addresses of its own (varl rollout --reward)",
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description="flags of the service that is started with the run, which pin its engine and model; "
        "none where it has an address",
    )

    @property
    def file(self) -> Path | None:
        """The Python file that ``serve`` names, if any."""
        module = self.serve.rpartition(":")[0]
        return Path(module) if module.endswith(".py") else None

    @property
    def is_synthetic(self) -> bool:
        """Whether a local start would take the synthetic preference model, since nothing names a checkpoint."""
        return not (self.serve or self.address) and is_synthetic(self.name, self.arguments)

    @model_validator(mode="after")
    def _one_place(self) -> RewardSettings:
        if self.serve and self.address:
            raise ValueError(f"reward {self.name!r}: serve and address: one of them says where it is")
        if self.arguments and self.address:
            raise ValueError(f"reward {self.name!r}: arguments: the service at address has flags of its own")
        return self


class RolloutSettings(Section):
    """What is asked of the rollout workers for one update."""

    prompts_per_update: Number = Field(default=16, description="groups of an update")
    group_size: int = Field(default=16, ge=2, le=MAX_GROUP_SIZE, description="candidates G of a group")
    continuations: int = Field(
        default=2,
        ge=1,
        le=MAX_CONTINUATIONS,
        description="continuations K of every prefix candidate; unused outside of the prefix stage",
    )
    sampling: SamplingSettings = SamplingSettings()
    rewards: tuple[RewardSettings, ...] = Field(
        default=(RewardSettings(name="ocr"),), min_length=1, description="rewards, one of them required at least"
    )
    redis_url: str = Field(
        default="",
        description="Redis of jobs and trajectories; empty: REDIS_URL from the environment, where a password belongs",
    )
    redis_password_file: Path | None = Field(
        default=None, description="file with Redis's password; a user of its ACL is named in the URL"
    )
    redis_ca_file: Path | None = Field(
        default=None, description="PEM file of the authority that signed Redis's certificate, for rediss:// URLs"
    )
    redis_cert_file: Path | None = Field(
        default=None, description="PEM file of the trainer's own certificate, where Redis asks for one"
    )
    redis_key_file: Path | None = Field(default=None, description="PEM file of its key")
    group_timeout_s: float = Field(
        default=600.0, gt=0, le=YEAR_S, description="give up when no group arrives for this long"
    )
    max_attempts: Number = Field(default=3, description="attempts at a group that fails before it is dropped")
    max_replacements: Count = Field(
        default=2, description="other prompts tried in the place of a group that is dropped"
    )
    max_staleness: Count = Field(
        default=0,
        description="updates between the weights that draw a group and those that it trains; "
        "0: strictly on-policy, nothing overlaps",
    )
    max_empty_updates: Number = Field(
        default=3, description="give up after this many updates in a row in which every group was dropped"
    )

    def evaluated(self) -> dict[str, float]:
        """Weight by name of the rewards that evaluations have.

        One that may be absent is in none: two evaluations must not differ in what they are made of.
        """
        return {reward.name: reward.weight for reward in self.rewards if reward.required}
