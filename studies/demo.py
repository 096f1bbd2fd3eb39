"""``varl demo``: train by a recipe against local services, with the same evaluation before and after, and a report.

Leaves a run directory with eval.json, report.html and weights/final.safetensors beside what the trainer itself writes.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from varl.launch.folder_lock import folder_lock
from varl.launch.machine import describe_machine
from varl.launch.program import faults_of, parse, program
from varl.launch.pulse import pulse, watched
from varl.launch.resources import MissingFilesError
from varl.launch.streams import keep_streams
from varl.launch.supervisor import sigterm_as_exit
from varl.studies.demo_settings import DemoSettings, demo_recipe
from varl.studies.demo_stages import REPORT, final_weights, run_stages, stage_seconds
from varl.studies.report.next_steps import next_steps
from varl.studies.report.readings import save_evaluation
from varl.studies.report.report import FACTS_FILE, REPORT_FILE, RunFacts, figures, headlines, write_report
from varl.studies.report.samplers import SamplerPair, best_against_best, summarised_pairs
from varl.studies.stages import Say, StageClock
from varl.trainer.disk.wandb_run import add_report
from varl.trainer.evaluator import held_out_prompts
from varl.trainer.local_services import SERVICES_LOCK, check_rewards
from varl.trainer.recipe.config import BadRecipeError, Recipe
from varl.trainer.recipe.dry_run import check_files, dry_run
from varl.trainer.setup import PROBLEMS, TRAINER_LOCK
from varl.trainer.step.guards import GuardError

STAGES_FILE = "stages.json"  # seconds of each, in all attempts at the run
logger = logging.getLogger("trainer")


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit status: 0, 1 with a message, 2 for what no retry can fix, 3 by a guard, 130 for Ctrl-C.

    SIGTERM ends it with 143, after a checkpoint where it was training.
    """
    keep_streams()
    try:
        settings = parse(DemoSettings, arguments)
    except (ValidationError, SettingsError) as error:
        return _fail(str(error), 2)
    try:
        if settings.dry_run:
            sys.stdout.write(dry_run(_startable_recipe(settings)))
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
    except GuardError as error:
        return _fail(f"{error}; the weights are as before this update", 3)
    except PROBLEMS as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    return 0


def demo(settings: DemoSettings, say: Say) -> Path:
    """Run every stage and return the run directory; raises what the stages raise."""
    recipe = _startable_recipe(settings)
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
        pairs, layout = run_stages(recipe, settings, prompts, stages, say)
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


def _startable_recipe(settings: DemoSettings) -> Recipe:
    """The recipe, whose rewards can be started where that is wanted; raises BadRecipeError."""
    recipe = demo_recipe(settings)
    if settings.local_services:
        check_rewards(recipe)
    return recipe


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
