"""Files of prompts: JSON Lines, a line of text each, CSV, or a folder of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from varl.metadata import MetadataError, check_metadata
from varl.trajectories.prompt_tables import csv_prompts, folder_prompts
from varl.trajectories.prompts import Check, PromptSpec, spec_fault

Located = tuple[str, PromptSpec]  # where a prompt stands, and the prompt
Reader = Callable[[Path], Iterable[Located]]


def load_prompts(
    path: str | Path, check: Check = lambda spec: None, otherwise: Reader | None = None
) -> list[PromptSpec]:
    """The prompts of a file, by its kind, or of a folder.

    .txt has a prompt a line, .csv is a table (``csv_prompts``), a folder has a .txt file a prompt, and .jsonl is JSON
    Lines of {"prompt": str, "target_words": [str], "metadata": {…}}, the last two where there are any.

    check: what a prompt must be beyond what every reward wants of it. otherwise: how a file of another ending is read,
    by default as JSON Lines.

    Raises:
        ValueError: a line is no prompt or breaks a bound, or there is none; the message names file and line.
        OSError: it cannot be read, as where there is no such file.
    """
    prompts = sound_prompts(_reader(Path(path), otherwise or json_prompts)(Path(path)), check)
    if not prompts:
        raise ValueError(f"{path}: no prompts")
    return prompts


def sound_prompts(located: Iterable[Located], check: Check = lambda spec: None) -> list[PromptSpec]:
    """The prompts; raises ValueError with the place of the first that a run would refuse."""
    prompts = []
    for where, spec in located:
        fault = spec_fault(spec) or check(spec)
        if fault:
            raise ValueError(f"{where}: {fault}")
        prompts.append(spec)
    return prompts


def _reader(path: Path, otherwise: Reader) -> Reader:
    return folder_prompts if path.is_dir() else READERS.get(path.suffix.lower(), otherwise)


def json_prompts(path: Path) -> Iterator[tuple[str, PromptSpec]]:
    """("file:number", prompt) of a file of JSON Lines; raises as ``load_prompts`` does."""
    return ((where, _parse(line, where)) for where, line in numbered_lines(path))


def text_prompts(path: Path) -> Iterator[tuple[str, PromptSpec]]:
    """("file:number", prompt) of a text file with a prompt a line; raises as ``numbered_lines`` does."""
    return ((where, PromptSpec(line.strip())) for where, line in numbered_lines(path))


def numbered_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:number", line) of the lines of a UTF-8 file that are not blank.

    Only a line feed ends a line: what else Unicode calls a line break may stand in the text of a JSON string.

    Raises:
        ValueError: the file is no UTF-8.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8: {error}") from error


def save_prompts(path: Path, specs: Sequence[PromptSpec]) -> None:
    """Write what ``load_prompts`` reads; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{_line(spec)}\n" for spec in specs), encoding="utf-8")


def _line(spec: PromptSpec) -> str:
    fields = {"prompt": spec.prompt, "target_words": list(spec.target_words), "metadata": dict(spec.metadata)}
    return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)


def _parse(line: str, where: str) -> PromptSpec:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict) or not {"prompt"} <= set(fields) <= {"prompt", "target_words", "metadata"}:
        raise ValueError(
            f'{where}: want {{"prompt": str}}, and "target_words": [str] and "metadata": {{…}} where there are any'
        )
    prompt, words, metadata = fields["prompt"], fields.get("target_words", []), fields.get("metadata", {})
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"{where}: prompt must be a string that is not empty")
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{where}: target_words must be a list of strings that are not empty")
    try:
        check_metadata(metadata)
    except MetadataError as error:
        raise ValueError(f"{where}: {error}") from error
    return PromptSpec(prompt, tuple(words), metadata)


READERS: Mapping[str, Reader] = {".jsonl": json_prompts, ".txt": text_prompts, ".csv": csv_prompts}
