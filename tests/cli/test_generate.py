"""``varl generate`` on the committed model: pictures, their text, scales, seeds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.support.paths import ROOT
from varl import cli
from varl.examples.palette import main as write_palette
from varl.policy.base import SamplingParams
from varl.policy.generate import arrange, generate, generate_by_scale
from varl.policy.nextflow import NextFlowPolicy, build_random, load
from varl.trajectories.prompt_files import load_prompts

PROMPT = load_prompts(ROOT / "recipes" / "prompts" / "tiny_train.jsonl")[0].prompt
MODEL = ["--model", str(ROOT / "checkpoints" / "tiny")]


@pytest.fixture(scope="module")
def policy() -> NextFlowPolicy:
    return load(ROOT / "checkpoints" / "tiny")


def draw(path: Path, *flags: str) -> int:
    return cli.main(["generate", PROMPT, *MODEL, "-o", str(path), *flags])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_model_of_ones_own_is_loaded_by_its_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_palette(tmp_path / "own")  # type: ignore[no-untyped-call] # examples have no types
    (tmp_path / "own" / "config.json").unlink()  # its loader needs none
    named = ["--model", str(tmp_path / "own"), "--plugin", "varl.examples.palette:load"]
    assert cli.main(["generate", "a bright square", *named, "-o", str(tmp_path / "own.png")]) == 0
    assert pixels(tmp_path / "own.png").ndim == 3
    with pytest.raises(SystemExit):
        cli.main(["generate", "x", *named[:3], "no.such:thing", "-o", str(tmp_path / "x.png")])
    assert "no.such" in capsys.readouterr().err


def test_bfloat16_draws_other_pixels_of_the_same_picture(tmp_path: Path) -> None:
    assert draw(tmp_path / "a.png") == draw(tmp_path / "b.png", "--dtype", "bfloat16") == 0
    assert pixels(tmp_path / "a.png").shape == pixels(tmp_path / "b.png").shape


def test_a_grid_with_every_scale_and_its_facts(tmp_path: Path, policy: NextFlowPolicy) -> None:
    output = tmp_path / "sign.png"
    assert (
        draw(
            output,
            "-n",
            "3",
            "--seed",
            "7",
            "--temperature",
            "1.5",
            "--guidance",
            "2",
            "--guidance-schedule",
            "constant",
            "--scales",
        )
        == 0
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(["sign.png", *(f"sign.scale{scale}.png" for scale in range(1, len(policy.grids) + 1))])
    expected = arrange(generate(policy, PROMPT, 3, 7, SamplingParams(temperature=1.5, cfg=2.0, cfg_constant=True)))
    assert expected.shape == (128, 128, 3)
    assert np.array_equal(pixels(output), expected)
    assert np.array_equal(pixels(tmp_path / "sign.scale5.png"), expected)
    assert not np.array_equal(pixels(tmp_path / "sign.scale4.png"), expected)
    with Image.open(output) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        text = image.text
    assert (text["prompt"], text["seed"], text["weights"]) == (PROMPT, "7", "base")
    sampling = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "guidance": 2.0, "guidance_schedule": "constant"}
    assert json.loads(text["sampling"]) == sampling


def test_a_seed_decides_each_image_whatever_their_number(policy: NextFlowPolicy) -> None:
    params = SamplingParams()
    four, again, two = (generate(policy, PROMPT, count, 3, params) for count in (4, 4, 2))
    assert np.array_equal(four, again)
    assert np.array_equal(four[:2], two)
    assert not np.array_equal(four[0], four[1])
    assert not np.array_equal(four, generate(policy, PROMPT, 4, 4, params))


def test_partial_images_have_the_full_size(policy: NextFlowPolicy) -> None:
    steps = list(generate_by_scale(policy, PROMPT, 2, 0, SamplingParams()))
    assert [step.scale for step in steps] == list(range(len(policy.grids)))
    assert {step.pixels.shape for step in steps} == {(2, 64, 64, 3)}


def test_trained_weights_are_used(tmp_path: Path, policy: NextFlowPolicy) -> None:
    other = load(ROOT / "checkpoints" / "tiny")
    for parameter in other.module.parameters():
        parameter.data.mul_(1.02)
    other.save_weights(str(tmp_path / "trained.safetensors"))
    assert draw(tmp_path / "sign.webp", "--weights", str(tmp_path / "trained.safetensors")) == 0
    with Image.open(tmp_path / "sign.webp") as image:
        assert image.format == "WEBP"
    assert draw(tmp_path / "sign.png", "--weights", str(tmp_path / "trained.safetensors")) == 0
    assert not np.array_equal(pixels(tmp_path / "sign.png"), arrange(generate(policy, PROMPT, 1, 0, SamplingParams())))


def test_images_are_arranged_row_by_row() -> None:
    images = np.stack([np.full((2, 3, 3), value, np.uint8) for value in range(5)])
    sheet = arrange(images)
    assert sheet.shape == (4, 9, 3)
    assert sheet[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 255]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "no-such-model"], "--model: there is no model folder no-such-model"),
        (["--weights", "none.safetensors"], "--weights: there is no file none.safetensors"),
        (["-o", "sign.gif"], "must end in one of .png, .jpg, .jpeg, .webp"),
        (["-o", "no-such-folder/sign.png"], "there is no folder no-such-folder"),
        (["-n", "0"], "must be at least 1, got 0"),
        (["--device", "abacus"], "--device: abacus"),
    ],
)
def test_what_cannot_be_is_refused_by_its_flag(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        draw(tmp_path / "sign.png", *flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_weights_of_another_model_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_random().save_weights(str(tmp_path / "other.safetensors"))
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name, message in (("other", "does not fit this model"), ("junk", "--weights: ")):
        with pytest.raises(SystemExit) as ended:
            draw(tmp_path / "sign.png", "--weights", str(tmp_path / f"{name}.safetensors"))
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
