"""``varl score --reward`` starts a reward by the name, file or import path that ``varl serve`` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.tiny_clip import make_clip
from varl import cli
from varl.launch.rewards import SYNTHETIC_NOTE, is_synthetic


@pytest.mark.parametrize("reward", ["clipscore", "varl.services.clip.rewards:ClipScore"])
def test_by_short_name_and_by_import_path(
    reward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VARL_CLIP_MODEL", str(make_clip(tmp_path / "clip")))
    Image.new("RGB", (40, 32), "red").save(tmp_path / "red.png")
    assert cli.main(["score", str(tmp_path / "red.png"), "--prompt", "the tea", "--reward", reward, "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out).values()
    assert 0 <= scores["images"][0]["value"] <= 2.5


def test_the_synthetic_preference_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    assert cli.main(["score", str(tmp_path / "red.png"), "--prompt", "a red wall", "--reward", "hpsv3"]) == 0
    assert SYNTHETIC_NOTE in capsys.readouterr().err


@pytest.mark.parametrize("name", ["VARL_HPSV3_CHECKPOINT", "VARL_HPSV3_HUB"])
def test_the_environment_may_name_a_checkpoint(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_synthetic("hpsv3")
    monkeypatch.setenv(name, "1")
    assert not is_synthetic("hpsv3")
