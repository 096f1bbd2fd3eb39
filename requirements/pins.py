"""The form of requirements/*.txt: a comment, then each package with its version and the hashes of its files.

``pip install --no-deps --require-hashes -r FILE`` installs one. The hashes are those of every file that CPython on
Linux (glibc; x86-64 and arm64) or macOS may choose, so that one file serves all of them; uv reads them from the package
index, the one that pip is configured with.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

PLACE = Path(__file__).resolve().parent
PLATFORMS = ("any", "manylinux", "linux", "macosx")


def read_pins(name: str) -> dict[str, str]:
    """Package -> version of requirements/``name``.txt; continuation lines, which hold the hashes, and comments skipped.

    Raises:
        ValueError: a package has no one version.
    """
    lines = (PLACE / f"{name}.txt").read_text().splitlines()
    found = [Requirement(line.removesuffix("\\")) for line in lines if line and line[0] not in "# "]
    if loose := [str(one) for one in found if not str(one.specifier).startswith("==")]:
        raise ValueError(f"requirements/{name}.txt: no one version: {', '.join(loose)}")
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in found}


def read_comment(name: str) -> list[str]:
    """The comment that requirements/``name``.txt begins with."""
    return [line for line in (PLACE / f"{name}.txt").read_text().splitlines() if line.startswith("#")]


def write_pins(name: str, comment: list[str], pins: Mapping[str, str]) -> None:
    """Write the file, with the hashes that the index has for each of ``pins``."""
    hashes = index_hashes(pins)
    lines = [" \\\n    ".join([f"{package}=={pins[package]}", *hashes[package]]) for package in sorted(pins)]
    (PLACE / f"{name}.txt").write_text("\n".join([*comment, *lines]) + "\n")


def index_hashes(pins: Mapping[str, str]) -> dict[str, list[str]]:
    """Package -> ``--hash=sha256:...`` of its sdist and of the wheels that ``usable`` keeps, sorted.

    Raises:
        SystemExit: the index lacks one of them; uv has said which.
    """
    with TemporaryDirectory() as folder:
        wanted, locked = Path(folder, "wanted.in"), Path(folder, "pylock.toml")
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        uv = [str(Path(sysconfig.get_path("scripts"), "uv")), "pip", "compile", "--quiet", "--no-deps"]
        python = ["--universal", "--python-version", platform.python_version()]  # and newer
        command = [*uv, *python, *index_options(), "--format", "pylock.toml", "--output-file", str(locked), str(wanted)]
        if status := subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:  # noqa: S603
            sys.exit(status)
        packages = tomllib.loads(locked.read_text())["packages"]
    return {canonicalize_name(package["name"]): package_hashes(package) for package in packages}


def index_options() -> list[str]:
    """Options of uv for the package index that pip has in place of its own default, by variable or by pip.conf.

    Further indexes are left out: they may hold a part of a version's files, at which uv would stop.
    """
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    url = os.environ.get("PIP_INDEX_URL") or configured.stdout.strip()
    return ["--default-index", url] if url else []


def package_hashes(package: Mapping[str, Any]) -> list[str]:
    """Options of pip for one package of a pylock.toml (PEP 751)."""
    wheels = [wheel for wheel in package.get("wheels", []) if usable(wheel["url"].rpartition("/")[2])]
    files = [*wheels, *([package["sdist"]] if "sdist" in package else [])]
    return sorted(f"--hash=sha256:{file['hashes']['sha256']}" for file in files)


def usable(wheel: str) -> bool:
    """Whether CPython, with its lock, on one of ``PLATFORMS`` may install the wheel of this file name."""
    return any(_usable(tag) for tag in parse_wheel_filename(wheel)[3])


def _usable(tag: Tag) -> bool:
    return tag.platform.startswith(PLATFORMS) and tag.interpreter[:2] in ("py", "cp") and not tag.abi.endswith("t")
