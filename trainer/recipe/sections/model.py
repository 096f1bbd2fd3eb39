"""What is trained: the run, its model and its prompts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from varl.policy.base import Trainable
from varl.policy.load import DtypeName
from varl.trainer.recipe.sections.bounds import Count, Name, Number, Positive, Section, Seed


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
    """Files of prompts: JSON Lines, text with a prompt a line (.txt), a table (.csv), or a folder of .txt files.

    A JSON line is {"prompt": str}, with "target_words": [str] for OCR and "metadata": {…} for rewards that want it.
    """

    train: Path = Field(
        default=Path("recipes/prompts/tiny_train.jsonl"),
        description="prompts of the updates, drawn without replacement in seeded epochs",
    )
    held_out: Path = Field(
        default=Path("recipes/prompts/tiny_heldout.jsonl"),
        description="prompts of the evaluation; none of them is ever trained on",
    )
