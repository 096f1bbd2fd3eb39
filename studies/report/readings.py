"""What a run directory keeps of its readings on held-out prompts, and the figures that are made of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from varl.evaluation.estimates import Estimate
from varl.evaluation.results import Evaluation
from varl.trainer.disk.atomic import write_durably

CONFIG_FILE, EVALUATIONS = "config.toml", "evaluations"
TITLES = {"word_accuracy": "Word Accuracy", "ned": "NED"}


@dataclass(frozen=True)
class Figure:
    """One headline: a figure before and after, and its change."""

    name: str
    before: Estimate
    after: Estimate
    change: Estimate

    @property
    def relative(self) -> float:
        """Change as a share of the figure before."""
        return self.change.value / self.before.value if self.before.value else float("nan")

    @property
    def errors(self) -> float:
        """Change in standard errors."""
        return self.change.value / self.change.error if self.change.error else float("nan")


def save_evaluation(directory: Path, evaluation: Evaluation) -> None:
    """Keep an evaluation in the run directory, under its tag."""
    path = evaluation_file(directory, evaluation.tag)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, evaluation.model_dump_json(indent=1))


def load_evaluation(directory: Path, tag: str) -> Evaluation:
    """Read what ``save_evaluation`` wrote; raises OSError or pydantic.ValidationError (a ValueError)."""
    return Evaluation.model_validate_json(evaluation_file(directory, tag).read_bytes())


def evaluation_file(directory: Path, tag: str) -> Path:
    """Where a run directory keeps the evaluation of that tag; it is there whole or not at all."""
    return directory / EVALUATIONS / f"{tag}.json"


def title(measure: str) -> str:
    """A measure's name for readers."""
    return TITLES.get(measure, measure.removeprefix("reward/"))
