"""The stages of ``varl demo``: evaluate, train, evaluate again, and what they will take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from varl.evaluation.evaluate import EvalSettings, evaluate
from varl.evaluation.results import Evaluation
from varl.evaluation.samplers import name_of
from varl.policy.base import Layout, SamplingParams, layout_of
from varl.studies.demo_settings import DemoSettings
from varl.studies.report.readings import evaluation_file, load_evaluation, save_evaluation
from varl.studies.report.samplers import SamplerPair
from varl.studies.stages import Say, StageClock, progress_bar
from varl.trainer.evaluator import eval_settings, evaluator
from varl.trainer.local_services import local_services
from varl.trainer.loop import train
from varl.trainer.progress.time_left import Part, Timed, TimeLeft, evaluation_part, expected_seconds, training_parts
from varl.trainer.recipe.config import Recipe
from varl.trainer.setup import given_redis, load_policies, open_queue
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.queue import RunQueue

START = "Getting Redis, the reward services and a rollout worker ready"
BEFORE = "Evaluating the base model on held-out prompts"
TRAIN = "Training"
AFTER = "Evaluating the trained model on the same prompts"
OTHERS = "Evaluating both with other samplers"
REPORT = "Writing the report"
KEPT_PICTURES = 8  # times those that the report shows whatever became of them, to choose from what changed most
FIXED_S = {START: 25.0, REPORT: 10.0}


def parts_by_stage(recipe: Recipe, prompts: int) -> dict[str, list[Part]]:
    """What the stages are made of whose time depends on the recipe and the machine; ``prompts``: of an evaluation."""
    evaluation = evaluation_part(prompts, recipe.evaluation.images_per_prompt)
    samplers = 2 * len(recipe.evaluation.samplers)
    found = {BEFORE: [evaluation], TRAIN: training_parts(recipe), AFTER: [evaluation]}
    return found | ({OTHERS: samplers * [evaluation]} if samplers else {})


def stage_seconds(recipe: Recipe, prompts: int, done: Sequence[Timed]) -> dict[str, float]:
    """What each stage will take where ``done`` took what it did."""
    parts = parts_by_stage(recipe, prompts)
    return {
        START: FIXED_S[START],
        **{title: expected_seconds(done, found) for title, found in parts.items()},
        REPORT: FIXED_S[REPORT],
    }


def within_minutes(recipe: Recipe, expected_s: float, minutes: float) -> Recipe:
    """The recipe with as many of its updates as fit into ``minutes`` where all of them take ``expected_s``."""
    fit = min(recipe.run.updates, max(1, int(recipe.run.updates * minutes * 60 / expected_s)))
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"updates": fit})})


def final_weights(recipe: Recipe) -> Path:
    """Where the loop leaves the trained weights."""
    return recipe.run.dir / recipe.run.name / "weights" / "final.safetensors"


def run_stages(
    recipe: Recipe, settings: DemoSettings, prompts: Sequence[PromptSpec], stages: StageClock, say: Say
) -> tuple[list[SamplerPair], Layout]:
    """All that needs the services: evaluate, train, evaluate.

    Returns what was read, the recipe's own sampler first, and the layout of the model.
    """
    directory, base = recipe.run.dir / recipe.run.name, recipe.model.dir / "policy.safetensors"
    with ExitStack() as stack:
        with stages.stage(START):
            queue = stack.enter_context(open_queue(recipe, _redis_url(recipe, settings, stack, say)))
            if not settings.resume:
                queue.purge(0)  # what an earlier demo may have left in a Redis that is not ours
            trained, reference = load_policies(recipe)
            layout = layout_of(trained)
        judge = _Judge(queue, prompts, eval_settings(recipe, layout, settings.pictures * KEPT_PICTURES))
        parts = parts_by_stage(recipe, len(prompts))
        left = TimeLeft([*parts[AFTER], *parts.get(OTHERS, ())], FIXED_S[REPORT])
        kept = evaluation_file(directory, "before").exists()  # by an earlier attempt
        with stages.stage(BEFORE):
            before = judge.once(directory, base, 0, "before")
        if not kept:
            left.record([(part, stages.seconds[BEFORE]) for part in parts[BEFORE]])
        expected = stage_seconds(recipe, len(prompts), left.done)
        if settings.minutes is not None:
            recipe = within_minutes(recipe, expected[TRAIN], settings.minutes)
            say(f"training for {recipe.run.updates} updates, to fit into {settings.minutes:g} minutes")
            expected[TRAIN] = min(expected[TRAIN], settings.minutes * 60)
        stages.expect(expected)
        with stages.stage(TRAIN):
            train(
                recipe,
                trained,
                reference,
                queue,
                resume=settings.resume,
                evaluate=evaluator(recipe, queue, layout),
                time_left=left,
            )
        stages.expect(stage_seconds(recipe, len(prompts), left.done))
        with stages.stage(AFTER):
            after = judge(final_weights(recipe), recipe.run.updates, "after")
        pairs = [SamplerPair(name_of(judge.settings.sampling), before, after)]
        if recipe.evaluation.samplers:
            with stages.stage(OTHERS):
                pairs += _others(recipe, judge, directory, base)
        if settings.local_services:
            say("\nstopping the services")
    return pairs, layout


def _others(recipe: Recipe, judge: _Judge, directory: Path, base: Path) -> list[SamplerPair]:
    """Both weights with the recipe's other samplers.

    One weights after the other, since a worker holds one at a time.
    """
    samplers = recipe.evaluation.other_samplers()
    before, after = (
        [
            judge.sampling(sampler.params).once(directory, weights, version, f"{tag}-{sampler.name}")
            for sampler in samplers
        ]
        for weights, version, tag in ((base, 0, "before"), (final_weights(recipe), recipe.run.updates, "after"))
    )
    return [SamplerPair(sampler.name, *sides) for sampler, *sides in zip(samplers, before, after, strict=True)]


def _redis_url(recipe: Recipe, settings: DemoSettings, stack: ExitStack, say: Say) -> str:
    if not settings.local_services:
        return given_redis(recipe)
    return stack.enter_context(local_services(recipe, lambda line: say(f"  {line}"))).redis_url


@dataclass(frozen=True)
class _Judge:
    """The evaluation that is the same before and after."""

    queue: RunQueue
    prompts: Sequence[PromptSpec]
    settings: EvalSettings

    def __call__(self, weights: Path, version: int, tag: str) -> Evaluation:
        with progress_bar(len(self.prompts), "prompt") as progress:
            return evaluate(self.queue, self.prompts, self.settings, str(weights), version, tag, progress)

    def sampling(self, params: SamplingParams) -> _Judge:
        """The same with another sampler and without pictures."""
        return replace(self, settings=replace(self.settings, sampling=params, pictures=0))

    def once(self, directory: Path, weights: Path, version: int, tag: str) -> Evaluation:
        """The evaluation that a run which was broken off left in its directory, or a new one, which is left there."""
        if evaluation_file(directory, tag).exists():
            return load_evaluation(directory, tag)
        evaluation = self(weights, version, tag)
        save_evaluation(directory, evaluation)
        return evaluation
