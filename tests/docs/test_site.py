"""The site of docs/ builds, without a dead link, and has what is made from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.support.paths import ROOT
from varl.cli.commands import COMMANDS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # a warning, such as a link that leads nowhere, ends a strict build
    return folder


def test_every_command_has_its_settings(site: Path) -> None:
    page = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"varl {name}" not in page]
    assert "--objective.split_scale" in page


def test_the_bodies_of_requests_are_there(site: Path) -> None:
    page = (site / "reference/http/index.html").read_text(encoding="utf-8")
    assert "POST /v1/score" in page
    assert "target_words" in page


def test_the_metrics_of_every_service_are_there(site: Path) -> None:
    page = (site / "reference/prometheus/index.html").read_text(encoding="utf-8")
    code = "".join(path.read_text() for path in sorted((ROOT / "services").rglob("metrics.py")))
    made = set(re.findall(r'"(varl_\w+)"', code))
    assert len(made) > 20
    assert not [name for name in made if name not in page]


def test_the_first_page_links_every_other() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+\.md)\)", text)}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if "tiny_ocr" not in path.parts}
    elsewhere = {ROOT / name for name in ("policy/README.md", "policy/nextflow/README.md", "k8s/README.md")}
    assert not (pages | elsewhere) - linked - {ROOT / "docs" / "index.md"}


def test_pages_from_elsewhere_are_linked(site: Path) -> None:
    assert (site / "repository/policy/README/index.html").exists() or (site / "repository/policy/index.html").exists()
    tutorial = (site / "tutorial/index.html").read_text(encoding="utf-8")
    assert "repository/policy" in tutorial


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert 'rel="stylesheet" href="http' not in page
