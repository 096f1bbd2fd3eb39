"""The tables of a recipe: every setting of a run with its range, default and meaning.

Numbers in brackets, as in [point 3], name the open points of the method (docs/method.md) that a setting decides.
"""

from varl.trainer.recipe.sections.bounds import (
    MOST,
    MOST_SMALL_DECAY,
    YEAR_S,
    Action,
    Count,
    Decay,
    Images,
    Minutes,
    Name,
    NonNegative,
    Number,
    Positive,
    Seconds,
    Section,
    Seed,
)
from varl.trainer.recipe.sections.model import LoraSettings, ModelSettings, PromptSettings, RunSettings
from varl.trainer.recipe.sections.objective import ObjectiveSettings, OptimizerSettings, ParallelSettings
from varl.trainer.recipe.sections.rollout import RewardSettings, RolloutSettings, SamplingSettings
from varl.trainer.recipe.sections.upkeep import (
    CheckpointSettings,
    DriftSettings,
    EvaluationSettings,
    GuardSettings,
    MetricsSettings,
)

__all__ = [
    "MOST",
    "MOST_SMALL_DECAY",
    "YEAR_S",
    "Action",
    "CheckpointSettings",
    "Count",
    "Decay",
    "DriftSettings",
    "EvaluationSettings",
    "GuardSettings",
    "Images",
    "LoraSettings",
    "MetricsSettings",
    "Minutes",
    "ModelSettings",
    "Name",
    "NonNegative",
    "Number",
    "ObjectiveSettings",
    "OptimizerSettings",
    "ParallelSettings",
    "Positive",
    "PromptSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SamplingSettings",
    "Seconds",
    "Section",
    "Seed",
]
