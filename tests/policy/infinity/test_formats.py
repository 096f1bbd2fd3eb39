"""Published checkpoint formats, written here as the published code writes them: read strictly, converted, loaded."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.infinity_models import PATCHIFIED, SQUARE, TALL, ByteRows, random_policy
from varl import cli
from varl.policy.base import SamplingParams
from varl.policy.infinity import InfinityConfig, InfinityPolicy
from varl.policy.infinity.checkpoints import State, read_tokenizer, read_transformer
from varl.policy.infinity.convert import convert
from varl.policy.infinity.hub import PUBLISHED
from varl.policy.load import load

LAYER = re.compile(r"\.(conv\w*|norm\w*|nin_shortcut)\.(weight|bias)$")


def newer(name: str) -> str:
    """A tokenizer's name as newer files have it: every layer sits in a wrapper's ".conv" or ".norm"."""
    inner = "norm" if ".norm" in name else "conv"
    return LAYER.sub(rf".\1.{inner}.\2", name)


@dataclass(frozen=True)
class Files:
    """A model and its published files."""

    policy: InfinityPolicy
    transformer: Path
    tokenizer: Path

    @property
    def weights(self) -> State:
        return dict(self.policy.module.state_dict())


def write(folder: Path, config: InfinityConfig = SQUARE) -> Files:
    """A flat .pth, and {"vae": …} with the newer names and the two buffers."""
    policy, mask = random_policy(config), 2 ** torch.arange(config.tokenizer.bits)
    files = Files(policy, folder / "infinity.pth", folder / "vae.pth")
    torch.save(files.weights, files.transformer)
    autoencoder = {newer(name): value for name, value in policy.tokenizer.state_dict().items()}
    torch.save({"vae": autoencoder | {"quantizer.lfq.mask": mask, "quantize.lfq.mask": mask}}, files.tokenizer)
    return files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write(tmp_path)


def flat(weights: State, folder: Path) -> Path:
    torch.save(weights | {"lvl_1L": torch.zeros(1, 5), "attn_bias_for_masking": torch.zeros(1)}, folder / "a.pth")
    return folder / "a.pth"


def fine_tuned(weights: State, folder: Path) -> Path:
    torch.save({"epoch": 3, "trainer": {"gpt_fsdp": weights, "optimizer": {"lr": 0.1}}}, folder / "a.pth")
    return folder / "a.pth"


def one_file(weights: State, folder: Path) -> Path:
    save_file(weights, folder / "a.safetensors")
    return folder / "a.safetensors"


def shards(weights: State, folder: Path) -> Path:
    target = folder / "infinity_8b_weights"
    target.mkdir()
    names, half = sorted(weights), len(weights) // 2
    parts = {"model-1-of-2.safetensors": names[:half], "model-2-of-2.safetensors": names[half:]}
    for file, inside in parts.items():
        save_file({name: weights[name] for name in inside}, target / file)
    index = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def other_kernel(weights: State, folder: Path) -> Path:
    """Of training with the customised kernel, which wants the scales of heads in another place."""
    turned = {name: value.transpose(1, 2) if "scale_mul" in name else value for name, value in weights.items()}
    return flat(turned, folder)


@pytest.mark.parametrize("form", [flat, fine_tuned, one_file, shards, other_kernel])
def test_every_published_format_becomes_the_same_model(
    files: Files, tmp_path: Path, form: Callable[[State, Path], Path]
) -> None:
    target = tmp_path / "model"
    config = convert(form(files.weights, tmp_path), files.tokenizer, target, 1.0, 4, torch.float32)
    assert config == files.policy.config
    policy = load(target)
    assert isinstance(policy, InfinityPolicy)
    for own, original in ((policy.module, files.policy.module), (policy.tokenizer, files.policy.tokenizer)):
        state = original.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in own.state_dict().items())
    policy.text = ByteRows()
    drawn = [one.sample(one.prefill("cat", False), 4, [1], SamplingParams())[1] for one in (policy, files.policy)]
    assert torch.equal(drawn[0].tokens, drawn[1].tokens) and torch.equal(drawn[0].log_probs, drawn[1].log_probs)
    assert (policy.decode(drawn[0].tokens) == files.policy.decode(drawn[1].tokens)).all()


@pytest.mark.parametrize("config", [TALL, PATCHIFIED], ids=["2:1", "patchified"])
def test_sizes_are_read_off_the_shapes(config: InfinityConfig, tmp_path: Path) -> None:
    written = write(tmp_path, config)
    target = tmp_path / "model"
    found = convert(written.transformer, written.tokenizer, target, config.aspect_ratio, config.scales, torch.bfloat16)
    assert found == config == InfinityConfig.read(target)
    assert {value.dtype for value in load_file(target / "policy.safetensors").values()} == {torch.bfloat16}
    assert {value.dtype for value in load_file(target / "tokenizer.safetensors").values()} == {torch.float32}


def test_both_spellings_of_the_tokenizer_are_read(files: Files, tmp_path: Path) -> None:
    old = dict(files.policy.tokenizer.state_dict())
    assert "encoder.down.0.downsample.conv.weight" in old and "decoder.up.1.upsample.conv.bias" in old
    torch.save({"vae": old}, tmp_path / "old.pth")
    new = torch.load(files.tokenizer, weights_only=True)["vae"]
    assert "encoder.down.0.downsample.conv.conv.weight" in new and "decoder.norm_out.norm.bias" in new
    for path in (tmp_path / "old.pth", files.tokenizer):
        assert read_tokenizer(path).keys() == old.keys()
    torch.save({"vae": old | new}, tmp_path / "both.pth")
    with pytest.raises(ValueError, match=r"both.pth holds .* by two names"):
        read_tokenizer(tmp_path / "both.pth")


def without(state: State, name: str) -> State:
    return {other: value for other, value in state.items() if other != name}


WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (lambda s: without(s, "block_chunks.1.module.0.ca.v_bias"), "lacks block_chunks.1.module.0.ca.v_bias"),
    "extra": (lambda s: s | {"stranger": torch.zeros(1)}, "also holds stranger"),
    "shape": (lambda s: s | {"head.bias": torch.zeros(3)}, "has other shapes of head.bias"),
    "no cfg_uncond": (lambda s: without(s, "cfg_uncond"), "lacks cfg_uncond of 2 dimensions"),
    "another model": (lambda s: {"weight": torch.zeros(2)}, "no part of an Infinity model|not a part of an Infinity"),
}


@pytest.mark.parametrize("fault", list(WRONG))
def test_a_name_that_is_not_accounted_for_is_named(files: Files, tmp_path: Path, fault: str) -> None:
    change, message = WRONG[fault]
    torch.save(change(files.weights), files.transformer)
    with pytest.raises(ValueError, match=message):
        convert(files.transformer, files.tokenizer, tmp_path / "model", 1.0, 4, torch.float32)
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_of_another_model_is_rejected(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tokenizer = write(other, PATCHIFIED).tokenizer
    with pytest.raises(ValueError, match=r"vae.pth is a tokenizer of 14 bits, the transformer's tokens have 32"):
        convert(files.transformer, tokenizer, tmp_path / "model", 1.0, 4, torch.float32)


class Evil:
    """What would run code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return sys.exit, (7,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": Evil()}, "not a checkpoint of tensors that torch reads safely"),
        ({"epoch": 3}, "something else than tensors: epoch"),
        ({3: torch.zeros(1)}, "something else than tensors: 3"),
        ([torch.zeros(1)], "holds no state dict"),
        ({}, "holds no state dict"),
    ],
    ids=["code", "no tensor", "no name", "a list", "empty"],
)
def test_a_pickle_of_anything_else_is_rejected(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        read_transformer(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_damaged_file_is_a_value_error_and_an_absent_one_an_os_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=name):
        read_transformer(tmp_path / name)
    (tmp_path / name).write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=name):
        read_transformer(tmp_path / name)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "weight_map must name a file for every tensor: JSONDecodeError"),
        ("[]", "weight_map must name a file"),
        ('{"weight_map": {}}', "there is no tensor"),
        (
            '{"weight_map": {"head.bias": "../a.safetensors"}}',
            "'../a.safetensors' is not the name of a file beside the index",
        ),
        ('{"weight_map": {"head.bias": 3}}', "weight_map must name a file"),
        ('{"weight_map": {"stranger": "model-1-of-2.safetensors"}}', "differ in"),
    ],
)
def test_an_index_has_to_fit_its_shards(files: Files, tmp_path: Path, index: str, message: str) -> None:
    folder = shards(files.weights, tmp_path)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        read_transformer(folder)


