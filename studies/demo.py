"""``varl demo``: train by a recipe against local services, with the same evaluation before and after, and a report.

Leaves a run directory with eval.json, report.html and weights/final.safetensors beside what the trainer itself writes.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict, SettingsError

from varl.evaluation.evaluate import EvalSettings, evaluate
from varl.evaluation.results import Evaluation
from varl.evaluation.samplers import name_of
from varl.launch.folder_lock import folder_lock
from varl.launch.machine import describe_machine
from varl.launch.program import faults_of, parse, program
from varl.launch.pulse import pulse, watched
from varl.launch.resources import MissingFilesError
from varl.launch.streams import keep_streams
from varl.launch.supervisor import sigterm_as_exit
from varl.policy.base import Layout, SamplingParams, layout_of
from varl.studies.report.next_steps import next_steps
from varl.studies.report.readings import evaluation_file, load_evaluation, save_evaluation
from varl.studies.report.report import FACTS_FILE, REPORT_FILE, RunFacts, figures, headlines, write_report
from varl.studies.report.samplers import SamplerPair, best_against_best, summarised_pairs
from varl.studies.stages import Say, StageClock, progress_bar
from varl.trainer.disk.wandb_run import add_report
from varl.trainer.evaluator import MOST_PROMPTS, eval_settings, evaluator, held_out_prompts
from varl.trainer.local_services import SERVICES_LOCK, local_services
from varl.trainer.loop import train
from varl.trainer.progress.time_left import (
    Part,
    Timed,
    TimeLeft,
    evaluation_part,
    expected_seconds,
    training_parts,
)
from varl.trainer.recipe.config import BadRecipeError, Recipe, load_recipe
from varl.trainer.recipe.dry_run import check_files, dry_run
from varl.trainer.recipe.sections import Minutes, Number, Seed
from varl.trainer.setup import PROBLEMS, TRAINER_LOCK, given_redis, load_policies, open_queue
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.queue import RunQueue

START = "Getting Redis, the reward services and a rollout worker ready"
BEFORE = "Evaluating the base model on held-out prompts"
TRAIN = "Training"
AFTER = "Evaluating the trained model on the same prompts"
OTHERS = "Evaluating both with other samplers"
REPORT = "Writing the report"

KEPT_PICTURES = 8  # times those that the report shows whatever became of them, to choose from what changed most
STAGES_FILE = "stages.json"  # seconds of each, in all attempts at the run
logger = logging.getLogger("trainer")

FIXED_S = {START: 25.0, REPORT: 10.0}


class DemoSettings(BaseSettings):
    """Trains by a recipe with everything it needs on this machine, and shows what that changed on held-out prompts."""

    model_config = SettingsConfigDict(
        env_prefix="VARL_DEMO_",
        extra="forbid",
        frozen=True,
        cli_prog_name="python -m varl.studies.demo",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    recipe: Path = Field(default=Path("recipes/tiny_demo.toml"), description="TOML file of the trainer's settings.")
    run_dir: Path = Field(
        default=Path("runs/demo"), description="Where everything is left; an earlier run there is moved aside."
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the training run; default: the recipe's. The evaluations' seed stays."
    )
    prompts: Number | None = Field(
        default=None,
        description=f"Held-out prompts of both evaluations; default: all of the recipe's, up to {MOST_PROMPTS}.",
    )
    pictures: Number = Field(default=12, description="Prompts that the report shows before and after.")
    minutes: Minutes | None = Field(
        default=None, description="Train for fewer updates where the recipe's would take longer than this."
    )
    updates: Number | None = Field(default=None, description="Number of updates; default: the recipe's.")
    local_services: CliImplicitFlag[bool] = Field(
        default=True,
        description="Start Redis, the reward services and a worker here; "
        "off: use those that serve the Redis of REDIS_URL.",
    )
    resume: CliImplicitFlag[bool] = Field(
        default=False, description="Go on with an unfinished run in run-dir, and leave a finished one as it is."
    )
    dry_run: CliImplicitFlag[bool] = Field(
        default=False, description="Print the resolved recipe and what would run, then stop."
    )


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit status: 0, 1 with a message, 2 for what no second attempt mends, 130 for Ctrl-C.

    SIGTERM ends it with 143, after a checkpoint where it was training.
    """
    keep_streams()
    try:
        settings = parse(DemoSettings, arguments)
    except (ValidationError, SettingsError) as error:
        return _fail(str(error), 2)
    try:
        if settings.dry_run:
            sys.stdout.write(dry_run(demo_recipe(settings)))
            return 0
        if not watched():
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        with sigterm_as_exit():
            demo(settings, _say)
    except ValidationError as error:
        return _fail(faults_of(error), 2)
    except (MissingFilesError, BadRecipeError) as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        again = f"{program('varl.studies.demo')} --resume{_given(arguments)}"
        return _fail(f"interrupted; everything was stopped. To go on: {again}", 130)
    except PROBLEMS as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    return 0


