"""Rows of the text encoder: kept on disk by prompt, computed by a very small T5, and missed with a message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.infinity_models import SQUARE, TRANSFORMER, ByteRows, random_policy
from varl import cli
from varl.policy.infinity import InfinityPolicy
from varl.policy.infinity.text import ENCODER, ROWS, MissingPromptError, StoredRows, T5Rows, encode, text_source
from varl.policy.load import load

PROMPTS = ("a red sign", "a blue sign that says 'BREAD, then MILK'")
WIDTH = TRANSFORMER.text_width


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of two layers with random weights, and a tokenizer of characters that ends a prompt with </s>."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("t5")
    letters = ["<pad>", "</s>", "<unk>", *(chr(code) for code in range(32, 127))]
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    words.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = transformers.T5Config(
        vocab_size=len(letters), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    transformers.T5EncoderModel(sizes).to(torch.float16).save_pretrained(folder)
    return folder


def test_rows_are_kept_by_prompt_and_more_are_added(tmp_path: Path) -> None:
    stored = StoredRows(tmp_path / ROWS, TRANSFORMER)
    assert stored.prompts() == set()
    assert encode([PROMPTS[0], PROMPTS[0]], ByteRows(), stored) == 1
    assert encode(PROMPTS, ByteRows(), stored) == 1 and encode(PROMPTS, ByteRows(), stored) == 0
    assert stored.prompts() == set(PROMPTS)
    for prompt in PROMPTS:
        rows = stored.rows(prompt)
        assert rows.dtype == torch.float32 and torch.equal(rows, ByteRows().rows(prompt).to(torch.float16).to(rows))


def test_a_missing_prompt_is_named_with_the_command_that_helps(tmp_path: Path) -> None:
    random_policy().save(tmp_path)
    policy = load(tmp_path)
    for _ in range(2):  # without a file, and with one of another prompt
        with pytest.raises(
            MissingPromptError, match=rf"rows of the prompt 'a cat'; .* varl encode {tmp_path} --prompts"
        ):
            policy.prefill("a cat", False)
        encode(PROMPTS, ByteRows(), StoredRows(tmp_path / ROWS, TRANSFORMER))
    assert policy.prefill(PROMPTS[0], True).batch == 1


def test_generate_explains_a_missing_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_policy().save(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["generate", "a cat", "--model", str(tmp_path), "-o", str(tmp_path / "cat.png")])
    assert f"PROMPT: {tmp_path / ROWS} has no rows of the prompt 'a cat'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(3, WIDTH + 1), rf"'x' must be \[1 to 48, {WIDTH}\], got \[3, {WIDTH + 1}\]"),
        (torch.zeros(0, WIDTH), r"got \[0, "),
        (torch.zeros(49, WIDTH), r"got \[49, "),
        (torch.zeros(WIDTH), "got"),
        (torch.full((2, WIDTH), torch.inf), "'x' are not finite"),
    ],
)
def test_rows_that_do_not_fit_are_rejected(tmp_path: Path, rows: torch.Tensor, message: str) -> None:
    save_file({"x": rows}, tmp_path / ROWS)
    with pytest.raises(ValueError, match=message):
        StoredRows(tmp_path / ROWS, TRANSFORMER).rows("x")


def test_a_damaged_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_bytes(b"nothing")
    with pytest.raises(OSError, match=ROWS):
        StoredRows(tmp_path / ROWS, TRANSFORMER).rows("x")


def test_the_encoder_gives_a_row_a_token_with_the_end_and_no_padding(encoder: Path) -> None:
    source = T5Rows(encoder, TRANSFORMER)
    for prompt in PROMPTS:
        rows = source.rows(prompt)
        assert rows.dtype == torch.float32 and tuple(rows.shape) == (len(prompt) + 1, WIDTH)
    assert len(source.rows("x" * 100)) == TRANSFORMER.text_length  # cut off, as published
    assert not torch.equal(source.rows("cat")[0], source.rows("car")[0])  # every row sees the whole prompt


def test_the_command_keeps_what_the_encoder_gives(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SQUARE.write(tmp_path)
    lines = tmp_path / "prompts.jsonl"
    lines.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    command = ["encode", str(tmp_path), "--prompts", str(lines), "--encoder", str(encoder)]
    assert [cli.main(command) for _ in range(2)] == [0, 0]
    assert capsys.readouterr().out == f"{tmp_path / ROWS}: 2 prompts more\n{tmp_path / ROWS}: 0 prompts more\n"
    for prompt in PROMPTS:
        assert torch.equal(
            StoredRows(tmp_path / ROWS, TRANSFORMER).rows(prompt), T5Rows(encoder, TRANSFORMER).rows(prompt)
        )


@pytest.mark.parametrize(
    ("encoder_folder", "status", "message"),
    [("none", 2, "--encoder: there is no folder"), ("other", 1, "encode: ")],
)
def test_an_encoder_that_cannot_be_used_is_explained(
    tmp_path: Path, encoder_folder: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    SQUARE.write(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}')
    command = ["encode", str(tmp_path), "--prompts", str(tmp_path / "prompts.jsonl"), "--encoder"]
    try:
        found = cli.main([*command, str(tmp_path / encoder_folder)])
    except SystemExit as ended:
        found = int(str(ended.code))
    assert found == status and message in capsys.readouterr().err


def test_a_folder_with_an_encoder_needs_no_rows_but_rows_come_first(encoder: Path, tmp_path: Path) -> None:
    random_policy().save(tmp_path)
    shutil.copytree(encoder, tmp_path / ENCODER)
    policy = load(tmp_path)
    assert isinstance(policy, InfinityPolicy) and isinstance(policy.text, T5Rows)
    assert policy.prefill("a prompt that nobody encoded", True).batch == 1
    encode(PROMPTS, ByteRows(), StoredRows(tmp_path / ROWS, TRANSFORMER))
    assert isinstance(text_source(tmp_path, TRANSFORMER, "cpu"), StoredRows)
