"""What a study says: study.json with every run, and a page with tables and a chart."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from varl.evaluation.measures.appearance import BY_NAME
from varl.studies.study.chart import draw_curves
from varl.studies.study.drift import DRIFT_NOTE, drift_table
from varl.studies.study.gradients import NOISE_NOTE, NOTE, PREFIX_NOTE, by_scale_table, noise_table, prefix_table
from varl.studies.study.plan import Study
from varl.studies.study.results import RunResult, at_seconds, by_arm, row_of, runs_by_arm
from varl.studies.study.run import Findings
from varl.studies.study.statistics import Contrast, Mean, contrasts, differences, mean_over_seeds
from varl.studies.study.tables import table
from varl.trainer.disk.atomic import write_durably
from varl.trainer.progress.time_left import in_words

JSON_FILE, PAGE_FILE, CHART_FILE = "study.json", "study.md", "study.svg"


def write_summary(folder: Path, study: Study, found: Findings, command: str) -> Path:
    """Write study.json, study.md and study.svg into ``folder`` and return the page's path."""
    tested = contrasts(study.contrasts, by_arm(found.runs, study.measure))
    record = study_record(study, found, tested) | {"command": command}
    write_durably(folder / JSON_FILE, json.dumps(_finite(record), indent=1) + "\n")
    write_durably(folder / CHART_FILE, draw_curves(study, found.runs, found.controls))
    write_durably(folder / PAGE_FILE, page(study, found, tested))
    return folder / PAGE_FILE


def study_record(study: Study, found: Findings, tested: Sequence[Contrast]) -> dict[str, Any]:
    """study.json but for the command."""
    return {
        "study": study.model_dump(mode="json", exclude={"arms"}),
        "arms": {name: arm.recipe | {"learning_rate": found.rates.get(name)} for name, arm in study.arms.items()},
        "runs": [row_of(result) for result in found.runs],
        "tuning": [row_of(result) for result in found.tuning],
        "controls": found.controls,
        "contrasts": [vars(one) | {"difference": vars(one.difference)} for one in tested],
        "failures": found.failures,
        "seconds_an_image": found.pace and found.pace.seconds_an_image,
    }


def page(study: Study, found: Findings, tested: Sequence[Contrast]) -> str:
    """The page in Markdown."""
    arms, seeds = ({getattr(run, name) for run in found.runs} for name in ("arm", "seed"))
    parts = [
        f"# {study.name}",
        f"Arms: {_part(arms, study.arms)}. Seeds: {_part(seeds, study.seeds)}. Scored images a run: {study.images}."
        f" Held-out prompts: {study.prompts}. {trained_on(found.runs)}.",
        f"![{study.measure} by scored images]({CHART_FILE})",
        "## Arms",
        arms_table(study, found),
        f"± is the half-width of a 95 % interval over seeds (Student's t). {MINUS_NOTE} {wall_time_note(found)}",
    ]
    if others := measures_table(study, found.runs):
        parts += ["## Every measure", others]
    if tested:
        parts += ["## Planned contrasts", contrast_table(study, tested), CONTRAST_NOTE]
    if found.controls:
        parts += ["## The base, without training", controls_table(study, found.controls), CONTROL_NOTE]
    if drift := drift_table(found.runs):
        parts += ["## What the reward does not measure", drift, DRIFT_NOTE]
    if by_scale := by_scale_table(found.runs):
        parts += ["## By scale", by_scale, NOTE]
    if noise := noise_table(found.runs):
        parts += ["## Signal and noise", noise, NOISE_NOTE]
    if prefix := prefix_table(found.runs):
        parts += ["## What the prefix decides", prefix, PREFIX_NOTE]
    if found.failures:
        parts += ["## Missing", "\n".join(f"- {name}: {why}" for name, why in found.failures.items())]
    return "\n\n".join(parts) + "\n"


CONTRAST_NOTE = (
    "Differences are paired by seed; p is two-sided, by a paired t test, and Holm's correction is over all planned "
    "contrasts."
)
UNRECORDED = "a machine that the results do not name"  # those of an earlier version
MINUS_NOTE = (
    "Minus the first: the difference from the arm in the first row, paired by seed and not corrected for the number of "
    "arms, as planned contrasts are."
)
CONTROL_NOTE = "What a sampler gives the base costs no training, so compare a gain with the best of these."


