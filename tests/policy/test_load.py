"""Code that loads a model folder: varl's own, an installed package's or one that the caller names.

A file never decides it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from varl.policy.load import load
from varl.policy.nextflow import NextFlowPolicy, build_random

PLUGIN = """
from varl.policy.nextflow import build_random
def load(folder, device, dtype):
    policy = build_random(9, dtype)
    policy.read_from = folder
    return policy
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_random(1).save(tmp_path / "model")
    return tmp_path / "model"


def rename(folder: Path, architecture: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    if architecture is None:
        del config["architecture"]
    else:
        config["architecture"] = architecture
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package on the path that also offers the architecture "stranger"; importing it leaves a mark in sys.modules."""
    site = tmp_path / "site"
    (site / "stranger-1.0.dist-info").mkdir(parents=True)
    (site / "stranger_policy.py").write_text(PLUGIN)
    (site / "stranger-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "stranger_policy", raising=False)
    return str(site)


@pytest.mark.parametrize("name", [None, "nextflow"])
def test_a_folder_without_the_key_is_nextflow(folder: Path, name: str | None) -> None:
    rename(folder, name)
    policy = load(folder)
    assert isinstance(policy, NextFlowPolicy)
    expected = build_random(1).module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in policy.module.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_the_dtype_is_the_transformers(folder: Path, dtype: str | torch.dtype) -> None:
    policy = load(folder, dtype=dtype)
    assert {parameter.dtype for parameter in policy.module.parameters()} == {torch.bfloat16}
    assert isinstance(policy, NextFlowPolicy) and next(policy.tokenizer.parameters()).dtype == torch.float32


@pytest.mark.usefixtures("package")
def test_a_config_never_decides_what_is_imported(folder: Path) -> None:
    for name in ("stranger_policy:load", "stranger"):
        rename(folder, name)
        told = rf"{name}.*not one of infinity, nextflow; .*varl\.policies.*plugin = package\.module:function"
        with pytest.raises(ValueError, match=told):
            load(folder)
    assert "stranger_policy" not in sys.modules


def test_an_installed_package_offers_an_architecture(folder: Path, package: str) -> None:
    (Path(package) / "stranger-1.0.dist-info" / "entry_points.txt").write_text(
        "[varl.policies]\nstranger = stranger_policy:load\n"
    )
    rename(folder, "stranger")
    assert getattr(load(folder), "read_from") == folder  # noqa: B009


@pytest.mark.usefixtures("package")
def test_the_caller_may_name_a_loader(folder: Path) -> None:
    policy = load(folder, dtype="bfloat16", plugin="stranger_policy:load")
    assert getattr(policy, "read_from") == folder  # noqa: B009
    assert next(policy.module.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "plugin", ["no_such_module_at_all:load", "varl.policy.nextflow:nothing", "varl.policy.nextflow", ":load", "os:sep"]
)
def test_a_loader_that_is_none_is_named(folder: Path, plugin: str) -> None:
    with pytest.raises(ValueError, match="plugin"):
        load(folder, plugin=plugin)


@pytest.mark.parametrize("text", ["{", "[]", '{"architecture": 3}'])
def test_a_config_that_is_none_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(folder)


def test_other_dtypes_and_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16"):
        load(folder, dtype="int8")
    with pytest.raises(OSError, match=r"config\.json"):
        load(tmp_path / "nothing")
