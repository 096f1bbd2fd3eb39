"""A model as files that the published code loads: what varl.policy.infinity.checkpoints reads, the other way round.

FoundationVision/Infinity, tools/run_infinity.py, takes a flat state dict in a .pth for every size (checkpoint_type
"torch"), and {"vae": …} for the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varl.policy.infinity.config import PRESETS, InfinityConfig
from varl.policy.infinity.schedule import SIZES

LAYER = re.compile(r"([^.]+)\.(weight|bias)$")
NAMES = {"125M": "layer12", "layer16": "layer16", "1B": "layer24", "2B": "2b", "8B": "8b"}  # model_type, less infinity_


def published_name(name: str) -> str:
    """The name that newer files have for a parameter of the tokenizer: each layer sits in a wrapper of its kind."""
    return LAYER.sub(lambda found: f"{found[1]}.{'norm' if 'norm' in found[1] else 'conv'}.{found[2]}", name)


def write(
    config: InfinityConfig, transformer: Mapping[str, Tensor], tokenizer: Mapping[str, Tensor], folder: Path
) -> str:
    """Write both files; how they are loaded, in Markdown.

    transformer, tokenizer: state dicts of the modules, whose names are the published ones but for the wrappers.

    Raises:
        OSError: the folder cannot be written.
    """
    kind = next((NAMES[name] for name, sizes in PRESETS.items() if sizes == config.transformer), "of-another-size")
    files = f"infinity_{kind}.pth", f"infinity_vae_d{config.tokenizer.bits_per_site}.pth"
    folder.mkdir(parents=True, exist_ok=True)
    _save(dict(transformer), folder / files[0])
    _save({"vae": {published_name(name): value for name, value in tokenizer.items()}}, folder / files[1])
    pixels = next((name for name, scales in SIZES.items() if scales == config.scales), None)
    flags = f"--checkpoint_type torch --model_path {files[0]} --model_type infinity_{kind} --vae_path {files[1]}"
    flags += f" --vae_type {config.tokenizer.bits} --apply_spatial_patchify {int(config.tokenizer.patchify)}"
    return (
        f"Transformer `{files[0]}`, tokenizer `{files[1]}`. The published code (FoundationVision/Infinity, "
        f"tools/run_infinity.py) takes them by `{flags}{f' --pn {pixels}' if pixels else ''}`, and varl by "
        f"`varl convert DIR --transformer {files[0]} --tokenizer {files[1]}{f' --size {pixels}' if pixels else ''}`."
    )


def _save(content: dict[str, Any], path: Path) -> None:
    """Write tensors, whole or not at all, in the published code's own format."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save(content, part)
    except RuntimeError as error:  # torch's, of a disk that is full
        part.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from error
    part.replace(path)
