"""The pinned files against pyproject.toml and against each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements import licences
from requirements.lock import FILES, KEPT_BY_HAND, ROOT, TORCH, WITHOUT, closure, project_requirements
from requirements.pins import package_hashes, read_comment, read_pins, usable
from varl.services.ocr.engines.base import INSTALL_REST

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    """What is installed for an extra, PyTorch from its own file included."""
    found = read_pins(name)
    return found | read_pins(TORCH) if WITHOUT in read_comment(name)[0] else found


def lines(name: str) -> list[str]:
    return (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", "").splitlines()


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_what_lock_writes(name: str) -> None:
    assert pins(name) == closure(project_requirements(PROJECT, name)), "run make lock"


@pytest.mark.parametrize("name", FILES)
def test_one_environment_can_hold_every_file(name: str) -> None:
    assert pins(name).items() <= pins("dev").items()


@pytest.mark.parametrize("name", FILES)
def test_direct_requirements_are_met(name: str) -> None:
    pinned = pins(name)
    for requirement in map(Requirement, project_requirements(PROJECT, name)):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_the_licence_list_is_that_of_what_the_images_install() -> None:
    assert (ROOT / "docs" / "licences.md").read_text() == licences.HEAD + licences.table(), "run make lock"
    dockerfile = (ROOT / "Dockerfile").read_text()
    for names in licences.IMAGES.values():
        assert all(f"{name}.txt" in dockerfile for name in names)


@pytest.mark.parametrize("name", [*FILES, *KEPT_BY_HAND])
def test_every_package_has_the_hashes_of_its_files(name: str) -> None:
    entry = re.compile(r"[a-z0-9-]+==\S+( +--hash=sha256:[0-9a-f]{64})+")
    assert [line for line in lines(name) if not line.startswith("#") and not entry.fullmatch(line)] == []


@pytest.mark.parametrize("name", ["dev", "ocr-models"])
def test_pip_reads_the_files_in_its_mode_of_hashes(name: str, tmp_path: Path) -> None:
    """No index is asked, so that pip ends at the first package, after the parsing."""
    mode = ["--dry-run", "--no-deps", "--require-hashes", "--no-index", "--isolated", "--target", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "install", *mode, "-r", str(ROOT / "requirements" / f"{name}.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "No matching distribution found" in done.stderr, done.stderr


def test_pytorch_alone_has_no_hashes_and_no_file_of_hashes_names_it() -> None:
    assert list(read_pins(TORCH)) == [TORCH]
    assert not [name for name in [*FILES, *KEPT_BY_HAND] if TORCH in read_pins(name)]


@pytest.mark.parametrize("command", ["Dockerfile", "Makefile"])
def test_what_is_installed_from_a_file_is_checked(command: str) -> None:
    text = (ROOT / command).read_text().replace("$(CHECKED)", "--require-hashes").replace("$(PIP)", "pip install")
    installs = [line for line in text.splitlines() if re.search(r"install .*-r ", line)]
    assert len(installs) >= 6
    assert [one for one in installs if "--require-hashes" not in one and "torch.txt" not in one] == []


@pytest.mark.parametrize(
    ("wheel", "kept"),
    [
        ("idna-3.20-py3-none-any.whl", True),
        ("numpy-2.3.5-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", True),
        ("tokenizers-0.22.0-cp39-abi3-macosx_11_0_arm64.whl", True),
        ("numpy-2.3.5-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("numpy-2.3.5-cp313-cp313t-manylinux_2_27_x86_64.whl", False),
        ("numpy-2.3.5-pp311-pypy311_pp73-manylinux_2_27_x86_64.whl", False),
        ("numpy-2.3.5-cp311-cp311-win_amd64.whl", False),
    ],
)
def test_the_wheels_of_supported_machines_are_kept(wheel: str, kept: bool) -> None:
    assert usable(wheel) == kept
    package = {"wheels": [{"url": f"/a/{wheel}", "hashes": {"sha256": "b"}}], "sdist": {"hashes": {"sha256": "a"}}}
    assert package_hashes(package) == ["--hash=sha256:a", *["--hash=sha256:b"] * kept]


def test_what_debian_12s_python_needs_is_pinned_too() -> None:
    assert "async-timeout" in pins("demo")  # redis wants it below Python 3.11.3; newer ones install it for nothing


def test_the_headless_opencv_is_the_one_it_replaces() -> None:
    assert pins("ocr-models")["opencv-contrib-python-headless"] == pins("ocr")["opencv-contrib-python"]


def test_the_command_that_the_ocr_service_names_installs_the_pins() -> None:
    named = dict(part.split("==") for part in INSTALL_REST.split() if "==" in part)
    assert named == pins("ocr-models")
    assert INSTALL_REST in (ROOT / "docs" / "installing.md").read_text()


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(SystemExit, match="varl needs no-such-package>=3, which is not installed"):
        closure(["no-such-package>=3"])
    with pytest.raises(SystemExit, match=r"varl needs numpy<1, installed is 2\."):
        closure(["numpy<1"])


def test_the_package_engines_environment_holds_what_serving_needs() -> None:
    assert pins("serving").keys() <= pins("hpsv3-package").keys(), "requirements/hpsv3-package.txt is kept by hand"