def demo(settings: DemoSettings, say: Say) -> Path:
    """Run every stage and return the run directory; raises what the stages raise."""
    recipe = demo_recipe(settings)
    check_files(recipe)
    directory = recipe.run.dir / recipe.run.name
    prompts = held_out_prompts(recipe, settings.prompts)
    if settings.resume and (directory / REPORT_FILE).exists():
        say(f"{directory} holds a finished run: {directory / REPORT_FILE}")
        return directory
    if not settings.resume:
        moved = move_aside(directory)
        if moved:
            say(f"{directory} held an earlier run: moved to {moved}")
    directory.mkdir(parents=True, exist_ok=True)
    stages = StageClock(stage_seconds(recipe, len(prompts), []), say, directory / STAGES_FILE)
    with pulse(logger.info, stages.save):
        pairs, layout = _run(recipe, settings, prompts, stages, say)
        with stages.stage(REPORT):
            _leave(directory, pairs)
            facts = RunFacts(
                finished=datetime.now().astimezone().isoformat(timespec="seconds"),
                machine=describe_machine(recipe.run.device),
                stages=stages.seconds,
                pictures=settings.pictures,
                grids=layout.grids,
            )
            (directory / FACTS_FILE).write_text(facts.model_dump_json(indent=1), encoding="utf-8")
            report = write_report(directory)
            add_report(recipe, directory, report)
    say(
        f"\n{summary(pairs)}\nreport: {report}\nweights: {final_weights(recipe)}\n"
        f"in all: {stages.total() / 60:.1f} minutes\n\nnext: open {report} in a browser"
    )
    for command, purpose in next_steps(recipe, prompts[0].prompt):
        say(f"      {command}    # {purpose}")
    return directory


def demo_recipe(settings: DemoSettings) -> Recipe:
    """The recipe with what the command line says of the run: its directory, seed and length."""
    given = {
        "dir": settings.run_dir.parent,
        "name": settings.run_dir.name,
        "seed": settings.seed,
        "updates": settings.updates,
    }
    flags = [(f"--run.{name}", str(value)) for name, value in given.items() if value is not None]
    return load_recipe(settings.recipe, [part for flag in flags for part in flag])


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


def move_aside(directory: Path) -> Path | None:
    """Rename what lies at ``directory``, if anything, by the time it was last written; returns its new name.

    Raises FolderHeldError where a run works in it.
    """
    if not directory.exists():
        return None
    for name in (SERVICES_LOCK, TRAINER_LOCK):
        with folder_lock(directory / name):
            pass
    written = datetime.fromtimestamp(directory.stat().st_mtime).astimezone()
    aside = directory.with_name(f"{directory.name}-{written:%Y%m%d-%H%M%S}")
    return directory.rename(aside)


def final_weights(recipe: Recipe) -> Path:
    """Where the loop leaves the trained weights."""
    return recipe.run.dir / recipe.run.name / "weights" / "final.safetensors"


def summary(pairs: Sequence[SamplerPair]) -> str:
    """The headlines in words: the recipe's own sampler, then, where there are others, each side at its best."""
    found = figures(pairs[0].before, pairs[0].after)
    lines = [
        f"{f.name}: {f.before.value:.3f} -> {f.after.value:.3f}, "
        f"{f.change.value:+.3f} ± {f.change.error:.3f} (one standard error)"
        for f in found
    ]
    if len(pairs) > 1:
        measure = headlines(pairs[0].after.measures())[0]
        lines.append(best_against_best(pairs, measure).words(found[0].name))
    return "\n".join(lines)


def _run(
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


def _leave(directory: Path, pairs: Sequence[SamplerPair]) -> None:
    """Write eval.json and the evaluation of the trained weights."""
    by_sampler = summarised_pairs(pairs)
    sides = by_sampler[pairs[0].name] | {"samplers": by_sampler}
    (directory / "eval.json").write_text(json.dumps(sides, indent=2) + "\n", encoding="utf-8")
    save_evaluation(directory, pairs[0].after)


def _given(arguments: Sequence[str]) -> str:
    """The flags of a call, for a call that resumes it."""
    return "".join(f" {shlex.quote(argument)}" for argument in arguments if argument != "--resume")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"{program('varl.studies.demo')}: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
