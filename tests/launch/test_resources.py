"""Which file a path means: the working directory's first, then the package's."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from varl.launch.resources import BUNDLE, find

RECIPE = "recipes/tiny_demo.toml"


def test_a_packaged_file_is_found_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("varl.resources"), "propagate", True)
    with caplog.at_level(logging.INFO, "varl.resources"):
        assert find(RECIPE) == BUNDLE / RECIPE
    assert f"{RECIPE} is not in the working directory" in caplog.text


def test_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / RECIPE).touch()
    assert find(RECIPE) == Path(RECIPE)


@pytest.mark.parametrize("path", ["recipes/none.toml", "/recipes/tiny_demo.toml", "recipes/../recipes/tiny_demo.toml"])
def test_other_paths_stay_as_they_are(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(path) == Path(path)
