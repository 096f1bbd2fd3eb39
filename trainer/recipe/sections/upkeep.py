"""What goes on around the steps: checkpoints, guards, metrics and evaluations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from varl.evaluation.samplers import Sampler, parse_sampler
from varl.trainer.recipe.sections.bounds import (
    MOST,
    Action,
    Count,
    Images,
    NonNegative,
    Number,
    Positive,
    Seconds,
    Section,
    Seed,
)
from varl.trainer.recipe.sections.rollout import SamplingSettings


class CheckpointSettings(Section):
    """What is kept on disk."""

    every: Number = Field(
        default=25, description="updates between checkpoints; trajectories are acknowledged with them"
    )
    keep: Number = Field(default=2, description="newest checkpoints kept")
    best: str = Field(
        default="eval/reward",
        description="metric of the evaluations whose highest value marks a checkpoint "
        "that is kept as well; empty: none",
    )
    keep_weights: Number = Field(default=3, description="published weight files kept; more where staleness needs them")
    disk_patience_s: Seconds = Field(
        default=600.0,
        description="how long the run waits for a disk or store that takes no weights, metrics or sample grids; "
        "then it can be resumed",
    )
    weights_url: str = Field(
        default="",
        description="where weights are published for the workers, any URL of fsspec (s3://…, gs://…, file://…); "
        "empty: the run directory",
    )


class GuardSettings(Section):
    """What happens where a number cannot be right: stop the run, skip the group or the update, or nothing (off).

    Each occurrence is counted as guard/<name>.
    """

    non_finite: Action = Field(
        default="skip", description="NaN or infinity in rewards (the group), in the loss or in gradients (the update)"
    )
    first_ratio: Action = Field(
        default="skip",
        description="on-policy groups whose sampler reports other probabilities than the trainer's own (the update)",
    )
    ratio_tolerance: Positive = Field(
        default=0.5, description="largest deviation of such ratios from 1, at ratio_quantile, that is rounding"
    )
    ratio_quantile: float = Field(
        default=0.99,
        gt=0,
        le=1,
        description="share of an update's on-policy tokens whose ratios deviate by ratio_tolerance at most; "
        "1: all of them, which bfloat16 rounding breaks once there are hundreds of thousands",
    )
    duplicates: Action = Field(
        default="skip", description="candidates of a group with the same tokens, hence the same image (the group)"
    )
    duplicate_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of repeated candidates above which a group is refused"
    )
    zero_spread: Action = Field(
        default="skip",
        description="updates in which no group's values have any spread; off: the groups are kept for their KL",
    )
    grad_norm: Action = Field(default="skip", description="a gradient norm far above those before it (the update)")
    grad_norm_factor: float = Field(
        default=50.0, gt=1, le=MOST, description="how many times the running median is far above"
    )
    grad_norm_window: int = Field(
        default=32, ge=8, le=MOST, description="updates of the same stage in the running median, 8 at least"
    )


class MetricsSettings(Section):
    """What is measured beside the loss."""

    diagnostics_every: Count = Field(
        default=10,
        description="updates between gradient norms by scale (at most one more backward pass); 0: off",
    )
    samples_every: Count = Field(default=50, description="updates between sample grids; 0: off")
    sample_prompts: Number = Field(
        default=8, description="rows of a sample grid: the first prompts of the held-out file"
    )
    samples_per_prompt: Images = Field(default=4, description="images in a row of a sample grid")
    wandb: str = Field(
        default="",
        max_length=128,
        pattern=r"^[^/\\#?%:]*$",
        description="project in Weights & Biases that gets metrics, recipe and report as well; empty: none. "
        "Needs the extra wandb; WANDB_MODE, WANDB_API_KEY and WANDB_ENTITY are as its package reads them",
    )


class DriftSettings(Section):
    """How far the images may drift from the base's in what no reward measures, on the same prompts and seeds.

    A change beyond its limit that is more than two standard errors from none is an alarm: eval/drift_alarms, a line in
    the log and in the report. The figures are those of services/rollout/appearance.
    """

    action: Literal["stop", "warn", "off"] = Field(default="warn", description="what an alarm does to the run")
    dark: NonNegative = Field(default=0.1, description="share of dark pixels, in [0, 1]")
    saturated: NonNegative = Field(default=0.1, description="share of saturated pixels, in [0, 1]")
    sharpness: NonNegative = Field(default=15.0, description="mean |Laplacian| of the luma, in grey levels of 255")
    background_entropy: NonNegative = Field(default=1.0, description="bits of the colours outside of text, of 6")
    text_area: NonNegative = Field(default=0.1, description="share of pixels inside boxes with text, in [0, 1]")
    text_contrast: NonNegative = Field(default=0.2, description="luma contrast inside those boxes, in [0, 1]")
    colour_shift: NonNegative = Field(default=10.0, description="of the mean colour of all images, in CIELAB units")
    colour_distance: NonNegative | None = Field(
        default=None,
        description="mean over prompts of how far each one's colour moved, in CIELAB units; none, for at temperature 1 "
        "two images of one prompt differ as much without training",
    )

    def limits(self) -> dict[str, float]:
        """The limits by figure, of those that have one."""
        return self.model_dump(exclude={"action"}, exclude_none=True)


class EvaluationSettings(Section):
    """The rewards' measures on held-out prompts while training; always the same prompts and seeds."""

    every: Count = Field(default=0, description="updates between evaluations; 0: off")
    prompts: Number = Field(default=64, description="held-out prompts used, from the top of the file")
    images_per_prompt: Images = Field(default=1, description="images of each prompt")
    seed: Seed = Field(default=1234, description="seed of all evaluation images")
    samplers: tuple[str, ...] = Field(
        default=(),
        description="other samplers that varl demo reads base and trained weights with: "
        "greedy, or T=0.7,k=50,p=0.9,g=2 in parts; "
        "a gain that a sampler gives the base as well is none",
    )
    sampling: SamplingSettings = SamplingSettings()
    drift: DriftSettings = DriftSettings()

    def other_samplers(self) -> list[Sampler]:
        """``samplers`` as the policy takes them; what one does not say is as in ``sampling``."""
        return [parse_sampler(text, self.sampling.params()) for text in self.samplers]

    @model_validator(mode="after")
    def _known_samplers(self) -> EvaluationSettings:
        self.other_samplers()
        if len(set(self.samplers)) < len(self.samplers):
            raise ValueError("samplers: one is named twice")
        return self