def test_weights_are_mapped_from_the_files_and_not_copied(tmp_path: Path) -> None:
    random_policy().save(tmp_path)
    policy = load(tmp_path)
    spans = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line
    ]

    def mapped(value: Tensor) -> bool:
        return any(int(low, 16) <= value.data_ptr() < int(high, 16) for low, high in spans)

    assert isinstance(policy, InfinityPolicy)
    assert all(mapped(value) for part in (policy.module, policy.tokenizer) for value in part.state_dict().values())
    half = load(tmp_path, dtype=torch.bfloat16)
    assert {value.dtype for value in half.module.state_dict().values()} == {torch.bfloat16}


def test_files_of_another_model_name_what_differs(tmp_path: Path) -> None:
    random_policy().save(tmp_path)
    InfinityConfig(
        tokenizer=SQUARE.tokenizer, transformer=SQUARE.transformer.model_copy(update={"depth": 2}), scales=4
    ).write(tmp_path)
    with pytest.raises(ValueError, match=r"policy.safetensors does not fit this model: it also holds block_chunks.0"):
        load(tmp_path)


def run(arguments: list[str]) -> int:
    try:
        return cli.main(["convert", *arguments])
    except SystemExit as ended:
        return int(str(ended.code))


def test_the_command_converts_and_says_what(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "model")
    paths = ["--transformer", str(files.transformer), "--tokenizer", str(files.tokenizer)]
    assert run([target, *paths, "--size", "0.06M", "--aspect-ratio", "1.9", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == f"{target}: Infinity of another size, images of 352 x 176 pixels\n"
    assert load(target).image_size == (352, 176)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--transformer: needed unless there is --hub"),
        (["--transformer", "none.pth", "--tokenizer", "x", "--size", "1M"], 2, "--transformer: there is no none.pth"),
        (["--hub", "a/b", "--tokenizer", "x"], 2, "--hub: not with --transformer or --tokenizer"),
        (["--hub", "a/b", "--aspect-ratio", "0"], 2, "--aspect-ratio: must be above 0, got 0"),
    ],
)
def test_a_wrong_flag_is_explained(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["model", *arguments]) == status
    assert message in capsys.readouterr().err


def test_files_come_from_a_hub_where_there_is_one(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    published = PUBLISHED["2B"]
    files.transformer.rename(tmp_path / published.transformer)
    files.tokenizer.rename(tmp_path / published.tokenizer)
    asked = list[tuple[str, list[str]]]()

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    target = str(tmp_path / "model")
    assert run([target, "--hub", "FoundationVision/Infinity", "--model", "2B"]) == 0
    assert "images of 1024 x 1024 pixels" in capsys.readouterr().out  # the size that the 2B model was trained for
    names = [published.transformer, f"{published.transformer}/*", published.tokenizer]
    assert asked == [("FoundationVision/Infinity", names)]

    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    assert run([target, "--hub", "FoundationVision/Infinity"]) == 1
    assert "the hub does not give FoundationVision/Infinity: ConnectionError: no route" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run([target, "--hub", "FoundationVision/Infinity"]) == 1
    assert "a hub's files need: pip install 'varl[hub]'" in capsys.readouterr().err
