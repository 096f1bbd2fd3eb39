"""What share of words is read, by letter height, picture size, number of words and how the picture is looked at.

Every cell has as many pictures, which differ in font, background and words; both models read the same ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.shared import Row, report
from varl.services.ocr.engines.base import EngineFailure, ReadWord
from varl.services.ocr.engines.looks import DEFAULT_LOOKS, Looks, merged
from varl.services.ocr.engines.model_cache import SOURCES
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.engines.pipeline import PipelineEngine
from varl.services.ocr.folding import same_form
from varl.services.ocr.reward import Recognized, all_read
from varl.tiny.words import all_words

SIZES = (64, 256, 512, 1024)
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
GROUNDS = ("plain", "gradient", "texture")
COUNTS = (1, 3, 5)
WIDE, HI = "one word at 90 % of the width", "Hi at 60 % of the width"
SHARES = (0.04, 0.1, 0.2, 0.35, 0.6)  # letter height over that of the picture
SMALLEST, MARGIN = 12, 0.94
SHORT = ("Hi", "OK", "Go", "Up", "No", "A1")
FULL, FIRST, BOTH = "full size", str(DEFAULT_LOOKS.side), str(DEFAULT_LOOKS)


@dataclass(frozen=True)
class Picture:
    """uint8 [H, W, 3] with the words that stand in it."""

    image: npt.NDArray[np.uint8]
    words: tuple[str, ...]


def main() -> None:
    """Read every cell with every model and leave the result."""
    parser = argparse.ArgumentParser(prog="python benchmarks/ocr_reading.py", description=__doc__)
    parser.add_argument("--pictures", type=int, default=9, help="of each cell (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of pictures (default: all)")
    flags = parser.parse_args()
    rows = list[Row]()
    for model in SOURCES:
        full, first = (build_onnx(model=model, looks=looks) for looks in (Looks(), Looks(DEFAULT_LOOKS.side)))
        for size in flags.sizes:
            for name, pictures in cells(size, flags.pictures):
                found = looked(full, first, pictures)
                rows += [{"model": model, "picture": size, "letters": name, **row} for row in found]
                print(*rows[-len(found) :], sep="\n", flush=True)
    report("ocr_reading", {"pictures a cell": flags.pictures, "threads": 1}, rows)


def cells(size: int, count: int) -> Iterator[tuple[str, list[Picture]]]:
    """The name of a cell and its pictures, the same on every call."""
    rng = np.random.default_rng([size, 0])
    yield WIDE, [_by_width(size, 0.9, _word(rng, 3, 8), index, rng) for index in range(count)]
    yield HI, [_by_width(size, 0.6, "Hi", index, rng) for index in range(count)]
    heights = [SMALLEST, *(height for height in (round(share * size) for share in SHARES) if height > SMALLEST)]
    for height in heights:
        rng = np.random.default_rng([size, height])
        yield f"{height} px", [_by_height(size, height, index, rng) for index in range(count)]


def looked(full: PipelineEngine, first: PipelineEngine, pictures: list[Picture]) -> list[Row]:
    """A row for each way to look; two looks are put together of the readings of the other two, as the service does."""
    right, spent, words = dict.fromkeys((FULL, FIRST, BOTH), 0), dict.fromkeys((FULL, FIRST, BOTH), 0.0), 0
    for picture in pictures:
        words += len(picture.words)
        large, once = _timed(full, picture), _timed(first, picture)
        longer = max(picture.image.shape[:2])
        second = DEFAULT_LOOKS.closer_side(longer) is not None and not _all_read(picture, once[0])
        both = merged(once[0], large[0], DEFAULT_LOOKS.side / longer) if second else once[0]
        cost = once[1] + (large[1] if second else 0.0)
        for name, (found, seconds) in ((FULL, large), (FIRST, once), (BOTH, (both, cost))):
            right[name] += _right(picture, found)
            spent[name] += seconds
    return [
        {"detection": name, "words": words, "read": right[name] / words, "CPU ms": 1000 * spent[name] / len(pictures)}
        for name in right
    ]


def _timed(engine: PipelineEngine, picture: Picture) -> tuple[list[ReadWord], float]:
    began = time.process_time()
    (reading,) = engine.read([picture.image])
    if isinstance(reading, EngineFailure):
        raise SystemExit(f"the engine failed on an image of {' '.join(picture.words)}: {reading.detail}")
    return reading, time.process_time() - began


def _all_read(picture: Picture, found: list[ReadWord]) -> bool:
    return all_read(picture.words, [Recognized(word.text, word.confidence) for word in found])


def _right(picture: Picture, found: list[ReadWord]) -> int:
    """Words of the picture among those read, case aside."""
    read = {same_form(word.text) for word in found}
    return sum(same_form(word) in read for word in picture.words)


def _by_height(size: int, height: int, index: int, rng: np.random.Generator) -> Picture:
    """Words of one letter height, a line each, as many as the index says and the picture holds."""
    font = _font(index, height)
    room = int(MARGIN * size / (1.6 * height))
    wide = max(2, int(MARGIN * size / font.getlength("n")) - 1)
    count = max(1, min(COUNTS[(index // len(FONTS)) % len(COUNTS)], room))
    words = tuple(_word(rng, 2, wide) for _ in range(count))
    while max(map(font.getlength, words)) > MARGIN * size and font.size > 8:  # the widest letters of a tall font
        font = font.font_variant(size=font.size * 0.95)
    return _drawn(size, words, font, index, rng)


def _by_width(size: int, share: float, word: str, index: int, rng: np.random.Generator) -> Picture:
    font = _font(index, 100)
    return _drawn(size, (word,), font.font_variant(size=font.size * share * size / font.getlength(word)), index, rng)


def _word(rng: np.random.Generator, least: int, most: int) -> str:
    fitting = [word for word in all_words() if least <= len(word) <= most] if most > 2 else list(SHORT)
    word = str(rng.choice(fitting))
    return (word.lower(), word.capitalize(), word.upper())[int(rng.integers(3))] if most > 2 else word


def _font(index: int, height: int) -> ImageFont.FreeTypeFont:
    """A font whose capitals are so many pixels high."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[index % len(FONTS)]
    return ImageFont.truetype(str(path), height / 0.73)  # capitals over size, of DejaVu


def _drawn(
    size: int, words: tuple[str, ...], font: ImageFont.FreeTypeFont, index: int, rng: np.random.Generator
) -> Picture:
    ground = GROUNDS[(index + index // len(FONTS)) % len(GROUNDS)]
    picture = Image.fromarray(_ground(ground, size, rng))
    draw = ImageDraw.Draw(picture)
    ink = (20, 25, 60) if ground == "plain" else (245, 240, 225)
    for line, word in enumerate(words):
        half = font.getlength(word) / 2
        slack = max(0.0, MARGIN * size / 2 - half)
        across = size / 2 + float(rng.uniform(-slack, slack))
        draw.text((across, size * (line + 0.5) / len(words)), word, fill=ink, font=font, anchor="mm")
    return Picture(np.asarray(picture), words)


def _ground(kind: str, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    if kind == "plain":
        return np.full((size, size, 3), 235, np.uint8)
    if kind == "gradient":
        ramp = np.linspace(30, 130, size)[:, None, None] * np.array([0.4, 0.7, 1.0])
        return np.broadcast_to(ramp, (size, size, 3)).astype(np.uint8)
    coarse = rng.integers(20, 130, (9, 9, 3), dtype=np.uint8)  # soft blobs of colour, as out of focus
    blobs = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float64)
    return np.clip(blobs + rng.normal(0, 6, (size, size, 1)), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
