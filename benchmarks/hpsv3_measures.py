"""What each measure of the native HPSv3 engine saves.

The same work without and with it, in turns, on a small random model on the CPU.
The ratios say how much work goes away, not how fast a GPU is. Forwards are timed in processor time on one thread, and
those without a measure must give the numbers of those with it. Overlapping is wall time, with two threads for images
and a forward that only waits.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from benchmarks.shared import Row, report
from varl.services.hpsv3.engine import Preference
from varl.services.hpsv3.model import RewardModel
from varl.services.hpsv3.native import NativeItem
from varl.services.hpsv3.preprocess import CELL, patchify, resize, token_count
from varl.services.hpsv3.scorer import HPSv3Scorer
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.scoring import ModelInfo, Pixels, RawSample, SampleError, SampleScore, ScoreBatch
from varl.services.serving.service import ScoringService

IMAGE, REWARD, TAIL = 1, 2, 8  # two token ids; tokens that follow the reward token
TEXT = (530, 540, 560, 640)  # tokens of text: the instruction and prompts of several lengths
LAYERS, WIDTH, SIDE, BATCH = 4, 128, 1024, 8
GPU_SECONDS = 0.025  # an estimate of the whole model's forward of one image on a large GPU
TOKENS = {"vocab_size": 1000, "bos_token_id": None, "eos_token_id": None}
Work = Callable[[], Tensor]


def main() -> None:
    """Measure and leave the result."""
    parser = argparse.ArgumentParser(prog="python benchmarks/hpsv3_measures.py", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each pair (default: %(default)s)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, items = small_model(), [item(index) for index in range(BATCH)]
    vision = partial(lambda images: torch.cat(model.visual(images)), [item.image for item in items])
    with torch.inference_mode():
        rows = [
            overlapped(repeats),
            *bytes_to_device(repeats),
            compare("vision attention per image, no mask", whole_batch_vision(model, items), vision, repeats),
            compare("no attention mask in the decoder", masked_decoder(model, items), forward(model, items), repeats),
            compare("reward token's row alone", every_row(model, items), forward(model, items), repeats),
        ]
    settings: Row = {
        "layers": LAYERS,
        "width": WIDTH,
        "batch": BATCH,
        "repeats": repeats,
        "GPU seconds": GPU_SECONDS,
        "torch": torch.__version__,
    }
    report("hpsv3_measures", settings, rows)


def small_model() -> RewardModel:
    """Qwen2-VL with LAYERS layers of WIDTH in both halves."""
    vision_config = {"depth": LAYERS, "embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 4, "num_heads": 2}
    text = {"hidden_size": WIDTH, "intermediate_size": 5 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    config = Qwen2VLConfig(
        vision_config=vision_config, text_config={**text, "num_key_value_heads": 2, **TOKENS}, image_token_id=IMAGE
    )
    return RewardModel(config).eval()


def item(index: int) -> NativeItem:
    """A square image and a sequence as long as a real one."""
    image = resize(pixels(index))
    text = np.random.default_rng(index).integers(3, 1000, TEXT[index % len(TEXT)]).tolist()
    return NativeItem(image, [*text[:15], *[IMAGE] * token_count(image), *text[15:], REWARD])


def pixels(index: int) -> Pixels:
    """uint8 [SIDE, SIDE, 3]: a gradient with some noise, which compresses about as a photograph does."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)) // (8 + index % 8)
    noise = np.random.default_rng(index).integers(0, 8, (SIDE, SIDE, 3))
    mixed: Pixels = ((ramp[:, :, None] + noise) % 256).astype(np.uint8)
    return mixed


def forward(model: RewardModel, items: Sequence[NativeItem]) -> Work:
    """The engine's forward."""
    return partial(model, [item.image for item in items], [item.token_ids for item in items])


