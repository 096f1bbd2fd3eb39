"""The tables of a recipe: every setting of a run with its range, default and meaning.

Numbers in brackets, as in [point 3], name the open points of the method (docs/method.md) that a setting decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from varl.evaluation.samplers import Sampler, parse_sampler
from varl.policy.base import LogProbs, SamplingParams, Trainable
from varl.policy.load import DtypeName
from varl.trainer.objectives.grpo import KlEstimator
from varl.trainer.objectives.loss import LossSettings, RatioGranularity
from varl.trainer.objectives.mask_propagation import MaskPropagation
from varl.trainer.objectives.panw import Normaliser
from varl.trainer.objectives.rewards import Combination
from varl.trainer.objectives.vmr import Stage, Stages, stage_of
from varl.trajectories.job_checks import MAX_CONTINUATIONS, MAX_GROUP_SIZE, MAX_RUN_ID_CHARS, RUN_ID

MOST = 10**6  # of updates, prompts and whatever else is counted: more is a slip of the pen, as it is for every factor
Count = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[int, Field(ge=1, le=MOST)]
Images = Annotated[int, Field(ge=1, le=MAX_GROUP_SIZE)]  # of one group
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
Decay = Annotated[float, Field(ge=0, lt=1)]
YEAR_S = 366 * 24 * 3600.0
Seconds = Annotated[float, Field(ge=0, le=YEAR_S)]
Minutes = Annotated[float, Field(gt=0, le=YEAR_S / 60)]
Action = Literal["stop", "skip", "off"]
Name = Annotated[str, Field(pattern=RUN_ID, max_length=MAX_RUN_ID_CHARS)]


class Section(BaseModel):
    """One table of the recipe; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunSettings(Section):
    """Identity and length of the run."""

    name: Name = Field(default="run", description="name of the run: its directory under dir, and its run id in Redis")
    dir: Path = Field(default=Path("runs"), description="where run directories are made")
    seed: Seed = Field(default=0, description="every prompt order and every candidate's seed derive from it")
    updates: Number = Field(default=300, description="number of updates")
    device: str = Field(default="cpu", description="torch device of the trainer")
    threads: int = Field(default=0, ge=0, le=4096, description="CPU threads of torch; 0: torch's own choice")


class LoraSettings(Section):
    """Low-rank adapters in place of full tuning (varl.policy.lora); they have no dropout, which samplers lack too."""

    rank: Count = Field(default=0, description="of the adapters; 0: none, the weights themselves are trained")
    alpha: Positive = Field(default=32.0, description="the adapters' product is multiplied by alpha / rank")
    targets: tuple[str, ...] = Field(
        default=(), description="linear layers that get adapters, by the last part of their names; empty: all of them"
    )


class ModelSettings(Section):
    """The policy that is trained."""

    dir: Path = Field(
        default=Path("checkpoints/tiny"), description="directory of the base model; also the reference policy"
    )
    dtype: DtypeName = Field(
        default="float32",
        description="of weights and arithmetic; bfloat16 keeps no float32 copy, so steps below its rounding are lost",
    )
    plugin: str = Field(
        default="",
        description="package.module:function that loads the directory, for a model of your own; "
        "empty: config.json names the architecture",
    )
    trainable: Trainable = Field(
        default="all", description="which parameters are trained: all, or the model's gains alone"
    )
    lora: LoraSettings = LoraSettings()

    @model_validator(mode="after")
    def _adapters_or_gains(self) -> ModelSettings:
        if self.lora.rank and self.trainable != "all":
            raise ValueError(f"lora.rank: adapters are trained in place of the {self.trainable}, set one of them")
        return self


class PromptSettings(Section):
    """JSON Lines files of prompts.

    Each line is {"prompt": str}, with "target_words": [str] for OCR and "metadata": {…} for rewards that want it.
    """

    train: Path = Field(
        default=Path("recipes/prompts/tiny_train.jsonl"),
        description="prompts of the updates, drawn without replacement in seeded epochs",
    )
    held_out: Path = Field(
        default=Path("recipes/prompts/tiny_heldout.jsonl"),
        description="prompts of the evaluation; none of them is ever trained on",
    )


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
        "empty: ocr or hpsv3, by name",
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
        description="constant_total keeps the sum of the weights, sum_to_one, or none [point 5]",
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

    @model_validator(mode="after")
    def _falls_forwards(self) -> OptimizerSettings:
        if self.decay_until and not self.warmup_updates <= self.decay_from < self.decay_until:
            raise ValueError(
                f"decay_from: {self.decay_from} is not from warmup_updates to below decay_until ({self.decay_until})"
            )
        return self

    @model_validator(mode="after")
    def _moments_move(self) -> OptimizerSettings:
        if self.state_dtype == "bfloat16" and max(self.betas) > 0.99:
            raise ValueError(
                f"state_dtype: bfloat16 rounds away what a step changes at betas {self.betas}; .99 is the most"
            )
        return self


class ParallelSettings(Section):
    """How the ranks of a run on several devices compute, each started by torchrun; see docs/several_gpus.md."""

    compute_dtype: Literal["same", "bfloat16"] = Field(
        default="same",
        description="of gathered weights and of arithmetic; weights, sums of gradients, moments and averages stay as "
        "model.dtype says",
    )
    recompute: bool = Field(
        default=False,
        description="compute each block again on the way back instead of keeping its inside: less memory, a third "
        "more time",
    )


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
    colour_distance: NonNegative = Field(default=10.0, description="of the mean colour, in CIELAB units")

    def limits(self) -> dict[str, float]:
        """The limits by figure."""
        return self.model_dump(exclude={"action"})


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
