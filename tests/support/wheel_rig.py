"""A wheel of the checkout, installed into an environment of its own that has nothing else of varl's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT


@dataclass(frozen=True)
class Installed:
    """An environment with varl's wheel, and an empty folder to work in."""

    environment: Path
    folder: Path
    wheel: Path

    @property
    def varl(self) -> str:
        """The console script."""
        return str(self.environment / "bin" / "varl")

    def run(self, *arguments: str, settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``varl`` in the empty folder, with ``settings`` as further variables of the environment."""
        variables = {**self.variables(), **(settings or {})}
        return subprocess.run(
            [self.varl, *arguments], cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )

    def variables(self) -> Mapping[str, str]:
        """Variables of a shell that knows nothing of the checkout or of a Redis."""
        return {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "REDIS_URL", "VIRTUAL_ENV")
        }


def build_and_install(place: Path) -> Installed:
    """Build the sdist, the wheel out of it, and install that.

    What varl depends on is gigabytes: the new environment sees the packages of this one by a line in a .pth file. Such
    a line is not followed further, so this environment's own editable varl stays unseen, and the checkout with it.
    """
    wheel = _wheel(place)
    environment, folder = place / "environment", place / "empty"
    folder.mkdir()
    venv.create(environment, with_pip=False)
    library = next(environment.glob("lib/python*/site-packages"))
    (library / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    _python("-m", "pip", "--python", str(environment / "bin" / "python"), *install)
    return Installed(environment, folder, wheel)


def _wheel(place: Path) -> Path:
    """Built in a copy of what git knows, so that neither the checkout nor what older builds left there matters."""
    source, out = place / "source", place / "dist"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_symlink() | (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    build = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
    _python("-c", build.format("sdist"), str(out), cwd=source)
    shutil.unpack_archive(next(out.glob("*.tar.gz")), place / "unpacked")
    _python("-c", build.format("wheel"), str(out), cwd=next((place / "unpacked").iterdir()))
    return next(out.glob("*.whl"))


def _python(*arguments: str, cwd: Path | None = None) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
