"""Renders the signs: one to three words, each on a plate of its own, on a wall whose texture no prompt mentions.

A letter fills one cell of the finest grid (CELL pixels): text is a small part of the picture, and the wall most of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from varl.tiny.render import Pixels, Rendered
from varl.tiny.sign_words import MAX_LETTERS, Split, random_string, words_of

CELL, CELLS = 12, 9  # pixels a side of a cell, cells a side of a picture
SIZE = CELL * CELLS
MARGIN = 4  # pixels of plate around its word
COLOURS = {
    "red": (178, 36, 40), "green": (30, 112, 62), "blue": (38, 70, 165), "black": (34, 34, 38),
    "yellow": (238, 208, 70), "white": (240, 240, 234), "pink": (244, 170, 194), "cyan": (140, 220, 226),
}  # fmt: skip
DARK = ("red", "green", "blue", "black")
FONT = "DejaVuSansMono-Bold.ttf"  # comes with matplotlib; its I has serifs, without them the OCR engine sees a gap
ROWS = {"top": 1, "middle": 4, "bottom": 7}  # cells from the top
LAYOUTS: dict[int, list[tuple[str, ...]]] = {
    1: [("top",), ("middle",), ("bottom",)],
    2: [("top", "bottom")],
    3: [("top", "middle", "bottom")],
}
LENGTHS = {1: (5, 8), 2: (4, 6), 3: (4, 5)}  # letters of a word by the number of words
Shares = Mapping[int, float]  # of pictures by the number of words
# Pretraining shows few pictures of two and three words, and RL and evaluation ask for them most of the time: a base
# that spells one word and confuses three has errors that no colder sampler mends.
PRETRAIN_SHARES: Shares = {1: 0.84, 2: 0.12, 3: 0.04}
PROMPT_SHARES: Shares = {1: 0.15, 2: 0.3, 3: 0.55}


@dataclass(frozen=True)
class Sign:
    """What a prompt fixes: plate colour, and words with the rows that they stand in."""

    colour: str
    words: tuple[str, ...]
    rows: tuple[str, ...]

    def prompt(self) -> str:
        """The prompt, by which the picture's words and plates, and nothing else of it, are known."""
        parts = [f"'{word}' at the {row}" for word, row in zip(self.words, self.rows, strict=True)]
        if len(parts) == 1:
            return f"a {self.colour} sign {parts[0]}"
        return f"{self.colour} signs {', '.join(parts[:-1])} and {parts[-1]}"


@cache
def glyph(letter: str) -> Pixels:
    """Ink of one capital, uint8 [CELL, CELL]: one height for all, narrowed where it would touch its neighbour."""
    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / FONT
    big = ImageFont.truetype(str(path), 8 * CELL)
    left, top, right, bottom = big.getbbox(letter)
    canvas = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=big)
    width = min(CELL - 1, max(3, round(canvas.width * CELL / canvas.height)))
    cell = Image.new("L", (CELL, CELL))
    cell.paste(canvas.resize((width, CELL), Image.Resampling.BOX), ((CELL - width) // 2, 0))
    return np.asarray(cell)


def wall(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A random texture, float32 [SIZE, SIZE, 3]: a colour, a slope, and waves of random direction, length and tint."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    image = np.broadcast_to(rng.uniform(70, 190, 3).astype(np.float32), (SIZE, SIZE, 3)).copy()
    slope = rng.normal(0, 25, 2)
    image += (slope[0] * (x - 0.5) + slope[1] * (y - 0.5))[..., None]
    for _ in range(3):
        angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(1, 4), rng.uniform(0, 2 * np.pi)
        ripple = np.sin(2 * np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        image += ripple[..., None] * rng.normal(0, 12, 3).astype(np.float32)
    return image


def draw_sign(rng: np.random.Generator, split: Split, shares: Shares, string_share: float = 0.0) -> Sign:
    """A random sign of a split's words; with probability ``string_share`` a word is a random letter string instead."""
    count = int(rng.choice(list(shares), p=list(shares.values())))
    rows = LAYOUTS[count][rng.integers(len(LAYOUTS[count]))]
    words = tuple(_draw_word(rng, split, LENGTHS[count], string_share) for _ in range(count))
    return Sign(str(rng.choice(list(COLOURS))), words, rows)


def _draw_word(rng: np.random.Generator, split: Split, lengths: tuple[int, int], string_share: float) -> str:
    low, high = lengths
    if rng.random() < string_share:
        return random_string(rng, int(rng.integers(low, high + 1)))
    fitting = [word for word in words_of(split) if low <= len(word) <= high]
    return fitting[rng.integers(len(fitting))]


def render(sign: Sign, rng: np.random.Generator) -> Rendered:
    """A picture of a sign; the wall is random, all else is as the sign says."""
    image, letters = wall(rng), np.zeros((SIZE, SIZE), np.uint8)
    ink = (250.0, 250.0, 246.0) if sign.colour in DARK else (24.0, 24.0, 28.0)
    for word, row in zip(sign.words, sign.rows, strict=True):
        _paint(image, letters, word, ROWS[row] * CELL, sign.colour, ink)
    return Rendered(sign.prompt(), sign.words, image.clip(0, 255).astype(np.uint8), letters)


def _paint(
    image: npt.NDArray[np.float32], letters: Pixels, word: str, top: int, colour: str, ink: tuple[float, ...]
) -> None:
    """Lay a plate with a word on the picture, in place."""
    if len(word) > MAX_LETTERS:
        raise ValueError(f"{word!r} has more than {MAX_LETTERS} letters")
    left, width = CELL * ((CELLS - len(word)) // 2), CELL * len(word)
    image[top - MARGIN : top + CELL + MARGIN, max(0, left - MARGIN) : left + width + MARGIN] = COLOURS[colour]
    cover = np.concatenate([glyph(letter) for letter in word], axis=1)
    alpha = cover[..., None].astype(np.float32) / 255
    box = slice(top, top + CELL), slice(left, left + width)
    image[box] = image[box] * (1 - alpha) + np.asarray(ink, np.float32) * alpha
    marks = np.repeat([ord(letter) - 64 for letter in word], CELL).astype(np.uint8)
    letters[box] = np.where(cover > 100, marks[None], 0)


def render_batch(count: int, rng: np.random.Generator, string_share: float = 0.6) -> list[Rendered]:
    """Pictures of pretraining words and random strings; never of a word of RL or of evaluation."""
    return [render(draw_sign(rng, Split.PRETRAIN, PRETRAIN_SHARES, string_share), rng) for _ in range(count)]
