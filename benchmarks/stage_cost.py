"""What a prefix update costs beside a suffix update of the same recipe, against their shares of tokens and of FLOPs.

Groups are sampled from the base, so that what candidates share is what it is in a run; values are random. Both stages
alternate within one process on one thread, and the least CPU time of each counts, so that a busy machine does not.

A scale is predicted from the scales before it. In the suffix stage these are the group's shared prefix for its first
scale, which therefore runs through the transformer once a group and not once a candidate: a suffix of one scale costs
one sequence, and the head alone sees every candidate's tokens. A stage's tokens say what it costs only where the suffix
has several scales.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shared import Row, report
from varl.policy.base import Sampled, TrainablePolicy, cells
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe, load_recipe
from varl.trainer.recipe.sections import GuardSettings
from varl.trainer.setup import load_policies
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.update import UpdateOutcome, Updater
from varl.trajectories.prompt_files import load_prompts

RECIPES = (Path("recipes/tiny_demo.toml"), Path("recipes/tiny_ocr.toml"))
STAGES = (Stage.PREFIX, Stage.SUFFIX)


def main() -> None:
    """Measure the recipes and leave the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage_cost", description=__doc__)
    parser.add_argument("--recipe", type=Path, nargs="+", default=RECIPES)
    parser.add_argument("--groups", type=int, default=8, help="groups an update (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=4, help="updates of each stage (default: %(default)s)")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for path in flags.recipe for row in compare(path, load_recipe(path), flags.groups, flags.repeats)]
    report("stage_cost", {"groups": flags.groups, "repeats": flags.repeats, "threads": 1}, rows)


def compare(path: Path, recipe: Recipe, groups: int, repeats: int) -> list[Row]:
    """A row for each stage: its own figures, and those of the prefix over those of the suffix beside them."""
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"threads": 1})})
    policy, reference = load_policies(recipe)
    # Steps from random values soon part the weights from those that drew the groups; that is not what is measured.
    guards = GuardSettings(first_ratio="off", grad_norm="off")
    updater = Updater(policy, reference, recipe.objective, recipe.optimizer, guards)
    prompts = [spec.prompt for spec in load_prompts(recipe.prompts.train)[:groups]]
    batches = {stage: [sampled_group(policy, recipe, stage, prompt) for prompt in prompts] for stage in STAGES}
    seconds = dict.fromkeys(STAGES, float("inf"))
    for _ in range(repeats):
        for stage in STAGES:
            seconds[stage] = min(seconds[stage], update_seconds(updater, batches[stage]))
    flops = {stage: update_flops(updater, batches[stage]) for stage in STAGES}
    tokens = {stage: sum(batches[stage][0].steps) for stage in STAGES}
    per_token = {stage: seconds[stage] / tokens[stage] for stage in STAGES}
    per_flop = {stage: seconds[stage] / flops[stage] for stage in STAGES}
    return [
        {
            "recipe": path.stem,
            "stage": stage.value,
            "tokens a candidate": tokens[stage],
            "GFLOP": flops[stage] / 1e9,
            "CPU s": seconds[stage],
            "time / suffix's": seconds[stage] / seconds[Stage.SUFFIX],
            "a token / suffix's": per_token[stage] / per_token[Stage.SUFFIX],
            "a FLOP / suffix's": per_flop[stage] / per_flop[Stage.SUFFIX],
        }
        for stage in STAGES
    ]


def sampled_group(policy: TrainablePolicy, recipe: Recipe, stage: Stage, prompt: str) -> GroupBatch:
    """A group as a worker samples it, with random values."""
    counts, split, group = cells(policy.grids), recipe.objective.split_scale, recipe.rollout.group_size
    params, seeds = recipe.rollout.sampling.params(), list(range(group))
    state, prefix = policy.sample(
        policy.prefill(prompt, params.cfg > 0), split, seeds if stage is Stage.PREFIX else seeds[:1], params
    )
    trained, scales = prefix, range(split)
    if stage is Stage.SUFFIX:
        _, trained = policy.sample(state, len(counts), seeds, params)
        scales = range(split, len(counts))
        shared = Sampled(prefix.tokens.expand(group, -1), prefix.log_probs.expand(group, -1))
        tokens = Sampled.joined([shared, trained]).tokens
    else:
        tokens = prefix.tokens
    values = torch.randn(group, dtype=torch.float64, generator=torch.Generator().manual_seed(len(prompt)))
    mask = torch.ones_like(trained.log_probs, dtype=torch.bool)
    steps = tuple(counts[scale] for scale in scales)
    return GroupBatch(prompt, scales, steps, tokens, trained.log_probs, mask, {}, values[:, None], values)


def update_seconds(updater: Updater, groups: list[GroupBatch]) -> float:
    """CPU seconds of one update that steps."""
    start = time.process_time()
    outcome, _ = updater.update(groups, 0, by_scale=False)
    if outcome is not UpdateOutcome.STEPPED:
        raise SystemExit(f"the update was {outcome.value}, so its time says nothing")
    return time.process_time() - start


def update_flops(updater: Updater, groups: list[GroupBatch]) -> int:
    """FLOPs of matrix products of one update, those of slices that are computed again included."""
    with FlopCounterMode(display=False) as counter:
        updater.update(groups, 0, by_scale=False)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
