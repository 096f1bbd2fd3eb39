"""Adapters in the trainer: what is trained, against which reference, and what is published, kept and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.support.trainer_rig import (
    METHOD,
    PROMPTS,
    BrightnessReward,
    column,
    make_model,
    make_recipe,
    rollout_workers,
)
from varl.policy.base import SamplingParams, TrainablePolicy
from varl.policy.load import load
from varl.policy.lora import BASE, base_state
from varl.trainer.checkpoints.checkpoint import Progress, load_checkpoint, save_checkpoint
from varl.trainer.loop import train
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.sections import OptimizerSettings
from varl.trainer.recipe.size.size import measure_parameters, trainer_memory, worker_memory
from varl.trainer.setup import load_policies
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.update import UpdateOutcome, Updater
from varl.trajectories.queue import RunQueue, connect


def recipe_of(folder: Path, **sections: dict[str, Any]) -> Recipe:
    make_model(folder / "model")
    return make_recipe(folder, "lora", **({"model": {"lora": {"rank": 2, "alpha": 4.0}}} | sections))


def group(policy: TrainablePolicy, seeds: list[int]) -> GroupBatch:
    state = policy.prefill(PROMPTS[0], False)
    found = policy.sample(state, 3, seeds, SamplingParams())[1]
    values, steps = found.tokens.double().mean(1), tuple(h * w for h, w in policy.grids[:3])
    mask = torch.ones_like(found.log_probs, dtype=torch.bool)
    rewards = {"mean": values[:, None]}
    return GroupBatch(
        PROMPTS[0], range(3), steps, found.tokens, found.log_probs, mask, rewards, values[:, None], values
    )


def updater_of(recipe: Recipe) -> Updater:
    return Updater(*load_policies(recipe), recipe.objective, recipe.optimizer)


def test_adapters_alone_are_trained_and_the_reference_is_their_base(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, objective=METHOD, optimizer={"lr": 1e-2})
    updater = updater_of(recipe)
    assert updater.reference is updater.policy
    average = WeightAverage(updater.policy.module, 0.5)
    for update in range(2):
        outcome, _ = updater.update([group(updater.policy, [1, 2, 3, 4])], update, by_scale=False)
        assert outcome is UpdateOutcome.STEPPED
    average.update()
    assert average.weights.keys() == {n for n, p in updater.policy.module.named_parameters() if p.requires_grad}
    # The base is as it was, and the divergence is that from a copy of it.
    base, kept = load(recipe.model.dir), base_state(updater.policy.module)
    assert all(torch.equal(value, kept[name]) for name, value in base.module.state_dict().items())
    batch, copied = group(updater.policy, [5, 6]), Updater(updater.policy, base, recipe.objective, recipe.optimizer)
    found, expected = (one._evaluate(batch, batch.tokens).kl for one in (updater, copied))
    assert torch.equal(found, expected) and found.min() >= 0 and found.max() > 1e-4


def test_a_checkpoint_holds_the_adapters_and_restores_them(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, objective=METHOD)
    one, other = updater_of(recipe), updater_of(recipe)
    one.update([group(one.policy, [1, 2, 3, 4])], 0, by_scale=False)
    path = save_checkpoint(tmp_path / "checkpoints", Progress(1, 0), one, None, 1)
    saved = load_file(path / "policy.safetensors")
    assert BASE in saved and sum(value.nbytes for value in saved.values()) < 0.3 * _bytes(one.policy)
    load_checkpoint(path, other, None)
    batch = group(one.policy, [5, 6, 7, 8])
    assert one.update([batch], 1, by_scale=False) == other.update([batch], 1, by_scale=False)
    for own, same in zip(one.policy.module.parameters(), other.policy.module.parameters(), strict=True):
        assert torch.equal(own, same)


def test_whole_weights_never_take_the_place_of_adapters_in_training(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    with pytest.raises(ValueError, match="that are being trained"):
        load_policies(recipe)[0].load_weights(str(recipe.model.dir / "policy.safetensors"))


def test_a_run_publishes_adapters_that_its_worker_applies(redis_server: str, run_id: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, objective=METHOD, run={"updates": 2}, optimizer={"lr": 1e-2, "ema_decay": 0.5})
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": run_id})})
    with rollout_workers(redis_server, run_id, recipe.model.dir, BrightnessReward()):
        run = train(recipe, *load_policies(recipe), RunQueue(connect(redis_server), run_id, "trainer"), resume=False)
    assert column(run, "groups/used") == [3.0] * 2
    assert max(column(run, "ratio_max_deviation")) < 1e-3  # of the sampler's probabilities, after a step as well
    for file in ("v000001.safetensors", "final.safetensors"):
        assert BASE in load_file(run / "weights" / file)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"lora": {"rank": 2}, "trainable": "gains"}}, "lora.rank"),
        ({"model": {"lora": {"rank": 2}}, "objective": {"kl_anchor": "previous"}}, "kl_anchor"),
        ({"model": {"lora": {"rank": -1}}}, "rank"),
    ],
)
def test_settings_that_contradict_one_another_are_named(tmp_path: Path, sections: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(ValidationError, match=words):
        recipe_of(tmp_path, **sections)


def test_a_target_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.lora.targets: lm_head: one of q_proj"):
        load_policies(recipe_of(tmp_path, model={"lora": {"rank": 2, "targets": ["lm_head", "q_proj"]}}))


def test_sizes_know_adapters(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, objective={"stages": "full"}, model={"dtype": "bfloat16", "lora": {"rank": 2}})
    found, memory = measure_parameters(recipe), trainer_memory(recipe, PROMPTS[0])
    trained = sum(one.numel() for one in load_policies(recipe)[0].module.parameters() if one.requires_grad)
    assert found.trained == trained < found.all
    assert memory["reference"] == 0 and memory["adapters"] == memory["gradients"] == 4 * trained
    assert memory["AdamW"] == 8 * trained and worker_memory(recipe, PROMPTS[0])["adapters"] == 4 * trained
    small = OptimizerSettings(state_dtype="bfloat16", betas=(0.9, 0.99))
    assert trainer_memory(recipe.model_copy(update={"optimizer": small}), PROMPTS[0])["AdamW"] == 4 * trained
    whole = recipe.model_copy(update={"model": recipe.model.model_copy(update={"lora": type(recipe.model.lora)()})})
    assert memory["activations"] < trainer_memory(whole, PROMPTS[0])["activations"]


def _bytes(policy: TrainablePolicy) -> int:
    return sum(value.nbytes for value in base_state(policy.module).values())
