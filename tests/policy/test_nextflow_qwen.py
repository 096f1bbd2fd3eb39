"""NextFlow out of Qwen2.5-VL's files, against transformers' own model of the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.qwen_models import CONTROLS, ROWS, build_qwen, build_tokenizer, config_of
from varl.policy.base import SamplingParams
from varl.policy.load import load
from varl.policy.nextflow import NextFlowPolicy, build
from varl.policy.nextflow import load as load_nextflow
from varl.policy.nextflow.config import Spectrum, TransformerConfig
from varl.policy.nextflow.convert import from_qwen, main
from varl.policy.nextflow.rope import rotation, text_positions
from varl.policy.nextflow.text import BOI, QwenText
from varl.policy.nextflow.transformer import Text

PROMPT = "the sign over the door says 'Grüße' <|im_end|>"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    build_qwen(folder)
    return folder


@pytest.fixture(scope="module")
def policy(qwen: Path) -> NextFlowPolicy:
    torch.manual_seed(0)
    return from_qwen(qwen, config_of(qwen), dtype=torch.float32)


@torch.no_grad()
def text_logits(policy: NextFlowPolicy, ids: Tensor) -> Tensor:
    turn = rotation(text_positions(ids.shape[1]), policy.config.transformer)
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    (hidden,), _ = policy.module([Text(ids, turn, mask)])
    return policy.module.text_logits(hidden)


@pytest.mark.parametrize("spectrum", ["mrope", "mrope_interleaved"])
@pytest.mark.parametrize("tied", [False, True], ids=["two tables", "tied"])
def test_text_only_logits_equal_those_of_transformers(tmp_path: Path, spectrum: Spectrum, tied: bool) -> None:
    theirs = build_qwen(tmp_path, tied=tied)
    ours = from_qwen(tmp_path, config_of(tmp_path, spectrum), dtype=torch.float32)
    ids = torch.randint(ROWS, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
    found = text_logits(ours, ids)
    assert expected.std() > 0.3  # far from a constant
    assert (found[..., :ROWS] - expected).abs().max() <= 1e-5


def test_a_spectrum_an_axis_is_not_qwens(qwen: Path, policy: NextFlowPolicy) -> None:
    other = from_qwen(qwen, config_of(qwen, "per_axis"), dtype=torch.float32)
    ids = torch.arange(200)[None]
    assert (text_logits(other, ids) - text_logits(policy, ids)).abs().max() > 0.01


def test_interleaved_axes_all_have_high_and_low_frequencies() -> None:
    size = TransformerConfig(
        dim=3584, heads=28, kv_heads=4, rope_sections=(16, 24, 24), rope_theta=1e6, rope_spectrum="mrope_interleaved"
    )
    for axis in range(3):
        position = torch.zeros(1, 3)
        position[0, axis] = 1.0
        angles = torch.atan2(*reversed(rotation(position, size)))[0, :64]
        turned = angles[angles != 0]
        assert len(turned) == size.rope_sections[axis]
        assert turned.max() > 0.5 and turned.min() < 1e-5
    cut = size.model_copy(update={"rope_spectrum": "mrope"})
    column = torch.atan2(*reversed(rotation(torch.tensor([[0.0, 0.0, 1.0]]), cut)))
    assert 0 < column.max() < 2e-4  # what a reader of the configuration should know


def test_prompts_are_qwens_tokens_and_control_tokens_are_text(policy: NextFlowPolicy) -> None:
    reference = build_tokenizer()
    assert policy.text.encode("the the") == reference.encode("the the").ids
    assert len(policy.text.encode("the")) == 1
    controls = {reference.token_to_id(token) for token in CONTROLS}
    assert controls & set(reference.encode(PROMPT).ids) and not controls & set(policy.text.encode(PROMPT))
    assert policy.text.encode("") == []


def test_new_rows_start_from_qwens_and_from_the_codebook(qwen: Path, policy: NextFlowPolicy) -> None:
    module, control = policy.module, QwenText.read(qwen).control
    words, head = module.embed_tokens.weight, module.lm_head.weight
    assert words.shape[0] == ROWS + 3 and head.shape[0] == ROWS + 3 + policy.codes
    for table in (words, head):
        assert torch.equal(table[ROWS + BOI], table[control("<|vision_start|>")])
    embedded = module.adapter(policy.tokenizer.quantizer.table())
    codes = module.visual_head()
    assert embedded.square().mean().item() == pytest.approx(words[:ROWS].square().mean().item(), rel=1e-3)
    assert codes.square().mean().item() == pytest.approx(head[:ROWS].square().mean().item(), rel=1e-3)
    assert codes.mean(0).abs().max() < 1e-5
    centred = embedded - embedded.mean(0)
    assert torch.nn.functional.cosine_similarity(codes, centred).min() > 0.999


@torch.no_grad()
def test_a_model_folder_is_written_and_read(policy: NextFlowPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    again = load_nextflow(tmp_path)
    state, params = policy.prefill(PROMPT, True), SamplingParams(cfg=2.0)
    tokens = policy.sample(state, len(policy.grids), [1, 2], params)[1].tokens
    scored = [one.distribution(PROMPT, tokens, 0).log_prob(tokens) for one in (policy, again)]
    assert torch.equal(*scored) and np.array_equal(policy.decode(tokens), again.decode(tokens))
    half = load_nextflow(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.module.parameters()} == {torch.bfloat16}
    assert half.module.scale_count.dtype == torch.bfloat16
    assert half.distribution(PROMPT, tokens, 0).log_prob(tokens).dtype == torch.float32
    half.save(tmp_path / "half")
    saved = load_file(tmp_path / "half" / "policy.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}


def test_weights_are_mapped_not_copied(qwen: Path, policy: NextFlowPolicy, tmp_path: Path) -> None:
    """What is written to a mapped weight stays in memory, and the file as it was."""
    policy.save(tmp_path)
    before = (tmp_path / "policy.safetensors").read_bytes()
    loaded = load_nextflow(tmp_path)
    mapped = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "policy.safetensors") in mapped
    with torch.no_grad():
        for parameter in loaded.module.parameters():
            parameter.zero_()
    assert (tmp_path / "policy.safetensors").read_bytes() == before
    assert load_nextflow(tmp_path).module.norm.weight.abs().min() > 0


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("num_hidden_layers", 3, "transformer.depth is 2, Qwen's files have 3"),
        ("rms_norm_eps", 1e-5, "rms_norm_eps must be 1e-06"),
        ("use_sliding_window", True, "use_sliding_window must be false"),
        ("hidden_size", "wide", "hidden_size"),
        ("rope_parameters", None, "rope_theta and mrope_section"),
        ("vocab_size", 200, "text_vocab is 280, Qwen's files have 200"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(
    qwen: Path, tmp_path: Path, field: str, value: object, named: str
) -> None:
    config = config_of(qwen)
    copy_with(qwen, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["text_config"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=named):
        from_qwen(tmp_path, config)


def test_a_configuration_as_first_published_is_read(qwen: Path, tmp_path: Path) -> None:
    """The language half's fields at the top, and its rotation in rope_scaling."""
    copy_with(qwen, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    text = raw.pop("text_config")
    del text["rope_parameters"]
    raw |= text | {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert config_of(tmp_path) == config_of(qwen)


def test_missing_files_tensors_and_tokens_are_named(qwen: Path, tmp_path: Path) -> None:
    config = config_of(qwen)
    copy_with(qwen, tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    gone = index["weight_map"].pop("model.layers.1.mlp.up_proj.weight")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        from_qwen(tmp_path, config)
    copy_with(qwen, tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(OSError, match=gone):
        from_qwen(tmp_path, config)
    (tmp_path / gone).write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=gone):
        from_qwen(tmp_path, config)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(ValueError, match="weight_map"):
        from_qwen(tmp_path, config)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        from_qwen(tmp_path, config)
    with pytest.raises(ValueError, match=r"transformer\.text is qwen"):
        build(config)


def test_a_single_file_under_the_later_names_serves_as_well(qwen: Path, policy: NextFlowPolicy, tmp_path: Path) -> None:
    copy_with(qwen, tmp_path)
    tensors: dict[str, Tensor] = {}
    for shard in tmp_path.glob("model-*.safetensors"):
        tensors |= {name.replace("model.", "model.language_model."): t for name, t in load_file(shard).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = from_qwen(tmp_path, config_of(tmp_path), dtype=torch.float32)
    ids = torch.arange(20)[None]
    assert torch.equal(text_logits(found, ids)[..., :ROWS], text_logits(policy, ids)[..., :ROWS])


def test_the_command_writes_a_model_folder(
    qwen: Path, policy: NextFlowPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.save_tokenizer(tmp_path / "vision")
    flags = ["--stage", "256", "--aspect", "3", "4"]
    places = ["--qwen", str(qwen), "--tokenizer", str(tmp_path / "vision"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["convert", *places, *flags])
    main()
    made = load(tmp_path / "out", dtype=torch.bfloat16)
    assert len(made.grids) == 12 and made.grids[-1] == (13, 18)  # the paper's row nearest to 3:4
    assert isinstance(made, NextFlowPolicy)
    assert torch.equal(made.tokenizer.quantizer.table(), policy.tokenizer.quantizer.table())


def copy_with(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
