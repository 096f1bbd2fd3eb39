"""Runs a study: tunes each arm, trains each arm at each seed, reads the base with other samplers; resumable by run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from varl.evaluation.evaluate import EvalSettings, evaluate
from varl.evaluation.results import Evaluation
from varl.evaluation.samplers import Sampler, name_of, parse_sampler
from varl.policy.base import layout_of
from varl.studies.report.readings import evaluation_file, load_evaluation, save_evaluation
from varl.studies.stages import Say, progress_bar
from varl.studies.study.pace import Pace, load_pace, measure_pace
from varl.studies.study.plan import Job, Study, arm_recipe, main_jobs, samplers_of, tuning_jobs
from varl.studies.study.results import RunResult, figures_of, load, result_of, runs_by_arm, save
from varl.studies.study.stale import require_current, settings_of
from varl.trainer.disk.atomic import write_durably
from varl.trainer.evaluator import eval_settings, evaluator, held_out_prompts
from varl.trainer.local_services import local_services
from varl.trainer.loop import train
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.dry_run import check_files
from varl.trainer.setup import PROBLEMS, load_policies, open_queue
from varl.trainer.step.guards import GuardError
from varl.trajectories.queue import RunQueue

BASE, FITTED, CONTROLS_FILE = "base", "fitted temperature", "controls.json"


@dataclass
class Findings:
    """What a study has found so far."""

    tuning: list[RunResult] = field(default_factory=list)
    runs: list[RunResult] = field(default_factory=list)
    controls: dict[str, dict[str, float]] = field(default_factory=dict)  # sampler -> measure -> figure of the base
    rates: dict[str, float] = field(default_factory=dict)  # arm -> learning rate
    failures: dict[str, str] = field(default_factory=dict)  # arm/run -> why it is missing
    pace: Pace | None = None  # by which all runs are timed alike


@dataclass
class Runner:
    """Runs one study in ``folder``, a folder for each arm below it and one for each run below that."""

    study: Study
    folder: Path
    say: Say

    def run(self, only: Sequence[str] = ()) -> Findings:
        """Do all that has no result yet, of the arms ``only`` if any; a run that fails is listed, the next begins."""
        found = Findings()
        self._each(self._chosen(tuning_jobs(self.study), only), found.tuning, found.failures)
        found.rates = chosen_rates(self.study, found.tuning)
        self._each(self._chosen(_with_rates(self.study, found.rates), only), found.runs, found.failures)
        found.controls = self._controls()
        found.pace = load_pace(self.folder)
        return found

    def measure_pace(self, rounds: int, only: Sequence[str] = ()) -> None:
        """Time all arms, or ``only`` these, side by side; what was measured before is replaced."""
        measure_pace(self.study, self.folder, only or list(self.study.arms), rounds, self._queue, self.say)

    def finished(self, only: Sequence[str] = ()) -> Findings:
        """What has a result already, of the arms ``only`` if any; nothing is trained or read."""
        found = Findings(self._loaded(self._chosen(tuning_jobs(self.study), only)))
        found.rates = chosen_rates(self.study, found.tuning)
        found.runs = self._loaded(self._chosen(_with_rates(self.study, found.rates), only))
        found.controls = self._kept_controls()
        found.pace = load_pace(self.folder)
        return found

    def _loaded(self, jobs: Sequence[Job]) -> list[RunResult]:
        return [result for job in jobs if (result := self._finished(job, arm_recipe(self.study, job, self.folder)))]

    def _finished(self, job: Job, recipe: Recipe) -> RunResult | None:
        """The result that is there; raises RecipeChangedError where it is not one of the study as it stands now."""
        result = load(recipe.run.dir / recipe.run.name)
        if result is not None:
            require_current(result, self.study, job, recipe)
        return result

    def _kept_controls(self) -> dict[str, dict[str, float]]:
        kept = self.folder / BASE / CONTROLS_FILE
        return dict(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else {}

    def _chosen(self, jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
        return [job for job in jobs if not only or job.arm in only]

    def _each(self, jobs: Sequence[Job], results: list[RunResult], failures: dict[str, str]) -> None:
        begin, done = time.monotonic(), 0
        for number, job in enumerate(jobs):
            recipe = arm_recipe(self.study, job, self.folder)
            finished = self._finished(job, recipe)
            if finished is None:
                left = (time.monotonic() - begin) / done * (len(jobs) - number) if done else None
                self.say(f"\n[{number + 1}/{len(jobs)}] {job.arm}, {job.name}" + (_left(left) if left else ""))
                finished, done = self._attempt(job, recipe, failures), done + 1
            if finished is not None:
                results.append(finished)

    def _attempt(self, job: Job, recipe: Recipe, failures: dict[str, str]) -> RunResult | None:
        try:
            return self._train(job, recipe)
        except (*PROBLEMS, GuardError) as error:
            failures[f"{job.arm}/{job.name}"] = f"{type(error).__name__}: {error}"
            self.say(f"failed: {type(error).__name__}: {error}")
            return None

    def _train(self, job: Job, recipe: Recipe) -> RunResult:
        check_files(recipe)  # before anything is started
        directory = recipe.run.dir / recipe.run.name
        prompts = None if job.tuning else self.study.prompts
        with self._queue(recipe) as queue:
            trained, reference = load_policies(recipe)
            layout = layout_of(trained)
            train(recipe, trained, reference, queue, resume=True, evaluate=evaluator(recipe, queue, layout))
            own = recipe.evaluation.sampling.params()
            others = [] if job.tuning else samplers_of(self.study, own)
            reading = _Reading(recipe, queue, eval_settings(recipe, layout), prompts)
            weights = directory / "weights" / "final.safetensors"
            readings = {
                sampler.name: reading(sampler, weights, recipe.run.updates)
                for sampler in (Sampler(name_of(own), own), *others)
            }
        result = result_of(job, recipe, readings, settings_of(self.study, job, recipe))
        save(result, directory)
        return result

    def _controls(self) -> dict[str, dict[str, float]]:
        """The base with every sampler of the study and of the controls, and with one temperature that is chosen."""
        recipe = self._base_recipe()
        own = recipe.evaluation.sampling.params()
        given = [parse_sampler(text, own) for text in (*self.study.samplers, *self.study.controls.samplers)]
        samplers = {one.name: one for one in (Sampler(name_of(own), own), *given)}
        if samplers.keys() <= (controls := self._kept_controls()).keys():
            return controls
        with self._queue(recipe) as queue:
            settings = eval_settings(recipe, layout_of(load_policies(recipe)[0]))
            base = recipe.model.dir / "policy.safetensors"
            self.say(f"\nreading the base with {len(samplers)} samplers")
            reading = _Reading(recipe, queue, settings, self.study.prompts)
            controls = {name: figures_of(reading(one, base, 0)) for name, one in samplers.items()}
            fitted = self._fitted(recipe, queue, settings, base)
            if fitted is not None:
                controls[f"{FITTED} {fitted.name}"] = figures_of(reading(fitted, base, 0))
        write_durably(self.folder / BASE / CONTROLS_FILE, json.dumps(controls, indent=1))
        return controls

    @contextmanager
    def _queue(self, recipe: Recipe) -> Iterator[RunQueue]:
        """The queue of a run with services of its own."""
        with (
            local_services(recipe, lambda line: self.say(f"  {line}")) as services,
            open_queue(recipe, services.redis_url) as queue,
        ):
            yield queue

    def _base_recipe(self) -> Recipe:
        job = Job(next(iter(self.study.arms)), 1e-5, self.study.seeds[0], tuning=False)
        recipe = arm_recipe(self.study, job, self.folder)
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": BASE, "dir": self.folder})})

    def _fitted(self, recipe: Recipe, queue: RunQueue, settings: EvalSettings, base: Path) -> Sampler | None:
        """The temperature that reads best on the tuning prompts."""
        tuning, temperatures = self.study.tuning, self.study.controls.temperatures
        if tuning is None or not temperatures:
            return None
        elsewhere = recipe.model_copy(
            update={"prompts": recipe.prompts.model_copy(update={"held_out": tuning.held_out})}
        )
        reading = _Reading(elsewhere, queue, settings, None, prefix="tuning-")
        samplers = [parse_sampler(f"T={value:g}", settings.sampling) for value in temperatures]
        return max(samplers, key=lambda one: figures_of(reading(one, base, 0))[self.study.measure])


@dataclass(frozen=True)
class _Reading:
    """Evaluations on a recipe's held-out prompts, each kept in the run directory and done once for these prompts."""

    recipe: Recipe
    queue: RunQueue
    settings: EvalSettings
    prompts: int | None
    prefix: str = ""

    def __call__(self, sampler: Sampler, weights: Path, version: int) -> Evaluation:
        directory, tag = self.recipe.run.dir / self.recipe.run.name, f"{self.prefix}after-{sampler.name}"
        specs = held_out_prompts(self.recipe, self.prompts)
        if evaluation_file(directory, tag).exists():
            kept = load_evaluation(directory, tag)
            if kept.asked() == [spec.prompt for spec in specs]:  # else of fewer or of other ones
                return kept
        settings = replace(self.settings, sampling=sampler.params)
        with progress_bar(len(specs), "prompt") as progress:
            found = evaluate(self.queue, specs, settings, str(weights), version, tag, progress)
        save_evaluation(directory, found)
        return found


def chosen_rates(study: Study, tuning: Sequence[RunResult]) -> dict[str, float]:
    """The learning rate of every arm that has one: given, or the best of those tried, by the study's measure."""
    rates = {name: arm.learning_rate for name, arm in study.arms.items() if arm.learning_rate is not None}
    of_arm = runs_by_arm(tuning)
    for name in study.arms.keys() - rates.keys():
        if tried := of_arm.get(name):
            rates[name] = max(tried, key=lambda result: result.figure(study.measure)).learning_rate
    return rates


def _with_rates(study: Study, rates: Mapping[str, float]) -> list[Job]:
    known = study.model_copy(update={"arms": {name: arm for name, arm in study.arms.items() if name in rates}})
    return main_jobs(known, rates)


def _left(seconds: float) -> str:
    return f" (about {seconds / 3600:.1f} h left)" if seconds > 5400 else f" (about {seconds / 60:.0f} min left)"
