"""varl export: trained weights in the published format and back, adapters merged, and the model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.infinity_models import SQUARE, ByteRows
from tests.support.published_models import infinity_folder
from tests.support.trainer_rig import PROMPTS, make_model, make_recipe
from varl import cli
from varl.policy import lora
from varl.policy.base import TrainablePolicy, cells
from varl.policy.infinity import InfinityConfig, InfinityPolicy
from varl.policy.infinity.export import published_name
from varl.policy.infinity.text import ROWS, StoredRows
from varl.policy.load import load
from varl.studies.report.card import Figure, held_out
from varl.trainer.recipe.describe import to_toml


def adapted(model: Path, file: Path) -> TrainablePolicy:
    """The model with adapters that change it, which lie in ``file``."""
    policy = load(model)
    lora.attach(policy.module, lora.Lora(2, 4.0, policy.lora_targets), seed=1)
    with torch.no_grad():
        for parameter in policy.parameter_groups().others:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    policy.save_weights(str(file))
    return policy


@torch.no_grad()
def scores(policy: TrainablePolicy) -> Tensor:
    tokens = torch.arange(sum(cells(policy.grids)))[None] % 30
    return policy.distribution(PROMPTS[0], tokens, 0).log_prob(tokens)


def test_infinitys_files_are_the_published_ones_and_convert_back_bit_for_bit(tmp_path: Path) -> None:
    model, file, out = infinity_folder(tmp_path, PROMPTS[:1]), tmp_path / "adapters.safetensors", tmp_path / "out"
    policy = adapted(model, file)
    assert cli.main(["export", str(file), "--model", str(model), "--to", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"infinity_of-another-size.pth", "infinity_vae_d32.pth", "README.md"}
    vae = torch.load(out / "infinity_vae_d32.pth", weights_only=True)["vae"]
    assert {"encoder.down.0.block.0.norm1.norm.weight", "encoder.down.0.downsample.conv.conv.bias"} < vae.keys()
    back = tmp_path / "back"
    files = {"transformer": "infinity_of-another-size.pth", "tokenizer": "infinity_vae_d32.pth"}
    flags = [text for flag, name in files.items() for text in (f"--{flag}", str(out / name))]
    assert cli.main(["convert", str(back), *flags, "--size", "0.06M"]) == 0
    InfinityConfig.read(back).model_copy(update={"scales": SQUARE.scales}).write(back)
    rows = ByteRows(SQUARE.transformer.text_width).rows(PROMPTS[0])
    StoredRows(back / ROWS, SQUARE.transformer).add({PROMPTS[0]: rows})
    found = load(back)
    assert isinstance(found, InfinityPolicy) and isinstance(policy, InfinityPolicy)
    for own, expected in (
        (found.module.state_dict(), lora.merged_state(policy.module)),
        (found.tokenizer.state_dict(), policy.tokenizer.state_dict()),
    ):
        assert own.keys() == expected.keys() and all(torch.equal(own[name], expected[name]) for name in own)
    assert (scores(found) - scores(policy)).abs().max() <= 1e-4 < (scores(load(model)) - scores(policy)).abs().max()


def test_names_of_the_tokenizers_layers_are_the_published_ones() -> None:
    assert published_name("decoder.up.1.upsample.conv.weight") == "decoder.up.1.upsample.conv.conv.weight"
    assert published_name("decoder.up.0.block.0.nin_shortcut.bias") == "decoder.up.0.block.0.nin_shortcut.conv.bias"
    assert published_name("encoder.norm_out.weight") == "encoder.norm_out.norm.weight"


def test_a_run_becomes_a_model_folder_with_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path / "model")
    recipe = make_recipe(tmp_path, "signs", model={"lora": {"rank": 2}})
    run, out = recipe.run.dir / "signs", tmp_path / "out"
    (run / "weights").mkdir(parents=True)
    (run / "config.toml").write_text(to_toml(recipe))
    with pytest.raises(SystemExit):
        cli.main(["export", str(run), "--to", str(out)])
    assert "the run has not ended" in capsys.readouterr().err
    policy = adapted(model, run / "weights" / "final.safetensors")
    lines = [{"update": 0, "eval/reward": 0.5, "eval/reward_se": 0.01}, {"update": 4, "eval/reward": 0.75}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["export", str(run), "--to", str(out)]) == 0
    found = load(out)
    merged = lora.merged_state(policy.module)
    assert all(torch.equal(value, merged[name]) for name, value in found.module.state_dict().items())
    assert (scores(found) - scores(policy)).abs().max() <= 1e-4
    card = (out / "README.md").read_text()
    assert card.startswith('---\nlicense: "other"\n') and "# out" in card
    assert "| reward | 0.5000 ± 0.0100 | 0.7500 |" in card and "1 × brightness" in card and "rank 2" in card
    assert cli.main(["export", str(run), "--to", str(out)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_eval_json_has_the_figures_of_a_demo(tmp_path: Path) -> None:
    side = {"ned": 0.8, "ned_se": 0.01, "prompts": 4, "rewards": {"ocr": 1.0}, "rewards_se": {"ocr": None}}
    (tmp_path / "eval.json").write_text(json.dumps({"before": side, "after": side | {"ned": 0.9}}))
    assert held_out(tmp_path) == [Figure("ned", 0.8, 0.9, 0.01, 0.01), Figure("rewards/ocr", 1.0, 1.0, None, None)]
