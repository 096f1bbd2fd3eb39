"""Published checkpoint files as plain state dicts with this package's names: nothing is left out silently.

Formats, as FoundationVision/Infinity writes and reads them (tools/run_infinity.py, infinity/models/bsq_vae/vae.py):
a flat .pth; {"vae": …} of a tokenizer; {"trainer": {"gpt_fsdp": …}} of a fine-tuned model; safetensors, in one file or
in shards with an index. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from varl.policy.shards import Shards

State = dict[str, Tensor]

WRAPPERS = (("trainer", "gpt_fsdp"), ("vae",))
# What older files hold besides the parameters, and what the published code takes out as well: masks that it recomputes.
RECOMPUTED = {"lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen"}
POWERS_OF_TWO = {"quantizer.lfq.mask", "quantize.lfq.mask"}  # of a tokenizer; one buffer by two names
# A layer's name, then ".conv" or ".norm" in newer files; "downsample.conv" is a layer's name itself.
WRAPPED = re.compile(r"(?<!\.downsample)(?<!\.upsample)\.(conv|norm)(?=\.(weight|bias)$)")


def read_transformer(path: Path) -> State:
    """The transformer's state dict of a .pth, .safetensors or sharded folder.

    Raises:
        ValueError: it is not such a file, or holds something that is not a tensor.
        OSError: a file is missing or cannot be read.
    """
    state = {name: value for name, value in _read(path).items() if name not in RECOMPUTED}
    for name, value in state.items():
        if (
            name.endswith(".scale_mul_1H11") and value.ndim == 4
        ):  # [1, 1, heads, 1] of those trained with another kernel
            state[name] = value.view(1, -1, 1, 1)
    return state


def read_tokenizer(path: Path) -> State:
    """The tokenizer's state dict of a .pth or .safetensors file, in either spelling of the names.

    Raises:
        ValueError: it is not such a file, holds something that is not a tensor, or one layer by two names.
        OSError: the file is missing or cannot be read.
    """
    state = State()
    for name, value in _read(path).items():
        if name in POWERS_OF_TWO:
            continue
        short = WRAPPED.sub("", name)
        if short in state:
            raise ValueError(f"{path} holds {short} by two names")
        state[short] = value
    return state


def _read(path: Path) -> State:
    if path.is_dir():
        return dict(Shards(path, "model"))
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)


def _read_safetensors(path: Path) -> State:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _read_pth(path: Path) -> State:
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint of tensors that torch reads safely: {error}") from error
    return _tensors(_unwrapped(content), path)


def _unwrapped(content: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    for keys in WRAPPERS:
        inner = content
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            return inner
    return content


def _tensors(content: Any, path: Path) -> State:  # noqa: ANN401 - whatever the file holds
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict")
    wrong = [str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(f"{path} holds something else than tensors: {', '.join(wrong[:5])}")
    return dict(content)
