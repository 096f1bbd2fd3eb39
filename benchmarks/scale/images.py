"""Processor time and bytes that a 1024x1024 image costs outside the GPUs.

Its PNG file in the rollout worker, its reading in the OCR.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from matplotlib.cbook import get_sample_data
from PIL import Image

from benchmarks.scale.assumptions import IMAGE_SIDE
from benchmarks.scale.measured import line
from benchmarks.shared import Row
from varl.services.ocr.engines.base import EngineFailure
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.rollout.images import encode_png
from varl.tiny.render import render
from varl.tiny.words import all_words

Pixels = npt.NDArray[np.uint8]
REPEATS = 12


def measure() -> list[Row]:
    """Both, on one thread."""
    pictures = {
        "a photograph": photograph(),
        "noise": np.random.default_rng(0).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8),
    }
    rows = []
    for name, pixels in pictures.items():
        rows.append(line("images", f"PNG of {name}", len(encode_png(pixels)), "bytes"))
        rows.append(line("images", f"PNG of {name}", 1e3 * _cpu(lambda pixels=pixels: encode_png(pixels)), "CPU ms"))  # type: ignore[misc]
    return [*rows, *_reading()]


def photograph() -> Pixels:
    """The photograph that comes with matplotlib, a 512-pixel square of it at twice its size.

    Smoother than a picture made at 1024.
    """
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as picture:
        square = picture.convert("RGB").crop((0, 40, 512, 552))
    return np.asarray(square.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS))


def _reading() -> list[Row]:
    engine, picture, found = build_onnx(threads=1), signs(), list[int]()

    def read() -> None:
        (reading,) = engine.read([picture])
        if isinstance(reading, EngineFailure):
            raise RuntimeError(reading.detail)
        found.append(len(reading))

    case = "OCR of 1024x1024, four signs"
    return [line("images", case, 1e3 * _cpu(read), "CPU ms"), line("images", case, found[0], "words read")]


def signs() -> Pixels:
    """Four of the tiny task's pictures, each eight times its size, as the four quarters of one image."""
    rng = np.random.default_rng(0)
    quarters = [_enlarged(render(tuple(map(str, rng.choice(all_words(), 1))), rng).image) for _ in range(4)]
    return np.concatenate([np.concatenate(quarters[:2], 1), np.concatenate(quarters[2:], 1)], 0)


def _enlarged(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((IMAGE_SIDE // 2, IMAGE_SIDE // 2), Image.Resampling.BICUBIC))


def _cpu(work: Callable[[], object]) -> float:
    """Median processor seconds; the first two runs do not count."""
    spent = []
    for _ in range(REPEATS + 2):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return float(np.median(spent[2:]))
