"""Prompts of a benchmark with the image file that each is judged by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from varl.services.ocr.targets import resolve_targets, words_of_cvtg_2k
from varl.trajectories.prompt_files import load_prompts, text_prompts
from varl.trajectories.prompts import PromptSpec

CVTG_FOLDERS = ("CVTG", "CVTG-Style")
CVTG_AREAS = (2, 3, 4, 5)
PLAIN_PROMPTS = TypeAdapter(dict[int, str])


@dataclass(frozen=True)
class Item:
    """One prompt.

    image: its file below a folder of images, or one of another ending there; group: what figures are also given by, ""
    for nothing.
    """

    image: str
    prompt: str
    targets: tuple[str, ...]  # lower-cased words
    group: str


def cvtg_2k(folder: Path) -> list[Item]:
    """CVTG-2K from its published folder: FOLDER/{CVTG,CVTG-Style}/{2,3,4,5}.json, or _combined.json where that is all.

    Images are CVTG/2/INDEX.png and so on; the group is the number of text areas. Targets are what stands between single
    quotes, by the regular expression of its script, so that an apostrophe ends a span.

    Raises:
        ValueError: a folder or file is missing, or is not as published; the message names it.
    """
    return [
        Item(
            f"{name}/{area}/{entry['index']}.png",
            entry["prompt"],
            words_of_cvtg_2k(entry["prompt"]),
            str(area),
        )
        for name in CVTG_FOLDERS
        for area in CVTG_AREAS
        for entry in _cvtg_entries(_cvtg_file(folder, name, area))
    ]


def hpsv3(folder: Path) -> list[Item]:
    """HPSv3's benchmark from its folder: a file benchmark_CATEGORY.json each, of caption and image_file.

    Images are CATEGORY/NAME.png, NAME that of image_file; the group is the category. There are no target words.

    Raises:
        ValueError: there is no such file, or one is not as published; the message names it.
    """
    files = sorted(folder.glob("benchmark_*.json"))
    if not files:
        raise ValueError(f"{folder}: there is no benchmark_CATEGORY.json in it")
    return [
        Item(f"{category}/{Path(entry['image_file']).stem}.png", entry["caption"], (), category)
        for path, category in ((path, path.stem.removeprefix("benchmark_")) for path in files)
        for entry in _entries(path, None, ("caption", "image_file"))
    ]


def prompt_file(path: Path) -> list[Item]:
    """Prompts as recipes take them, a file of another ending as text.

    Images are 00000.png and so on, by prompt, or what a prompt's metadata names as ``image``; its ``group`` is what
    figures are also given by. Targets are the target words given, else the quoted ones.

    Raises:
        ValueError: the file cannot be read as prompts, or an image is outside of the folder.
    """
    try:
        specs = load_prompts(path, otherwise=text_prompts)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    return [
        Item(_image(spec, index), spec.prompt, resolve_targets(spec.prompt, spec.target_words), _group(spec))
        for index, spec in enumerate(specs)
    ]


def _image(spec: PromptSpec, index: int) -> str:
    name = str(spec.metadata.get("image", f"{index:05d}.png"))
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name:
        raise ValueError(f"metadata.image: {name!r} is not below the folder of images")
    return name


def _group(spec: PromptSpec) -> str:
    return str(spec.metadata.get("group", ""))


BENCHMARKS: Mapping[str, Callable[[Path], list[Item]]] = {
    "cvtg-2k": cvtg_2k,
    "hpsv3": hpsv3,
    "prompts": prompt_file,
}


def _cvtg_file(folder: Path, name: str, area: int) -> Path:
    """The file of one part; the folder's name is spelt CVTG-Style or CVTG-style."""
    parts = [one for one in folder.iterdir() if one.name.lower() == name.lower()] if folder.is_dir() else []
    if not parts:
        raise ValueError(f"{folder}: there is no folder {name} in it")
    whole, plain = (parts[0] / f"{area}{ending}.json" for ending in ("", "_combined"))
    return plain if plain.exists() and not whole.exists() else whole


def _cvtg_entries(path: Path) -> list[dict[str, Any]]:
    """Index and prompt of each entry, which a file of prompts alone may also have as ``{"0": "a street …"}``."""
    try:
        plain = PLAIN_PROMPTS.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # said below
        return _entries(path, "data_list", ("prompt",), ("index",))
    return [{"index": index, "prompt": prompt} for index, prompt in plain.items()]


def _entries(path: Path, inside: str | None, texts: Sequence[str], others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The list of a JSON file, at its key ``inside`` if there is one, whose entries have these keys."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        entries = read[inside] if inside else read
        if not all(isinstance(entry[key], str) for entry in entries for key in texts):
            raise TypeError(f"a {' or '.join(texts)} is no text")
        if not all(key in entry for entry in entries for key in others):
            raise KeyError(*others)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        wanted = f"want {inside or 'a list'} of entries with {' and '.join([*others, *texts])}"
        raise ValueError(f"{path}: {wanted}: {error!r}") from error
    return list(entries)