def whole_batch_vision(model: RewardModel, items: Sequence[NativeItem]) -> Work:
    """All images as one sequence, kept apart by a mask of (images x patches) squared."""
    tower = model.visual
    images = torch.stack([item.image for item in items])

    def work() -> Tensor:
        x = tower.patch_embed(patchify(images, torch.float32)).flatten(0, 1).unsqueeze(0)
        owner = torch.arange(len(images)).repeat_interleave(x.shape[1] // len(images))
        rotation = tuple(
            part.repeat(len(images), 1) for part in tower._rotation(images.shape[2] // CELL, images.shape[3] // CELL)
        )
        masked = partial(functional.scaled_dot_product_attention, attn_mask=owner[:, None] == owner)
        with patch.object(functional, "scaled_dot_product_attention", masked):
            for block in tower.blocks:
                x = block(x, rotation)
        merged: Tensor = tower.merger(x)[0]
        return merged

    return work


def masked_decoder(model: RewardModel, items: Sequence[NativeItem]) -> Work:
    """Forward with the causal and padding masks written out, as in a host that is handed an attention mask."""
    plain = functional.scaled_dot_product_attention
    lengths = torch.tensor([item.tokens for item in items])

    def attention(query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False, **options: Any) -> Tensor:  # noqa: ANN401
        if is_causal:
            places = torch.arange(key.shape[2])
            seen = (places[:, None] >= places) & (places < lengths[:, None, None])
            options["attn_mask"] = (
                torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)
            )
        return plain(query, key, value, **options)

    def work() -> Tensor:
        with patch.object(functional, "scaled_dot_product_attention", attention):
            return forward(model, items)()

    return work


def every_row(model: RewardModel, items: Sequence[NativeItem]) -> Work:
    """Forward that keeps the tail after the reward token.

    The last layer, the norm and the head run at every position.
    """
    images, rows = [item.image for item in items], [[*item.token_ids, *[5] * TAIL] for item in items]
    last = torch.tensor([item.tokens - 1 for item in items])

    def work() -> Tensor:
        x = model._embed(images, rows)
        rotation = model.model._rotation(x)
        for layer in model.model.layers:
            x = layer(x, rotation, None)
        answers: Tensor = model.rm_head(model.model.norm(x).float())
        return answers[torch.arange(len(items)), last]

    return work


def compare(measure: str, without: Work, with_it: Work, repeats: int) -> Row:
    """Milliseconds of processor time of a batch, in turns.

    Raises AssertionError where the two give different numbers.
    """
    torch.testing.assert_close(without(), with_it(), atol=1e-4, rtol=1e-3)
    pairs = [(clock(without, time.process_time), clock(with_it, time.process_time)) for _ in range(repeats)]
    return row(measure, "CPU ms a batch", pairs)


def clock(work: Callable[[], object], now: Callable[[], float]) -> float:
    """Milliseconds."""
    began = now()
    work()
    return 1000 * (now() - began)


def row(measure: str, unit: str, pairs: Sequence[tuple[float, float]]) -> Row:
    """Medians, and the median, least and greatest ratio of the pairs."""
    ratios = [without / with_it for without, with_it in pairs]
    return {
        "measure": measure,
        "unit": unit,
        "without": median(pair[0] for pair in pairs),
        "with": median(pair[1] for pair in pairs),
        "ratio": median(ratios),
        "least": min(ratios),
        "greatest": max(ratios),
    }


def bytes_to_device(repeats: int) -> list[Row]:
    """Host work and bytes of one image: normalised float32 patches, or resized bytes."""
    source, image = pixels(0), resize(pixels(0))
    patches = patchify(image.unsqueeze(0), torch.float32)
    host = [
        (
            clock(lambda: patchify(resize(source).unsqueeze(0), torch.float32), time.process_time),
            clock(lambda: resize(source), time.process_time),
        )
        for _ in range(4 * repeats)
    ]
    name = "bytes to the device, normalised there"
    return [
        row(name, "host CPU ms an image", host),
        row(name, "MB an image", [(patches.nbytes / 1e6, image.nbytes / 1e6)]),
    ]


class Waiting:
    """An engine whose forward waits as for a GPU.

    What a wait overlaps with does not hang on how many cores this machine has to spare.
    """

    model = ModelInfo("benchmark", "none", "0")

    def refusal(self, prompt: str) -> SampleError | None:
        """None is refused."""
        return None

    def prepare(self, pixels: Pixels, prompt: str) -> NativeItem:
        """Resized, without tokens' ids."""
        return NativeItem(resize(pixels), [0] * 800)

    def score(self, items: Sequence[NativeItem]) -> list[Preference]:
        """GPU_SECONDS an image; mu is the image's mean."""
        time.sleep(GPU_SECONDS * len(items))
        return [Preference(item.image.float().mean().item(), 0.0) for item in items]


def overlapped(repeats: int) -> Row:
    """Wall time of three batches of PNG files.

    Decoded, resized and scored one after the other, or through the service.
    """
    files = []
    for index in range(3 * BATCH):
        buffer = io.BytesIO()
        Image.fromarray(pixels(index)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return asyncio.run(_overlapped(Waiting(), files, repeats))


async def _overlapped(engine: Waiting, files: Sequence[bytes], repeats: int) -> Row:
    settings = HPSv3Settings.model_validate(
        {"hub": True, "max_batch": BATCH, "max_decoded": 2 * BATCH, "log_level": "error"}
    )
    scorer = HPSv3Scorer(lambda: engine, settings.batch_limits(BATCH), settings.decode_threads, "float32", None)
    service = ScoringService(settings, scorer)
    await service.start()
    samples = ScoreBatch(tuple(RawSample(str(index), "x", file) for index, file in enumerate(files)))
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    pairs = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        expected = [found.mu for part in batches for found in in_series(engine, part)]
        middle = time.perf_counter()
        outcomes = (await service.score(samples)).outcomes
        pairs.append((1000 * (middle - began), 1000 * (time.perf_counter() - middle)))
        np.testing.assert_allclose(
            [each.value for each in outcomes if isinstance(each, SampleScore)], expected, atol=1e-4
        )
    await service.close()
    return row(
        "decoding and resizing beside the forward", f"wall ms, {len(files)} images", pairs[1:]
    )  # the first warms up


def in_series(engine: Waiting, files: Sequence[bytes]) -> list[Preference]:
    """One batch on one thread."""
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return engine.score([engine.prepare(image, "x") for image in images])


if __name__ == "__main__":
    main()
