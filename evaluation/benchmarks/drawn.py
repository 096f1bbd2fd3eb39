"""What a folder's images were drawn with, kept beside them, so that no other model's figures are given for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from varl.evaluation.benchmarks.judge import Picture
from varl.policy.base import SamplingParams
from varl.trajectories.weight_files import file_digest

DRAWN_FILE = "drawn.json"


def drawn_with(model: Path, plugin: str, weights: Path | None, dtype: str, params: SamplingParams) -> dict[str, Any]:
    """What decides an image beside its prompt and seed: the model's files and weights by digest, dtype and sampler.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(path for path in model.iterdir() if path.suffix in (".json", ".safetensors"))
    digests = {"model": _digest([plugin, *map(file_digest, files)]), "weights": weights and file_digest(weights)}
    return {**digests, "dtype": dtype, **asdict(params)}


def keep_drawn(pictures: Sequence[Picture], seeds: Mapping[Path, int], settings: Mapping[str, Any]) -> None:
    """Write into each folder what its pictures are drawn with, before the first of them is.

    Raises:
        ValueError: it holds pictures that were drawn with something else, which the message names, or nobody knows how.
    """
    for folder, seed in seeds.items():
        own = [picture for picture in pictures if picture.folder == folder]
        prompts = _digest(f"{picture.item.image} {picture.item.prompt}" for picture in own)
        now = dict(settings) | {"seed": seed, "prompts": prompts}
        file = folder / DRAWN_FILE
        if any(picture.path.exists() for picture in own):
            _require(file, now)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=1), encoding="utf-8")


def _require(file: Path, now: Mapping[str, Any]) -> None:
    if not file.exists():
        raise ValueError(f"{file.parent} holds images and no {file.name} that says what drew them: name another folder")
    before = json.loads(file.read_text(encoding="utf-8"))
    if changed := [name for name in now if before.get(name) != now[name]]:
        raise ValueError(f"{file.parent} holds images drawn with another {', '.join(changed)}: name another folder")


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
