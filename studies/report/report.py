"""report.html of a run directory: figures with their errors, curves, and the same held-out prompts before and after.

``varl report runs/demo`` writes it again from the files that the run left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict

from varl.evaluation.drift import drifts
from varl.evaluation.measures.appearance import BY_NAME as APPEARANCE
from varl.evaluation.results import Evaluation, difference
from varl.evaluation.samplers import name_of
from varl.launch.machine import Machine
from varl.policy.base import Grid
from varl.studies.compare import Comparison
from varl.studies.report.charts import CHARTS, draw, draw_histogram, held_out_charts
from varl.studies.report.course import SampleGrid, grids
from varl.studies.report.next_steps import next_steps
from varl.studies.report.readings import CONFIG_FILE, Figure, evaluation_file, load_evaluation, title
from varl.studies.report.rows import changed_most, pairs
from varl.studies.report.samplers import BestAgainstBest, SamplerPair, best_against_best
from varl.studies.report.weighing import masked_sample, scale_shares
from varl.trainer.disk.atomic import write_durably
from varl.trainer.disk.metrics_log import METRICS_FILE, read_rows
from varl.trainer.disk.wandb_run import read_place
from varl.trainer.objectives.mask_propagation import corners_of
from varl.trainer.recipe.changes import read_resolved
from varl.trainer.recipe.config import Recipe

FACTS_FILE, REPORT_FILE = "facts.json", "report.html"
TEMPLATE = "report.html.j2"


class RunFacts(BaseModel):
    """What neither the recipe nor the metrics say about a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    finished: str  # date and time, with zone
    machine: Machine
    stages: dict[str, float]  # title -> seconds, in order
    pictures: int = 12  # prompts that are shown before and after whatever became of them
    grids: tuple[Grid, ...] = ()  # (height, width) of the model's scales; none in runs of older versions


@dataclass(frozen=True)
class Extras:
    """What a page may have. wandb_url: of the run in Weights & Biases; empty: it has none."""

    course: Sequence[SampleGrid] = ()
    wandb_url: str = ""
    beside: Sequence[Comparison] = ()


def write_report(directory: Path, beside: Sequence[Comparison] = ()) -> Path:
    """Write ``directory``/report.html from the run's files and return its path; ``beside``: other runs against it.

    Raises:
        OSError: a file of the run is missing.
        ValueError: a file of the run is not what it should be.
    """
    recipe_text = (directory / CONFIG_FILE).read_text(encoding="utf-8")
    recipe = read_resolved(directory / CONFIG_FILE)  # the environment of today did not make the run
    page = render(
        recipe,
        RunFacts.model_validate_json((directory / FACTS_FILE).read_bytes()),
        load_pairs(directory, recipe),
        read_rows(directory / METRICS_FILE),
        recipe_text,
        Extras(grids(directory), place.url if (place := read_place(directory)) else "", beside),
    )
    path = directory / REPORT_FILE
    write_durably(path, page)
    return path


def load_pairs(directory: Path, recipe: Recipe) -> list[SamplerPair]:
    """Both evaluations by sampler, the recipe's own first; one that the run has not left is left out."""
    own = SamplerPair(
        name_of(recipe.evaluation.sampling.params()),
        load_evaluation(directory, "before"),
        load_evaluation(directory, "after"),
    )
    others = [
        SamplerPair(name, load_evaluation(directory, f"before-{name}"), load_evaluation(directory, f"after-{name}"))
        for name in recipe.evaluation.samplers
        if evaluation_file(directory, f"after-{name}").exists()
    ]
    return [own, *others]


def render(
    recipe: Recipe,
    facts: RunFacts,
    by_sampler: Sequence[SamplerPair],
    rows: Sequence[dict[str, float]],
    recipe_text: str,
    extras: Extras,
) -> str:
    """The page, self-contained; the first of ``by_sampler`` is the recipe's own and makes the headlines."""
    before, after = by_sampler[0].before, by_sampler[0].after
    headline = headlines(tuple(after.measures()))[0]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": _duration, "points": _points, "figure_name": _figure_name}
    charts = [*CHARTS, *held_out_charts(after.measures())]
    drawn = [(chart, svg) for chart in charts if (svg := draw(chart, rows)) is not None]
    best, shown = best_against_best(by_sampler, headline), pairs(before, after)
    tables = [(pair.name, figures(pair.before, pair.after)) for pair in by_sampler]
    found = tables[0][1]
    values: dict[str, Any] = {
        "recipe": recipe,
        "facts": facts,
        "before": before,
        "after": after,
        "figures": found,
        "by_sampler": tables,
        "best": best.words(title(headline)),
        "sentence": sentence(found[0], best),
        "extras": extras,
        "APPEARANCE": APPEARANCE,
        "shares": scale_shares(facts.grids, recipe.objective, recipe.run.updates) if facts.grids else [],
        "masked": masked_sample(shown, facts.grids, recipe.objective.mask_propagation),
        "histogram": draw_histogram(before, after),
        "common": difference(before, after).prompts,
        "charts": drawn,
        "drifts": drifts(before, after, recipe.evaluation.drift.limits()),
        "reads": "word_accuracy" in after.measures(),
        "pairs": shown[: facts.pictures],
        "changed": changed_most(shown[facts.pictures :], facts.pictures // 2),
        "failed": [(side.tag, failed) for side in (before, after) for failed in side.failed],
        "recipe_text": recipe_text,
        "updates": after.weight_version,
        "next_steps": next_steps(recipe, after.prompts[0].prompt),
    }
    return environment.get_template(TEMPLATE).render(values)


def figures(before: Evaluation, after: Evaluation) -> list[Figure]:
    """The headlines: the measures that both sides have, Word Accuracy and NED standing for the reward that reads."""
    changes = difference(before, after).changes
    return [
        Figure(title(name), before.estimate(name), after.estimate(name), changes[name])
        for name in headlines(tuple(changes))
    ]


def sentence(figure: Figure, best: BestAgainstBest) -> str:
    """The result in one sentence: the first headline, and what of it no sampler gives the base."""
    moved, error = figure.change.value, figure.change.error
    verdict = (
        "rose" if moved > 2 * error else "fell" if moved < -2 * error else "did not move beyond two standard errors:"
    )
    return (
        f"{figure.name} {verdict} from {figure.before.value:.3f} to {figure.after.value:.3f} "
        f"({moved:+.3f} ± {error:.3f}); each at its best sampler, training is worth "
        f"{best.change.value:+.3f} ± {best.change.error:.3f}."
    )


def headlines(measures: Sequence[str]) -> list[str]:
    """The measures to show first: what was read in place of OCR's reward; not the weighted sum, nor the appearance."""
    return [
        name
        for name in measures
        if name != "reward"
        and not name.startswith(APPEARANCE)
        and not (name == "reward/ocr" and "word_accuracy" in measures)
    ]


def _points(polygon: Sequence[float]) -> str:
    """Corners as SVG takes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in corners_of(polygon))


def _figure_name(measure: str) -> str:
    return measure.removeprefix(APPEARANCE).replace("_", " ")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
