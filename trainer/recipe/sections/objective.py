"""What a step does: the objective and the optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from varl.policy.base import LogProbs
from varl.policy.recompute import Recompute
from varl.trainer.objectives.grpo import KlEstimator
from varl.trainer.objectives.loss import LossSettings, RatioGranularity
from varl.trainer.objectives.mask_propagation import MaskPropagation
from varl.trainer.objectives.panw import Normaliser
from varl.trainer.objectives.rewards import Combination
from varl.trainer.objectives.vmr import Stage, Stages, stage_of
from varl.trainer.recipe.sections.bounds import (
    MOST_SMALL_DECAY,
    Count,
    Decay,
    NonNegative,
    Number,
    Positive,
    Section,
)


class ObjectiveSettings(Section):
    """GRPO, VMR, PANW and MP; vanilla GRPO is stages = full, alpha = 0, mask_propagation = off."""

    stages: Stages = Field(
        default="vmr", description="vmr: prefix and suffix updates alternate; full: every update trains all scales"
    )
    split_scale: Number = Field(
        default=3, description="m: the prefix is the scales up to and including the m-th [9.13, 9.14]"
    )
    prefix_per_suffix: Count = Field(
        default=3, description="prefix updates before each turn of the suffix; 0: none, so that it alone is trained"
    )
    suffix_in_a_row: Count = Field(
        default=1, description="suffix updates of a turn; 0: none, so that the prefix alone is trained"
    )
    combination: Combination = Field(
        default="sum",
        description="several rewards: weighted sum, or each divided by its spread within the group before that",
    )
    eta: Positive = Field(default=1.0, description="temperature of the middle value")
    alpha: NonNegative = Field(default=0.6, description="PANW exponent; 0: PANW off [point 6]")
    panw_normaliser: Normaliser = Field(
        default="constant_total",
        description="constant_total keeps the sum of the weights; none leaves them as Eq. 9 has them [point 5]",
    )
    mask_propagation: MaskPropagation = Field(
        default="chained", description="pool masks from grid to grid, draw boxes on every grid, or off [point 7]"
    )
    mask_kl: bool = Field(default=False, description="mask the KL as well as the policy term [point 7]")
    kl_beta: NonNegative = Field(
        default=0.02, description="coefficient of the KL to the reference policy [point 2]; 0: only measured"
    )
    kl_estimator: KlEstimator = Field(
        default="exact", description="exact: summed over the codebook; k3: from the drawn token [point 2]"
    )
    kl_anchor: Literal["initial", "previous"] = Field(
        default="initial", description="reference: the base model, or the weights one update ago [point 3]"
    )
    clip_low: float = Field(default=0.2, gt=0, lt=1, description="ratios are clipped below 1 - clip_low [point 4]")
    clip_high: Positive = Field(default=0.2, description="ratios are clipped above 1 + clip_high [point 4]")
    ratio: RatioGranularity = Field(
        default="token",
        description="probability ratio of each token, or of whole grids; the same when on-policy [point 15]",
    )
    log_probs: LogProbs = Field(
        default="plain",
        description="the distribution that is trained: "
        "plain, the conditional one at temperature 1, or sampled, with the rollouts' "
        "temperature and guidance (one more pass) but without their truncation, which has no gradient [point 10]",
    )
    old_log_probs: Literal["recomputed", "reported"] = Field(
        default="recomputed",
        description="denominator of the ratio: "
        "the trainer's own log-probabilities (ratio exactly 1) or the sampler's [point 10]",
    )
    zero_std: Literal["skip", "keep"] = Field(
        default="skip", description="groups of equal values: leave out, or keep for their KL [point 16]"
    )
    advantage_eps: Positive = Field(
        default=1e-6, description="added to the std of a group; a std up to it counts as zero [point 16]"
    )

    @model_validator(mode="after")
    def _something_is_trained(self) -> ObjectiveSettings:
        if self.stages == "vmr" and self.prefix_per_suffix + self.suffix_in_a_row == 0:
            raise ValueError("prefix_per_suffix and suffix_in_a_row cannot both be 0")
        return self

    def stage(self, update: int) -> Stage:
        """The stage of an update, counted from 0."""
        return stage_of(update, self.stages, self.prefix_per_suffix, self.suffix_in_a_row)

    def stages_within(self, updates: int) -> list[Stage]:
        """The different stages of the first so many updates."""
        return list(dict.fromkeys(map(self.stage, range(updates))))

    def loss(self) -> LossSettings:
        """The coefficients that the loss takes."""
        return LossSettings(self.kl_beta, self.clip_low, self.clip_high, self.ratio, self.mask_kl)


class OptimizerSettings(Section):
    """AdamW, its learning rate and what follows a step."""

    lr: Positive = Field(default=1e-4, description="learning rate after the warm-up [point 1]")
    gain_lr_factor: Positive = Field(
        default=1.0,
        description="factor of the learning rate for the gains of the normalisation layers, "
        "which sharpen or flatten all codes",
    )
    warmup_updates: Count = Field(default=0, description="updates of linear warm-up; 0: none [point 1]")
    warmup_from: NonNegative = Field(
        default=1e-6, description="learning rate of the first update of a warm-up [point 1]"
    )
    decay_from: Count = Field(default=0, description="update from which the learning rate falls")
    decay_until: Count = Field(default=0, description="update at which it would reach 0; 0: it stays as it is")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="AdamW's decay rates")
    eps: Positive = Field(default=1e-8, description="AdamW's epsilon")
    weight_decay: NonNegative = Field(default=0.05, description="AdamW's weight decay, on all trained parameters")
    grad_clip: NonNegative = Field(default=1.0, description="largest gradient norm; 0: off")
    ema_decay: Decay = Field(
        default=0.0,
        description="decay an update of the averaged weights that are evaluated and kept; 0: off",
    )
    candidates_per_pass: Count = Field(
        default=0, description="candidates of a group in one forward pass; 0: all (affects memory only)"
    )
    state_dtype: Literal["same", "bfloat16"] = Field(
        default="same",
        description="of AdamW's two moments between steps: the weights' own, or bfloat16, half of float32's memory; "
        "steps are computed in float32",
    )
    recompute: Recompute = Field(
        default="long",
        description="compute the model's blocks again on the way back in place of keeping their insides, which takes "
        "less memory and a third more time: in long passes, always or never",
    )

    @model_validator(mode="after")
    def _falls_forwards(self) -> OptimizerSettings:
        if self.decay_until and not self.warmup_updates <= self.decay_from < self.decay_until:
            raise ValueError(
                f"decay_from: {self.decay_from} is not from warmup_updates to below decay_until ({self.decay_until})"
            )
        return self

    @model_validator(mode="after")
    def _moments_move(self) -> OptimizerSettings:
        if self.state_dtype == "bfloat16" and max(self.betas) > MOST_SMALL_DECAY:
            raise ValueError(
                f"state_dtype: bfloat16 rounds away what a step changes at betas {self.betas}; "
                f"{MOST_SMALL_DECAY} is the most"
            )
        return self


class ParallelSettings(Section):
    """How the ranks of a run on several devices compute, each started by torchrun; see docs/several_gpus.md."""

    compute_dtype: Literal["same", "bfloat16"] = Field(
        default="same",
        description="of gathered weights and of arithmetic; weights, sums of gradients, moments and averages stay as "
        "model.dtype says",
    )
