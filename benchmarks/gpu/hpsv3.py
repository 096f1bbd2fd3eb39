"""HPSv3 at 7B with random weights: pictures of 1024 x 1024 pixels as JPEG files, to the engine and to the service."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from benchmarks.gpu.setting import Figures, Setting, counted, materialised
from varl.services.hpsv3.model import RewardModel
from varl.services.hpsv3.preprocess import resize, token_count

IMAGE, REWARD = 1, 2  # two token ids
TEXT = 550  # tokens of the instruction and of a prompt of usual length
BATCHES = (8, 16, 32)
TOKENS = {"bos_token_id": None, "eos_token_id": None, "image_token_id": IMAGE}


def config(full: bool) -> Any:  # noqa: ANN401 # its stub knows none of these
    """Qwen2-VL-7B's sizes with HPSv3's vocabulary, or tiny ones."""
    width, layers, heads, shared, hidden, vocabulary = (
        (3584, 28, 28, 4, 18_944, 151_658) if full else (64, 2, 4, 2, 128, 1000)
    )
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": width}
    if not full:
        vision |= {"depth": 2, "embed_dim": 64, "num_heads": 4}
    text = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocabulary}
    more = {"num_key_value_heads": shared, "intermediate_size": hidden}
    sizes: dict[str, Any] = {"vision_config": vision, "text_config": {**text, **more}, **TOKENS}
    return Qwen2VLConfig(tie_word_embeddings=False, **sizes)


def build(setting: Setting) -> RewardModel:
    """The model on the device; its head stays float32."""
    with torch.device("meta"):
        model = RewardModel(config(setting.full))
    materialised(model, setting.device, setting.dtype)
    model.rm_head.float()
    return model


def jpeg(index: int, side: int) -> bytes:
    """A gradient with some noise, which compresses about as a photograph does."""
    ramp = np.add.outer(np.arange(side), np.arange(side)) // (8 + index % 8)
    noise = np.random.default_rng(index).integers(0, 8, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(((ramp[:, :, None] + noise) % 256).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def prepared(file: bytes) -> Tensor:
    """uint8 [3, H, W] as the model wants it."""
    return resize(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")))


def token_ids(image: Tensor) -> list[int]:
    """A sequence as long as a real one."""
    return [5] * 15 + [IMAGE] * token_count(image) + [5] * (TEXT - 15) + [REWARD]


@torch.inference_mode()
def measure(setting: Setting) -> Iterator[Figures]:
    """The engine on images that lie ready, batch by batch; with decoding beside it; and through the service."""
    model, side = build(setting), 1024 if setting.full else 128
    files = [jpeg(index, side) for index in range(max(BATCHES))]
    images = [prepared(file) for file in files]
    rates, run = {}, partial(_score, model)
    for batch in BATCHES if setting.full else (2,):
        work = partial(run, images[:batch])
        flops = counted(work, setting.device)
        seconds = setting.seconds(work)
        rates[batch] = batch / seconds
        yield {f"engine_images_s_{batch}": rates[batch], "engine_share": setting.share(flops, seconds)}
    best = max(rates, key=lambda batch: rates[batch])
    yield {"profile": setting.profile(partial(run, images[:best]))}
    yield {"peak_gib": setting.peak_gib(), "batch": best, "files_images_s": _from_files(setting, model, files, best)}
    try:
        from benchmarks.gpu.service import images_a_second
        from varl.services.hpsv3.native import compile_layers
    except ImportError as error:
        yield {"service": f"not measured, the engine alone was: {error.name or error} is missing here"}
        return
    rate, bad = asyncio.run(images_a_second(model, files, best, 8 * best if setting.full else 4))
    yield {"service_images_s": rate, "service_failed": bad}
    compile_layers(model, "inductor" if setting.full else "eager")  # last: where it fails, all else is measured
    run(images[:best])
    yield {"compiled_images_s": best / setting.seconds(partial(run, images[:best])), "compiled_batch": best}


def _score(model: RewardModel, images: Sequence[Tensor]) -> object:
    return model(images, [token_ids(image) for image in images]).tolist()


def _from_files(setting: Setting, model: RewardModel, files: Sequence[bytes], batch: int) -> float:
    """Images a second of files, decoded and resized on threads of their own while the model works."""
    many = list(files) * (4 if setting.full else 1)
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        ready = list[Tensor]()
        for image in pool.map(prepared, many):
            ready.append(image)
            if len(ready) == batch:
                _score(model, ready)
                ready = []
        if ready:
            _score(model, ready)
    return len(many) / (time.perf_counter() - began)