def arms_table(study: Study, found: Findings) -> str:
    """A row for each arm that has a run."""
    runs, measure = timed(found), study.measure
    figures, of_arm, equal = by_arm(runs, measure), runs_by_arm(runs), equal_seconds(runs)
    names = [name for name in study.arms if name in figures]
    head = ["arm", "seeds", "learning rate", measure, "minus the first", "at equal time", *study.samplers, "minutes"]
    rows = []
    for name in names:
        own = of_arm[name]
        after = [value for run in own if (value := at_seconds(run, measure, equal)) is not None]
        others = [by_arm(own, measure, sampler).get(name, {}) for sampler in study.samplers]
        rows.append(
            [
                _title(study, name),
                str(len(own)),
                f"{own[0].learning_rate:g}",
                _mean(figures[name].values()),
                "–" if name == names[0] else _mean(differences(figures[name], figures[names[0]]), "+.3f"),
                _mean(after),
                *(_mean(values.values()) for values in others),
                f"{fmean(run.seconds for run in own) / 60:.1f}",
            ]
        )
    return table(head, rows)


def measures_table(study: Study, runs: Sequence[RunResult]) -> str:
    """A row for each arm of what else is measured at the end, by the recipe's own sampler; empty where nothing is."""
    measured = dict.fromkeys(name for run in runs for name in next(iter(run.figures.values())))
    names = [name for name in measured if name != study.measure and not name.startswith(BY_NAME)]
    figures, of_arm = [by_arm(runs, name) for name in names], runs_by_arm(runs)
    rows = [
        [_title(study, arm), *(_mean(one.get(arm, {}).values()) for one in figures)]
        for arm in study.arms
        if arm in of_arm
    ]
    return table(["arm", *names], rows) if names else ""


def trained_on(runs: Sequence[RunResult]) -> str:
    """The machines that trained the runs, each with its number of them where there are several."""
    counts = Counter(
        f"{run.machine.cores} cores of {run.machine.cpu}, {run.machine.device}" if run.machine else UNRECORDED
        for run in runs
    )
    if not counts:
        return "No run is finished"
    several = len(counts) > 1
    return "Trained on " + "; ".join(name + f" ({count} of the runs)" * several for name, count in counts.items())


def timed(found: Findings) -> list[RunResult]:
    """The runs by the arms' measured pace, or by their own clocks where it is not known."""
    return found.pace.retimed(found.runs) if found.pace else found.runs


def equal_seconds(runs: Sequence[RunResult]) -> float:
    """Seconds of training that every run has had: those of the shortest."""
    return min((run.seconds for run in runs), default=0.0)


def wall_time_note(found: Findings) -> str:
    """What "at equal time" means."""
    runs = timed(found)
    return (
        f"Equal time: after {in_words(equal_seconds(runs))} of training, what the shortest run took, between two "
        "evaluations while training, which are on fewer prompts. "
        f"{PACE_NOTE if runs != found.runs else CLOCK_NOTE}"
    )


PACE_NOTE = "Minutes are by what an image costs each arm, timed side by side on one machine (pace.json)."
CLOCK_NOTE = "Minutes are each run's own, on a machine whose speed may have changed between runs."


def contrast_table(study: Study, tested: Sequence[Contrast]) -> str:
    """A row for each planned contrast."""
    rows = [
        [
            f"{_title(study, one.first)} − {_title(study, one.second)}",
            str(one.difference.seeds),
            _words(one.difference, "+.3f"),
            _number(one.p),
            _number(one.holm),
        ]
        for one in tested
    ]
    return table(["contrast", "seeds", f"difference in {study.measure}", "p", "p (Holm)"], rows)


def controls_table(study: Study, controls: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each sampler that the base was read with."""
    rows = [[name, f"{figures.get(study.measure, math.nan):.3f}"] for name, figures in controls.items()]
    return table(["sampler", study.measure], rows)


def _part(found: Collection[object], planned: Collection[object]) -> str:
    """How many there are, and of how many where some are missing."""
    return str(len(found)) if len(found) == len(planned) else f"{len(found)} of {len(planned)}"


def _title(study: Study, arm: str) -> str:
    return study.arms[arm].title or arm


def _mean(values: Collection[float], form: str = ".3f") -> str:
    return _words(mean_over_seeds(list(values)), form) if values else "–"


def _words(mean: Mean, form: str) -> str:
    spread = "" if math.isnan(mean.half_width) else f" ± {mean.half_width:.3f}"
    return f"{mean.value:{form}}{spread}"


def _number(p: float) -> str:
    return "–" if math.isnan(p) else f"{p:.3f}"


def _finite(value: Any) -> Any:  # noqa: ANN401
    """NaN as null, which JSON can say."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
