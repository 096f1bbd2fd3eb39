"""Files that the installed package carries: recipes, prompts and the tiny models, for where there is no checkout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

BUNDLE = Path(__file__).resolve().parents[1]  # holds recipes/ and checkpoints/: a checkout, or the installed package

_log = logging.getLogger("varl.resources")


class MissingFilesError(FileNotFoundError):
    """Settings name files or folders that do not exist.

    The message has a line for each, which begins with the setting.
    """


def find(path: str | Path) -> Path:
    """The file or folder that ``path`` means.

    That is ``path`` itself, unless it is relative, absent from the working directory, and the name of something that
    the package carries, such as ``recipes/tiny_demo.toml``: then the carried one, which is logged. What is found
    nowhere is returned as it is.
    """
    given = Path(path)
    bundled = BUNDLE / given
    if given.is_absolute() or ".." in given.parts or given.exists() or not bundled.exists():
        return given
    _log.info("%s is not in the working directory: the one of the package is used, %s", given, bundled)
    return bundled


BundledPath = Annotated[Path, AfterValidator(find)]  # a path in settings
