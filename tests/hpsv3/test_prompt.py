"""The sequence around a prompt, and the prompts that are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hpsv3_builders import build_tokenizer
from tests.support.ocr_builders import ENVIRONMENT
from varl.services.hpsv3.prompt import PromptError, Prompts, read_wording
from varl.services.serving.scoring import ErrorCode
from varl.tiny.preference.tokens import CONTROLS

REWARD = "<|Reward|>"


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(build_tokenizer(), read_wording())


def test_the_wording_is_read_without_importing_the_package() -> None:
    code = (
        "import sys; from varl.services.hpsv3.prompt import read_wording; "
        "read_wording(); assert 'hpsv3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def test_the_wording_keeps_its_trailing_spaces_and_ends_at_the_reward_token() -> None:
    wording = read_wording()
    assert "Quality:**  \n" in wording.instruction
    assert wording.text("x y").endswith(REWARD)
    assert wording.text("x y").count("x y") == 1


def test_a_sequence_has_one_image_and_ends_at_its_one_reward_token(prompts: Prompts) -> None:
    ids = prompts.token_ids("a {cat} <| and %s", 5)
    assert ids.count(prompts.image_id) == 5
    assert ids.count(prompts.reward_id) == 1
    assert ids[-1] == prompts.reward_id == prompts.vocabulary - 1
    assert prompts.token_ids("", 7)[: ids.index(prompts.image_id)] == ids[: ids.index(prompts.image_id)]


def test_the_sequence_is_that_of_the_whole_text(prompts: Prompts) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens([REWARD])
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    text = f"{before}<|image_pad|><|image_pad|><|vision_end|>{read_wording().text('a  cat ')}"
    assert prompts.token_ids("a  cat ", 2) == tokenizer.encode(text).ids


@pytest.mark.parametrize("control", [*CONTROLS, REWARD])
@pytest.mark.parametrize("place", ["{}", "a {} b", "{}{}", "x{}"])
def test_a_control_token_in_a_prompt_is_refused(prompts: Prompts, control: str, place: str) -> None:
    prompt = place.replace("{}", control)
    refusal = prompts.refusal(prompt, 1000)
    assert refusal is not None
    assert refusal.code is ErrorCode.INVALID_FIELD
    assert refusal.detail.startswith("prompt: ")
    with pytest.raises(ValueError, match="control token"):
        prompts.token_ids(prompt, 4)


@pytest.mark.parametrize(
    "prompt",
    ["", "<|reward|>", "<| Reward |>", "<|Reward", "|>", "＜|Reward|＞", "{text_prompt}", "\x00", "名前 e\u0301"],
)
def test_what_only_looks_like_one_is_text(prompts: Prompts, prompt: str) -> None:
    assert prompts.refusal(prompt, 1000) is None
    assert prompts.token_ids(prompt, 4).count(prompts.reward_id) == 1


def test_a_prompt_has_a_greatest_length_in_tokens(prompts: Prompts) -> None:
    assert prompts.refusal("1" * 50, 50) is None  # every digit is a token
    refusal = prompts.refusal("1" * 51, 50)
    assert refusal is not None
    assert refusal.code is ErrorCode.PROMPT_TOO_LONG
    assert refusal.detail == "prompt: 51 tokens, at most 50 are taken"


def test_a_tokenizer_of_another_model_is_refused() -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(PromptError, match="image_pad"):
        Prompts(Tokenizer(models.BPE()), read_wording())


@pytest.mark.parametrize(
    "source", ["", "INSTRUCTION = 'no field'\nprompt_with_special_token = '<|Reward|>'", "INSTRUCTION = ", None]
)
def test_another_package_of_that_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    folder = tmp_path / "hpsv3" / "dataset"
    folder.mkdir(parents=True)
    (tmp_path / "hpsv3" / "__init__.py").write_text("")
    if source is not None:
        (folder / "data_collator_qwen.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PromptError, match="instruction text"):
        read_wording()
