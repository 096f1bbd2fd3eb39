"""Where the weights, the configuration and the tokenizer come from.

Local files, or the hub where the operator asks for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from varl.services.hpsv3.engine import EngineUnavailableError
from varl.services.hpsv3.settings import HPSv3Settings

WEIGHTS, CONFIG, TOKENIZER = "HPSv3.safetensors", "config.json", "tokenizer.json"
HUB_WEIGHTS, HUB_BASE = "MizzenAI/HPSv3", "Qwen/Qwen2-VL-7B-Instruct"


@dataclass(frozen=True)
class Files:
    """``base`` holds CONFIG and TOKENIZER.

    ``revision`` is the hub's commit, or twelve digits of the weights' SHA-256.
    """

    weights: Path
    base: Path
    name: str
    revision: str


def locate(settings: HPSv3Settings) -> Files:
    """The files that the settings name; fetches those that are asked for from the hub.

    Raises:
        EngineUnavailableError: a file is absent, or the hub does not give it.

    """
    if settings.checkpoint is None:
        return _from_hub(settings)
    folder = settings.checkpoint.is_dir()
    weights = settings.checkpoint / WEIGHTS if folder else settings.checkpoint
    if not weights.is_file():
        raise EngineUnavailableError(f"no weights at {weights}")
    base = _complete(settings.base or weights.parent)
    return Files(weights, base, settings.checkpoint.resolve().name if folder else weights.stem, digest(weights))


def digest(path: Path) -> str:
    """First twelve hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _complete(base: Path) -> Path:
    missing = [name for name in (CONFIG, TOKENIZER) if not (base / name).is_file()]
    if missing:
        raise EngineUnavailableError(
            f"{base} lacks {' and '.join(missing)} of Qwen2-VL; name a folder that has them with --base"
        )
    return base


def _from_hub(settings: HPSv3Settings) -> Files:
    from huggingface_hub import hf_hub_download

    try:
        weights = Path(hf_hub_download(HUB_WEIGHTS, WEIGHTS, revision=settings.revision))
        if settings.base is None:
            hf_hub_download(HUB_BASE, TOKENIZER)
            base = Path(hf_hub_download(HUB_BASE, CONFIG)).parent
        else:
            base = settings.base
    except Exception as error:  # the hub's client raises its own, its HTTP library's and OSError
        raise EngineUnavailableError(f"the hub does not give the files: {type(error).__name__}: {error}") from error
    return Files(weights, _complete(base), HUB_WEIGHTS, weights.parent.name)  # the hub's cache names folders by commit
