"""Every image has the files that its process imports: what the Dockerfile copies against what the code needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.import_graph import graph, modules, reachable
from tests.support.paths import ROOT

ENTRIES = {
    "ocr": ["varl.services.ocr.__main__", "varl.services.ocr.engines.onnx"],
    "hpsv3": ["varl.services.hpsv3.__main__"],
    "gateway": ["varl.services.gateway.__main__", "varl.services.reward.__main__", "varl.reward"],
    "rollout": ["varl.services.rollout.__main__"],
    "trainer": ["varl.trainer.__main__", "varl.studies.demo"],
}


def stages() -> dict[str, tuple[str, list[str]]]:
    """Stage -> the stage it is from, and the sources that it copies from the repository."""
    found = dict[str, tuple[str, list[str]]]()
    name = ""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = (match[1], [])
        elif line.startswith("COPY ") and "--from" not in line:
            found[name][1].extend(line.split()[1:-1])
    return found


def copied(stage: str) -> list[Path]:
    known, sources = stages(), list[str]()
    while stage in known:
        stage, more = known[stage]
        sources += more
    return [Path(source) for source in sources]


def closure(module: str) -> set[Path]:
    """Files below the repository that a module needs, itself or by others, packages included."""
    names = {module, *reachable(graph(), module)}
    parents = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    known = modules()
    return {known[name].resolve().relative_to(ROOT) for name in (names | parents) & known.keys()}


@pytest.mark.parametrize(("image", "module"), [(image, one) for image, entries in ENTRIES.items() for one in entries])
def test_what_is_imported_is_in_the_image(image: str, module: str) -> None:
    there = copied(image)
    missing = [path for path in closure(module) if not any(path == one or one in path.parents for one in there)]
    assert not missing, sorted(map(str, missing))


def test_the_closure_follows_imports_inside_functions_and_packages() -> None:
    found = closure("varl.trainer.local_services")
    assert {
        Path("services/reward/place.py"),
        Path("services/reward/__init__.py"),
        Path("src/varl/__init__.py"),
    } <= found
    assert Path("trainer/loop.py") not in found


def test_compose_hands_on_what_the_build_can_be_told() -> None:
    args = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["x-build"]["args"]
    told = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert args.keys() == told - {"VERSION", "REVISION"}
    assert args["BASE"] == "${BASE:-python:3.11-slim-bookworm}"


def test_every_base_image_can_be_given_by_digest() -> None:
    """No stage is from an image that is written in the file, and the Compose file takes Redis's from outside."""
    froms = [
        match[0] for match in re.findall(r"^FROM (\S+)( AS \S+)?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    ]
    assert [name for name in froms if name not in {"${BASE}", "${WHEELS}"} | stages().keys()] == []
    images = {one["image"] for one in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()}
    assert [name for name in images if not name.startswith("varl-")] == ["${REDIS_IMAGE:-redis:7-bookworm}"]
