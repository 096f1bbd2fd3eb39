"""Prompts of a benchmark with the image file that each is judged by."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varl.services.ocr.targets import resolve_targets
from varl.trajectories.prompts import PromptSpec, load_prompts

CVTG_FOLDERS = ("CVTG", "CVTG-Style")
CVTG_AREAS = (2, 3, 4, 5)
_CVTG_SPAN = re.compile(r"'(.*?)'")  # of its script: an apostrophe ends a span


@dataclass(frozen=True)
class Item:
    """One prompt. image: its file below the folder of images; group: what figures are also given by."""

    image: str
    prompt: str
    targets: tuple[str, ...]  # lower-cased words
    group: str


def cvtg_2k(folder: Path) -> list[Item]:
    """CVTG-2K from its published folder: FOLDER/{CVTG,CVTG-Style}/{2,3,4,5}_combined.json.

    Images are CVTG/2/INDEX.png and so on; the group is the number of text areas. Targets are what stands between single
    quotes, by the regular expression of its script, so that an apostrophe ends a span.

    Raises:
        ValueError: a folder or file is missing, or is not as published; the message names it.
    """
    return [
        Item(
            f"{name}/{area}/{entry['index']}.png",
            entry["prompt"],
            tuple(word for span in _CVTG_SPAN.findall(entry["prompt"]) for word in span.lower().split()),
            str(area),
        )
        for name in CVTG_FOLDERS
        for area in CVTG_AREAS
        for entry in _entries(_cvtg_file(folder, name, area))
    ]


def prompt_file(path: Path) -> list[Item]:
    """Any prompt file: .jsonl as recipes have it, else a prompt a line; images are 00000.png and so on, by prompt.

    Targets are the target words given, else the quoted ones. A file of flow_grpo's OCR prompts is of the second kind.

    Raises:
        ValueError: the file cannot be read as prompts.
    """
    try:
        if path.suffix == ".jsonl":
            specs = load_prompts(path)
        else:
            specs = [PromptSpec(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    return [
        Item(f"{index:05d}.png", spec.prompt, resolve_targets(spec.prompt, spec.target_words), "all")
        for index, spec in enumerate(specs)
    ]


BENCHMARKS: Mapping[str, Callable[[Path], list[Item]]] = {"cvtg-2k": cvtg_2k, "prompts": prompt_file}


def _cvtg_file(folder: Path, name: str, area: int) -> Path:
    """The file of one part; the folder's name is spelt CVTG-Style or CVTG-style."""
    parts = [one for one in folder.iterdir() if one.name.lower() == name.lower()] if folder.is_dir() else []
    if not parts:
        raise ValueError(f"{folder}: there is no folder {name} in it")
    return parts[0] / f"{area}_combined.json"


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["data_list"]
        if not all(isinstance(entry["prompt"], str) and "index" in entry for entry in entries):
            raise TypeError("a prompt is no text")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: want data_list with an index and a prompt in each entry: {error!r}") from error
    return list(entries)
