"""Updates by one process or by several gloo ranks, of the same groups, to be compared.

``python -m tests.support.ranks_rig RANKS FOLDER OTHER`` runs ``work`` with every model on so many ranks, which are
forked so that torch is imported once, and resumes from the checkpoints of OTHER.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests.support.infinity_models import random_policy
from varl.launch.ports import reserve_port
from varl.policy.base import SamplingParams, TrainablePolicy
from varl.policy.lora import is_adapted
from varl.policy.nextflow import build_random
from varl.trainer.checkpoints.checkpoint import Progress, TrainedState, save_checkpoint
from varl.trainer.parallel.ranks import Ranks, joined, place
from varl.trainer.parallel.state import shared_state
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections.model import LoraSettings, ModelSettings
from varl.trainer.recipe.trained import choose_recompute, choose_trained
from varl.trainer.step.batch import GroupBatch

PROMPT = "a red sign"
SIZES, VALUES = (4, 3, 2, 5), (1.0, 2.0, 0.0, 0.5)  # candidates of each group; the third one's values are all alike
RECIPE = Recipe.model_validate(
    {
        "objective": {"kl_anchor": "previous", "kl_beta": 0.1},
        "optimizer": {"lr": 1e-3, "ema_decay": 0.5, "candidates_per_pass": 3, "grad_clip": 0.01},
        "guards": {"first_ratio": "off", "duplicates": "off"},
    }
)
LORA = LoraSettings(rank=2, alpha=4.0)
MODELS: dict[str, Callable[[], TrainablePolicy]] = {
    "nextflow": lambda: build_random(0),
    "infinity": random_policy,
    "adapters": lambda: adapted(random_policy()),
    "adapters of a bfloat16 base": lambda: adapted(random_policy(), torch.bfloat16),
}


def adapted(policy: TrainablePolicy, dtype: torch.dtype = torch.float32) -> TrainablePolicy:
    """The policy, in this type, with adapters that are trained."""
    policy.module.to(dtype)
    choose_trained(policy, ModelSettings(lora=LORA), seed=0)
    return policy


def trained_of(kind: str) -> tuple[Recipe, TrainablePolicy, TrainablePolicy]:
    """Recipe, policy and reference of a kind of model, as a run has them."""
    policy = MODELS[kind]()
    choose_recompute(policy, "long" if kind == "nextflow" else "always")
    if not is_adapted(policy.module):
        return RECIPE, policy, MODELS[kind]()
    objective = RECIPE.objective.model_copy(update={"kl_anchor": "initial"})
    model = RECIPE.model.model_copy(update={"lora": LORA})
    return RECIPE.model_copy(update={"objective": objective, "model": model}), policy, policy


def groups(policy: TrainablePolicy, update: int) -> list[GroupBatch]:
    """Groups of unequal size, one of them without advantage, one stale; every other update is of guided tokens."""
    scales = range(update % 2, 4)
    counts = [height * width for height, width in policy.grids[:4]]
    found = []
    for index, (size, spread) in enumerate(zip(SIZES, VALUES, strict=True)):
        random = torch.Generator().manual_seed(10 * update + index)
        tokens = torch.randint(2**4, (size, sum(counts)), generator=random)
        tokens[:, : index % 3] = tokens[0, : index % 3]  # the candidates of some groups share scales
        steps = tuple(counts[scale] for scale in scales)
        values = spread * torch.rand(size, generator=random, dtype=torch.float64)
        reported = -1 - torch.rand(size, sum(steps), generator=random)
        mask = torch.rand(size, sum(steps), generator=random) < 0.7
        sampling = SamplingParams(temperature=1.5, cfg=2.0) if update % 2 else None
        total = values[:, None]
        fields = (scales, steps, tokens, reported, mask, {"ocr": total}, total, values, int(index == 1), sampling)
        found.append(GroupBatch(PROMPT, *fields))
    return found


def train(state: TrainedState, updates: range) -> list[dict[str, Any]]:
    """Outcomes and metrics."""
    lines = []
    for update in updates:
        outcome, metrics = state.updater.update(groups(state.updater.policy, update), update, by_scale=False)
        assert state.average is not None
        state.average.update()
        lines.append({"outcome": outcome.value, **metrics})
    return lines


def script(state: TrainedState, folder: Path) -> None:
    """Three updates, with a checkpoint before the last one; weights, averages and metrics are left in ``folder``."""
    lines = train(state, range(2))
    save_checkpoint(folder, Progress(2, 0), state.updater, state.average, keep=1, write=state.write)
    leave(state, folder / "trained", lines + train(state, range(2, 3)))


def resumed(state: TrainedState, checkpoint: Path, folder: Path) -> None:
    """The last update again, from a checkpoint."""
    progress = state.load(checkpoint).progress
    leave(state, folder / "resumed", train(state, range(progress.update, 3)))


def leave(state: TrainedState, folder: Path, lines: list[dict[str, Any]]) -> None:
    folder.mkdir()
    state.updater.policy.save_weights(str(folder / "policy.safetensors"))
    assert state.average is not None
    with state.average.applied():
        state.updater.policy.save_weights(str(folder / "average.safetensors"))
    (folder / "lines.json").write_text(json.dumps(lines))
    (folder / "held.json").write_text(json.dumps(held(state)))


def held(state: TrainedState) -> dict[str, int]:
    """Bytes that this process holds of what is spread, by part."""
    updater, moments = state.updater, state.updater.optimizer.state.values()
    assert state.average is not None
    parts: dict[str, list[Tensor]] = {
        "weights": list(updater.policy.module.parameters()),
        "reference": [] if updater.reference is updater.policy else list(updater.reference.module.parameters()),
        "AdamW": [value for own in moments for value in own.values() if value.ndim],
        "average": list(state.average.weights.values()),
    }
    return {
        name: sum((one.to_local() if isinstance(one, DTensor) else one).nbytes for one in found)
        for name, found in parts.items()
    }


def work(ranks: Ranks, kind: str, folder: Path, checkpoint: Path) -> None:
    """Rank 0 follows the script, the others follow rank 0."""
    state = shared_state(ranks, *trained_of(kind))
    if ranks.leads:
        script(state, folder)
        resumed(state, checkpoint, folder)
    else:
        ranks.follow(state.actions())


def forked(rank: int, size: int, port: int, *what: Any) -> int:  # noqa: ANN401
    """The process of a rank."""
    child = os.fork()
    if child:
        return child
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    found, status = place(), 1
    assert found is not None
    try:
        with joined(found, "cpu") as ranks:
            work(ranks, *what)
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def run_ranks(size: int, kind: str, folder: Path, checkpoint: Path) -> list[int]:
    """Exit statuses of so many ranks that do ``work``."""
    port = reserve_port()
    children = [forked(rank, size, port, kind, folder, checkpoint) for rank in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = [Path(argument) for argument in sys.argv[2:]]
    statuses = [
        run_ranks(int(sys.argv[1]), kind, folder / kind, checkpoint / kind / "000002")
        for folder, checkpoint in [given]
        for kind in MODELS
    ]
    sys.stdout.write(json.dumps(statuses))
