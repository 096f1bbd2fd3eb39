"""Prompts as people keep them: a CSV file with a column for each thing, or a folder of text files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from varl.metadata import MetadataError, check_metadata
from varl.trajectories.prompts import PromptSpec

_OWN = ("prompt", "target_words")


def csv_prompts(path: Path) -> Iterator[tuple[str, PromptSpec]]:
    """("file:number", prompt) of the rows of a CSV file, whose first row names the columns.

    ``prompt`` is needed; ``target_words`` holds words separated by blanks; every other column is metadata, as text, and
    left out of a row where its cell is empty.

    Raises:
        ValueError: the file cannot be decoded, or a row is no prompt; the message names file and line.
        OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _rows(csv.DictReader(file, strict=True), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[str, PromptSpec]]:
    try:
        if "prompt" not in (names := reader.fieldnames or ()):
            raise ValueError(f"{path}:1: the first row has no column 'prompt', only {', '.join(names)}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            yield where, _spec(row, where)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: {error}") from error


def _spec(row: Mapping[str | None, str | list[str] | None], where: str) -> PromptSpec:
    if None in row or None in row.values():  # csv's marks of cells without a column, and of columns without a cell
        raise ValueError(f"{where}: the row has another number of cells than the first")
    cells = {str(name): str(cell).strip() for name, cell in row.items()}
    metadata = {name: cell for name, cell in cells.items() if name not in _OWN and cell}
    if not cells["prompt"]:
        raise ValueError(f"{where}: prompt is blank")
    try:
        check_metadata(metadata)
    except MetadataError as error:
        raise ValueError(f"{where}: {error}") from error
    return PromptSpec(cells["prompt"], tuple(cells.get("target_words", "").split()), metadata)


def folder_prompts(folder: Path) -> Iterator[tuple[str, PromptSpec]]:
    """("file", prompt) of each .txt file of a folder, in the order of their names.

    Raises:
        ValueError: a file is not UTF-8, or blank.
        OSError: a file cannot be read, or there is no such folder.
    """
    return ((str(path), PromptSpec(_text(path))) for path in texts_of(folder))


def texts_of(folder: Path) -> list[Path]:
    """The .txt files of a folder in the order of their names; raises OSError where there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".txt")


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error
    if not text:
        raise ValueError(f"{path}: blank")
    return text
