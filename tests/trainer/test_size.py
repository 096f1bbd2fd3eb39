"""The sizes that a dry run gives, against what the same models really have; and what it refuses."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.support.infinity_models import SQUARE, random_policy
from tests.support.paths import ROOT
from tests.support.trainer_rig import MODEL, PROMPTS, make_recipe
from tests.support.trajectory_builders import BITS, make_group
from varl.policy.base import Layout, SamplingParams, TrainablePolicy, cells, layout_of
from varl.policy.infinity import InfinityConfig, TokenizerConfig
from varl.policy.infinity.config import PRESETS
from varl.policy.ledger import held_bytes
from varl.policy.load import load, load_blank
from varl.policy.model_config import ModelConfig
from varl.policy.nextflow.paper import paper_config
from varl.policy.recompute import Recomputes
from varl.services.rollout.settings import RolloutServiceSettings
from varl.trainer import __main__ as trainer
from varl.trainer.objectives.vmr import Stage
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml
from varl.trainer.recipe.dry_run import dry_run_with_sizes
from varl.trainer.recipe.sections import ParallelSettings
from varl.trainer.recipe.size import passes
from varl.trainer.recipe.size.fit import DeviceMemoryError, check_fits
from varl.trainer.recipe.size.messages import update_bytes
from varl.trainer.recipe.size.ranks import memory_of_trainer
from varl.trainer.recipe.size.size import longest, measure_parameters, stages_of, trainer_memory, update_size
from varl.trainer.recipe.size.table import describe_size
from varl.trainer.rollouts.jobs import PublishedWeights, training_jobs
from varl.trajectories.codec import encode_job, encode_trajectory
from varl.trajectories.prompt_files import load_prompts
from varl.v1 import trajectory_pb2

TINY = ROOT / "checkpoints" / "tiny"
PROMPT = PROMPTS[0]
INFINITY_2B = InfinityConfig(tokenizer=TokenizerConfig(bits=32), transformer=PRESETS["2B"], scales=13)


def recipe_of(directory: Path, model: Path, **sections: dict[str, Any]) -> Recipe:
    chosen = {"model": {"dir": model} | sections.pop("settings", {})}
    return make_recipe(directory, "sizes", **(chosen | sections))


@pytest.fixture(scope="module")
def tiny() -> TrainablePolicy:
    return load(TINY)


@pytest.mark.parametrize("trainable", ["all", "gains"])
def test_parameters_are_those_of_the_loaded_model(tmp_path: Path, tiny: TrainablePolicy, trainable: Any) -> None:  # noqa: ANN401
    found = measure_parameters(recipe_of(tmp_path, TINY, settings={"trainable": trainable}))
    tiny.select(trainable)
    assert found.all == sum(one.numel() for one in tiny.module.parameters())
    assert found.trained == sum(one.numel() for one in tiny.module.parameters() if one.requires_grad)


@pytest.mark.parametrize("stage", list(Stage))
def test_the_cache_is_that_of_a_real_sampler(tmp_path: Path, tiny: TrainablePolicy, stage: Stage) -> None:
    found = passes.drawing(recipe_of(tmp_path, TINY), stage, PROMPT, 4)
    split, last, params = 3, len(tiny.grids), SamplingParams()
    states = [tiny.prefill(PROMPT, False)]
    for to_scale, count in {"full": [], "prefix": [(split, 2)], "suffix": [(split, 1)]}[stage.value] + [(last, 4)]:
        states.append(tiny.sample(states[-1], to_scale, list(range(count)), params)[0])
    assert found.cache == held_bytes(states)


def test_infinitys_cache_holds_keys_and_values_alone(tmp_path: Path) -> None:
    policy = random_policy(SQUARE)
    policy.save(tmp_path / "model")
    state, _ = policy.sample(policy.prefill(PROMPT, False), 4, [1, 2], SamplingParams())
    size, kept = SQUARE.transformer, sum(cells(SQUARE.grids)[:-1])
    pairs = 2 * 4 * size.depth * size.width * 2 * kept
    assert held_bytes(state.branches[0].cache) == pairs
    rows = len(policy.text.rows(PROMPT))
    blank = load_blank(tmp_path / "model", "float32")
    assert len(blank.prefill(PROMPT, False).branches[0].prompt.text.memory) < rows  # type: ignore[attr-defined]  # bytes, here
    blank_state, _ = blank.sample(blank.prefill(PROMPT, False), 4, [1, 2], SamplingParams())
    assert held_bytes(blank_state.branches[0].cache) == pairs  # type: ignore[attr-defined]


def test_flops_are_those_of_a_real_pass_and_layers_are_extrapolated(tmp_path: Path, tiny: TrainablePolicy) -> None:
    recipe, tokens = recipe_of(tmp_path, TINY), torch.randint(512, (3, sum(cells(tiny.grids))))
    tiny.select("all")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it does not know the fused kernel
        own = tiny.distribution(PROMPT, tokens, 0)
        with torch.no_grad():
            reference = tiny.distribution(PROMPT, tokens, 0)
        found = own.evaluate(tokens, reference)
        (found.log_probs + found.kl).sum().backward()  # type: ignore[no-untyped-call]
    assert passes.teaching(recipe, Stage.FULL, PROMPT, 3).flops == pytest.approx(counter.get_total_flops(), rel=0.1)
    whole = passes._teach(load_blank(TINY, "float32"), passes._work(recipe, Stage.FULL, PROMPT, 3))
    found_by_depth = passes.teaching(recipe, Stage.FULL, PROMPT, 3)
    assert found_by_depth.flops == pytest.approx(whole.flops, rel=1e-6)
    assert found_by_depth.activations == pytest.approx(whole.activations, rel=0.03)


def test_activations_are_what_autograd_keeps(tmp_path: Path, tiny: TrainablePolicy) -> None:
    """Tensors saved for the backward pass of the real model are most of the peak, and never more."""
    kept = dict[int, torch.Tensor]()
    own = {one.untyped_storage().data_ptr() for one in (*tiny.module.parameters(), *tiny.module.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(512, (4, sum(cells(tiny.grids))))
    tiny.select("all")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = tiny.distribution(PROMPT, tokens, 0)
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    peak = passes.teaching(recipe_of(tmp_path, TINY), Stage.FULL, PROMPT, 4).activations
    assert found is not None and 0.6 * peak < saved < peak


def test_a_pass_is_long_by_the_whole_models_depth_and_then_keeps_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, TINY)
    values = 3 * (len(PROMPT.encode()) + sum(cells(load_blank(TINY, "float32").grids))) * 8 * 128  # inputs of 8 blocks
    kept = passes.teaching(recipe, Stage.FULL, PROMPT, 3)
    monkeypatch.setattr(Recomputes, "long", values / 2)
    passes._teaching.cache_clear()
    found = passes.teaching(recipe, Stage.FULL, PROMPT, 3)
    whole = passes._teach(load_blank(TINY, "float32"), passes._work(recipe, Stage.FULL, PROMPT, 3))
    passes._teaching.cache_clear()
    assert found.activations < 0.5 * kept.activations and found.flops > 1.1 * kept.flops
    assert found.activations == pytest.approx(whole.activations, rel=0.1)


def test_message_bytes_are_nearly_those_of_real_messages(tmp_path: Path, tiny: TrainablePolicy) -> None:
    recipe = recipe_of(tmp_path, TINY, rollout={"prompts_per_update": 3, "group_size": 8})
    prompts, layout = load_prompts(recipe.prompts.train), Layout(tuple(tiny.grids), 64, 64, BITS, 0)
    weights = tmp_path / "runs" / recipe.run.name / "weights" / "v000000.json"
    for update in (0, 3):  # of the prefix and of the suffix
        jobs = training_jobs(recipe, update, prompts, PublishedWeights(update, weights, str(weights)))
        groups = [trajectory_pb2.Trajectory(group=make_group(job, layout.grids)) for job in jobs]
        for trajectory in groups:  # what every worker adds
            trajectory.group.worker, trajectory.group.generate_seconds, trajectory.group.score_seconds = "host-1", 1, 1
            trajectory.group.models["brightness"].MergeFrom(MODEL)
        real = sum(map(len, map(encode_job, jobs))) + sum(map(len, map(encode_trajectory, groups)))
        assert update_bytes(recipe, update, prompts, layout) == pytest.approx(real, rel=0.05)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("config", "parameters"), [(INFINITY_2B, 2_204_564_032), (paper_config(256), 7_746_138_624)], ids=["2B", "7B"]
)
def test_large_models_are_measured_without_their_memory(tmp_path: Path, config: ModelConfig, parameters: int) -> None:
    config.write(tmp_path / "model")
    recipe = recipe_of(
        tmp_path,
        tmp_path / "model",
        settings={"dtype": "bfloat16"},
        objective={"stages": "full"},
        optimizer={"candidates_per_pass": 1},
        rollout={"group_size": 2, "prompts_per_update": 1},
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, memory = measure_parameters(recipe), trainer_memory(recipe, PROMPT)
    assert found.all == found.trained == parameters
    assert memory["weights"] == 2 * found.all + 4 * found.frozen and memory["AdamW"] == 4 * found.all
    size = update_size(recipe, Stage.FULL, load_prompts(recipe.prompts.train))
    # Two FLOPs a weight and site: forward in policy and reference, twice backward, once again where a pass is long.
    # Text and attention come on top.
    assert 0.7 * 8 * found.all < size.trainer_flops / size.tokens < 1.5 * 10 * found.all
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB; most of it is torch's code


@pytest.mark.heavy
def test_what_does_not_fit_is_refused_with_settings_that_would(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, TINY, objective={"stages": "full"}, rollout={"group_size": 16})
    with pytest.raises(DeviceMemoryError) as told:
        check_fits(recipe, PROMPT, 230_000_000)
    message = str(told.value)
    assert "the trainer needs" in message and "207 MB can be used" in message
    rows = int(message.split("optimizer.candidates_per_pass = ")[1].split()[0])
    assert 1 <= rows < 16
    for fits, count in ((True, rows), (False, rows + 1)):
        changed = recipe_of(
            tmp_path, TINY, objective={"stages": "full"}, optimizer={"candidates_per_pass": count},
            rollout={"group_size": 16},
        )  # fmt: skip
        assert (sum(trainer_memory(changed, PROMPT).values()) <= 0.9 * 230_000_000) is fits
    with pytest.raises(DeviceMemoryError, match="no setting makes it fit"):
        check_fits(recipe, PROMPT, 1_000_000)
    check_fits(recipe, PROMPT, 80 * 10**9)


@pytest.mark.heavy
def test_a_config_alone_does_and_the_command_refuses_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SQUARE.write(tmp_path / "model")
    recipe = recipe_of(tmp_path, tmp_path / "model")
    said = dry_run_with_sizes(recipe, None)
    assert "# parameters: " in said and "# memory of the trainer, 8 candidates a pass: " in said
    assert {line.split()[2] for line in said.splitlines() if "trained tokens" in line} == {
        stage.value for stage in stages_of(recipe)
    }
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe))
    assert trainer.main([str(file), "--dry-run", "--device-memory", "2MB"]) == 2
    assert "a rollout worker needs" in capsys.readouterr().err
    assert trainer.main([str(file), "--dry-run", "--device-memory", "80GiB"]) == 0


@pytest.mark.heavy
def test_more_ranks_are_advised_where_they_would_do(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, TINY, objective={"stages": "full"}, optimizer={"candidates_per_pass": 1})
    alone, four = (sum(memory_of_trainer(recipe, PROMPT, ranks).values()) for ranks in (1, 4))
    assert four < alone
    with pytest.raises(DeviceMemoryError, match=r"the trainer needs .* the number of torchrun's ranks to [24] \("):
        check_fits(recipe, PROMPT, int(four / 0.9) + 1)
    check_fits(recipe, PROMPT, int(four / 0.9) + 1, ranks=4)


def test_ranks_share_what_is_spread_and_the_command_says_each_ones_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(tmp_path, TINY, objective={"stages": "full"})
    alone, eight = (memory_of_trainer(recipe, PROMPT, ranks) for ranks in (1, 8))
    assert alone == trainer_memory(recipe, PROMPT)
    assert eight["AdamW"] == -(-alone["AdamW"] // 8) and eight["activations"] == alone["activations"]
    assert sum(eight.values()) >= alone["weights"] + alone["reference"]  # both are loaded whole before they are spread
    halves = recipe.model_copy(update={"parallel": ParallelSettings(compute_dtype="bfloat16")})
    assert memory_of_trainer(halves, PROMPT, 8)["activations"] < 0.7 * alone["activations"]
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe))
    assert trainer.main([str(file), "--dry-run", "--ranks", "8"]) == 0
    assert "memory of each of 8 ranks of the trainer, " in capsys.readouterr().out
    assert trainer.main([str(file), "--dry-run", "--ranks", "8", "--device-memory", "2MB"]) == 2
    assert "each of 8 ranks of the trainer needs" in capsys.readouterr().err


def test_a_plugins_model_is_left_out_and_the_workers_defaults_are_its_own(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, TINY, settings={"plugin": "some.module:load"})
    assert describe_size(recipe) == "sizes: not known of a model that another package loads"
    fields = RolloutServiceSettings.model_fields
    assert (fields["sample_batch"].default, fields["decode_batch"].default) == (
        passes.SAMPLE_BATCH,
        passes.DECODE_BATCH,
    )
    assert longest(load_prompts(recipe.prompts.train)) in PROMPTS and layout_of(load_blank(TINY, "float32")).codes
