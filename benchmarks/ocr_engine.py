"""Processor time of the default OCR engine on one thread, and what it reads.

The pictures are rendered 64x64 images of one or two words.
"""

from __future__ import annotations

import argparse
import time
from statistics import fmean, median, stdev

import numpy as np

from benchmarks.shared import Row, report
from varl.services.ocr.engines.base import EngineFailure, OcrEngine
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.metrics import word_accuracy_counts
from varl.tiny.render import Rendered, render
from varl.tiny.words import all_words

WARM_UP = 5  # images before the clock counts: the first ones load code and allocate
SEED = 0


def main() -> None:
    """Measure both sizes and leave the result."""
    parser = argparse.ArgumentParser(prog="python benchmarks/ocr_engine.py", description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="images of each kind (default: %(default)s)")
    images = parser.parse_args().images
    if images < 2:
        parser.error("--images must be at least 2")
    engine = build_onnx(threads=1)
    settings: Row = {
        "engine": engine.model.engine,
        "model": engine.model.name,
        "weights": engine.model.revision,
        "threads": 1,
        "seed": SEED,
    }
    report("ocr_engine", settings, [measure(engine, count, images) for count in (1, 2)])


def measure(engine: OcrEngine, words: int, images: int) -> Row:
    """Milliseconds per picture, and Word Accuracy, over ``images`` pictures of ``words`` words.

    The pictures are read one at a time, as the service does.
    """
    items = rendered(words, WARM_UP + images)
    for item in items[:WARM_UP]:
        read(engine, item)
    cpu, wall, hits, total = list[float](), list[float](), 0, 0
    for item in items[WARM_UP:]:
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        texts = read(engine, item)
        cpu.append(1000 * (time.process_time() - cpu_start))
        wall.append(1000 * (time.perf_counter() - wall_start))
        found, asked = word_accuracy_counts(item.words, texts)
        hits, total = hits + found, total + asked
    return {
        "words": words,
        "images": images,
        "CPU ms": fmean(cpu),
        "standard error": stdev(cpu) / len(cpu) ** 0.5,
        "median CPU ms": median(cpu),
        "median wall ms": median(wall),
        "Word Accuracy": hits / total,
    }


def rendered(words: int, count: int) -> list[Rendered]:
    """Pictures of words drawn from the whole list, the same on every call."""
    rng = np.random.default_rng([SEED, words])
    return [render(tuple(map(str, rng.choice(all_words(), words))), rng) for _ in range(count)]


def read(engine: OcrEngine, item: Rendered) -> list[str]:
    """The words that the engine reads in one picture."""
    (reading,) = engine.read([item.image])
    if isinstance(reading, EngineFailure):
        raise SystemExit(f"the engine failed on an image of {' '.join(item.words)}: {reading.detail}")
    return [word.text for word in reading]


if __name__ == "__main__":
    main()
