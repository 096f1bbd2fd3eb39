"""Where exported models are pushed to: a repository of a hub, or a folder that is one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

HUB = "hf://"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push(folder: Path, place: str) -> str:
    """Bring the files of ``folder`` to ``place``: hf://OWNER/NAME, or a folder, such as a clone of a hub's repository.

    Files of the same name are replaced, others stay. A repository that does not exist is made, a private one.

    Returns:
        Where they are now.

    Raises:
        ValueError: the repository's name is none.
        OSError: a file cannot be written, the hub's client is not installed, or the hub refuses.
    """
    if not place.startswith(HUB):
        shutil.copytree(folder, place, dirs_exist_ok=True)
        return place
    repository = place.removeprefix(HUB)
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"--push: {place} is no repository, which would be {HUB}OWNER/NAME")
    return _upload(folder, repository)


def _upload(folder: Path, repository: str) -> str:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise OSError("--push: a hub needs: pip install 'varl[hub]' (there is no huggingface_hub here)") from error
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Export with varl")
    except Exception as error:  # the hub's client raises its own, its HTTP library's and OSError
        raise OSError(f"--push: the hub does not take {repository}: {type(error).__name__}: {error}") from error
    return str(done.commit_url)
