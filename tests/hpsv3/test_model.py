"""The forward and the checkpoint format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from tests.support.hpsv3_builders import build_engine, noise
from varl.services.hpsv3.engine import EngineUnavailableError
from varl.services.hpsv3.files import WEIGHTS, Files
from varl.services.hpsv3.model import CheckpointError, RewardModel, load_checkpoint, save_checkpoint
from varl.services.hpsv3.native import NativeEngine, NativeItem, read_config
from varl.services.hpsv3.prompt import Prompts, read_wording

# What the order of float32 sums may change: attention and matrix kernels pick theirs by the batch's shape.
TOLERANCE = 2e-6
SIZES = ((64, 64), (100, 300), (448, 448), (300, 100), (64, 64))


def load(folder: Path) -> RewardModel:
    prompts = Prompts(Tokenizer.from_file(str(folder / "tokenizer.json")), read_wording())
    model = RewardModel(read_config(Files(folder / WEIGHTS, folder, "", ""), prompts))
    load_checkpoint(model, folder / WEIGHTS)
    return model.eval()


@pytest.fixture(scope="module")
def model(hpsv3_checkpoint: Path) -> RewardModel:
    return load(hpsv3_checkpoint)


@pytest.fixture(scope="module")
def items(hpsv3_engine: NativeEngine) -> list[NativeItem]:
    return [hpsv3_engine.prepare(noise(*size, seed), "cat " * 3 * seed) for seed, size in enumerate(SIZES)]


def run(model: RewardModel, items: list[NativeItem]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model([item.image for item in items], [item.token_ids for item in items])
    return found


def test_a_score_does_not_depend_on_the_batch(model: RewardModel, items: list[NativeItem]) -> None:
    alone = torch.cat([run(model, [item]) for item in items])
    assert alone.dtype == torch.float32
    assert tuple(alone.shape) == (5, 2)
    assert len({round(value, 3) for value in alone[:, 0].tolist()}) == 5
    torch.testing.assert_close(run(model, items), alone, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(run(model, items[::-1]).flip(0), alone, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(run(model, items[1:3]), alone[1:3], atol=TOLERANCE, rtol=0)


def test_bfloat16_stays_near_float32(hpsv3_checkpoint: Path, model: RewardModel, items: list[NativeItem]) -> None:
    low = load(hpsv3_checkpoint)
    low.set_dtype(torch.bfloat16)
    torch.testing.assert_close(run(low, items), run(model, items), atol=0.05, rtol=0)
    assert run(low, items).dtype == torch.float32


def test_gradients_reach_every_parameter(model: RewardModel, items: list[NativeItem]) -> None:
    model.zero_grad()
    model([item.image for item in items[:2]], [item.token_ids for item in items[:2]]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(
        parameter.grad.any()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "k_proj.bias" not in name
    )
    model.zero_grad()


def test_rows_that_do_not_fit_their_images_are_refused(model: RewardModel, items: list[NativeItem]) -> None:
    with pytest.raises(ValueError, match="one row per image"):
        model([items[0].image], [])
    with pytest.raises(ValueError, match="one row per image"):
        model([], [])
    with pytest.raises(ValueError, match="row 1 has 256 image tokens"):
        model([items[0].image, items[1].image], [items[0].token_ids, items[2].token_ids])


def test_the_real_model_has_the_real_number_of_parameters() -> None:
    vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": 3584}
    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    config = Qwen2VLConfig(vision_config=vision, text_config={"vocab_size": 151658, **text})
    with torch.device("meta"):
        model = RewardModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) + 151658 * 3584 == 8_292_152_882


def test_tied_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        RewardModel(Qwen2VLConfig(tie_word_embeddings=True))


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path, model: RewardModel) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() - model.state_dict().keys() == {"lm_head.weight"}
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def without(tensors: dict[str, Tensor]) -> None:
    del tensors["model.norm.weight"]


def without_next_token_head(tensors: dict[str, Tensor]) -> None:
    del tensors["lm_head.weight"]


def unknown(tensors: dict[str, Tensor]) -> None:
    tensors["model.extra"] = torch.zeros(1)


def another_shape(tensors: dict[str, Tensor]) -> None:
    tensors["rm_head.5.weight"] = torch.zeros(4, 16)


def many(tensors: dict[str, Tensor]) -> None:
    for index in range(9):
        tensors[f"x{index}"] = torch.zeros(1)


FAULTS: list[tuple[Callable[[dict[str, Tensor]], None], str]] = [
    (without, r"lacks model\.norm\.weight"),
    (without_next_token_head, r"lacks lm_head\.weight"),
    (unknown, r"has the unknown model\.extra"),
    (another_shape, r"has rm_head\.5\.weight as \[4, 16\], the model as \[2, 16\]"),
    (many, r"x4 and 4 more differences"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_a_checkpoint_that_differs_is_named(
    tmp_path: Path,
    hpsv3_checkpoint: Path,
    model: RewardModel,
    change: Callable[[dict[str, Tensor]], None],
    message: str,
) -> None:
    tensors = load_file(hpsv3_checkpoint / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, tmp_path / "x.safetensors")


def test_files_that_are_no_checkpoint_stop_the_engine(tmp_path: Path, hpsv3_checkpoint: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="no weights at"):
        build_engine(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"not these")
    with pytest.raises(EngineUnavailableError, match=r"lacks config\.json and tokenizer\.json"):
        build_engine(tmp_path)
    with pytest.raises(EngineUnavailableError, match="cannot be read"):
        build_engine(tmp_path, base=hpsv3_checkpoint)
    with pytest.raises(EngineUnavailableError, match="device 'cuda:99'"):
        build_engine(hpsv3_checkpoint, device="cuda:99")


def test_the_answer_says_engine_dtype_name_and_digest(hpsv3_checkpoint: Path, hpsv3_engine: NativeEngine) -> None:
    info = hpsv3_engine.model
    assert (info.engine, info.name, len(info.revision)) == ("hpsv3-native-float32", "tiny", 12)
    low = build_engine(hpsv3_checkpoint / WEIGHTS, dtype="bfloat16").model
    assert (low.engine, low.name, low.revision) == ("hpsv3-native-bfloat16", "HPSv3", info.revision)
