"""Write requirements/<extra>.txt: every package an extra of pyproject.toml needs, pinned to what is installed here.

Run with the project's own environment after changing a dependency (``make lock``). The pins are those of this
environment, which the tests have run in; what a package needs only on another supported Python is followed too, so it
must be installed as well. PyTorch is pinned in a file of its own (torch.txt says why). The files that are kept by hand
keep their versions and get their hashes.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from requirements.pins import PLACE, read_comment, read_pins, write_pins

ROOT = PLACE.parent
FILES = ("serving", "ocr", "hpsv3", "policy", "rollout", "trainer", "tensorboard", "demo", "dev")
KEPT_BY_HAND = ("bench", "hpsv3-package", "hpsv3-wording", "ocr-models")
TORCH = "torch"
WITHOUT = "; PyTorch is in torch.txt"
PYTHONS = ("3.11.2", "3.12.0", "3.13.0", "3.14.0")  # the first is Debian 12's
PROJECT = "varl"


def environments() -> list[dict[str, str]]:
    """The machine's marker environment, once for every supported Python."""
    here = {key: str(value) for key, value in default_environment().items()}
    return [here | {"python_full_version": full, "python_version": full.rpartition(".")[0]} for full in PYTHONS]


def wanted(requirements: Iterable[str], extras: frozenset[str]) -> Iterator[Requirement]:
    """Requirements whose marker holds on some supported Python with one of ``extras`` (or with none) asked for."""
    contexts = [environment | {"extra": extra} for environment in environments() for extra in extras | {""}]
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate(context) for context in contexts):
            yield requirement


def project_requirements(project: dict[str, object], extra: str) -> list[str]:
    """Direct requirements of ``varl[extra]``, extras that name the project itself followed."""
    dependencies, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)  # noqa: S101
    assert isinstance(optional, dict)  # noqa: S101
    found: list[str] = list(dependencies)
    for text in optional[extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT:
            found += [line for inner in requirement.extras for line in project_requirements(project, inner)]
        else:
            found.append(text)
    return found


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Name -> version of everything that ``requirements`` need, themselves included.

    Raises:
        SystemExit: a package is not installed, or its version is outside what is asked for.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [(requirement, PROJECT) for requirement in wanted(requirements, frozenset())]
    while queue:
        requirement, parent = queue.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        pins[name] = installed_version(requirement, parent)
        if (name, extras) not in seen:
            seen.add((name, extras))
            queue += [(needed, name) for needed in wanted(distribution(name).requires or [], extras)]
    return pins


def installed_version(requirement: Requirement, parent: str) -> str:
    """Public version (no local part such as ``+cpu``) of the installed package, checked against the requirement."""
    try:
        version = Version(distribution(requirement.name).version)
    except PackageNotFoundError:
        sys.exit(f"{parent} needs {requirement}, which is not installed: install it, then lock again")
    if not requirement.specifier.contains(version.public, prereleases=True):
        sys.exit(f"{parent} needs {requirement}, installed is {version}")
    return version.public


def main() -> None:
    """Write one file for each extra in ``FILES``, and the hashes of those that are kept by hand."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in FILES:
        pins = closure(project_requirements(project, extra))
        torch = pins.pop(TORCH, None)
        note = f"# varl[{extra}], every package pinned{WITHOUT if torch else ''}; written by requirements/lock.py"
        report(extra, [note], pins)
    for name in KEPT_BY_HAND:
        report(name, read_comment(name), read_pins(name))


def report(name: str, comment: list[str], pins: dict[str, str]) -> None:
    """Write a file, and say so."""
    write_pins(name, comment, pins)
    sys.stdout.write(f"requirements/{name}.txt: {len(pins)} packages\n")


if __name__ == "__main__":
    main()
