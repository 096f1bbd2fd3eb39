"""The pinned files against pyproject.toml and against each other."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements import licences
from requirements.lock import FILES, ROOT, closure, project_requirements
from varl.services.ocr.engines.base import INSTALL_REST

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(requirement.specifier).startswith("==") for requirement in found)
    return {canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==") for requirement in found}


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
