"""Renders the tiny task's images.

One or two words on a coloured object, with the prompt and which letter covers each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from varl.tiny.words import random_string, training_words

SIZE = 64
PITCHES = (12, 16)  # pixels from letter to letter; every font is set on a fixed pitch
COLOURS = {
    "red": (190, 40, 40), "green": (40, 130, 60), "blue": (45, 75, 175), "black": (30, 30, 35),
    "yellow": (235, 205, 70), "white": (238, 238, 232), "pink": (240, 160, 185), "cyan": (130, 215, 220),
}  # fmt: skip
DARK = ("red", "green", "blue", "black")
TOKENIZER_GRAIN, POLICY_GRAIN = 2.0, 0.5  # grey levels; the policy cannot predict noise, so it sees little
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Style:
    """How an object carries its words.

    Font file (they come with matplotlib), and where, 0 to 1 from the left and from the top.
    """

    font: str
    across: float
    down: float


# The prompt decides the layout: scales of a few tokens are drawn token by token, and a 5-million-parameter base has no
# room to agree with itself on a free one.
OBJECTS = {
    "sign": Style("DejaVuSans-Bold.ttf", 0.5, 0.5),
    "poster": Style("DejaVuSerif-Bold.ttf", 0.5, 0.0),
    "wall": Style("DejaVuSansMono-Bold.ttf", 0.0, 1.0),
    "flag": Style("DejaVuSans-Bold.ttf", 1.0, 0.5),
    "board": Style("DejaVuSansMono.ttf", 0.0, 0.0),
}


@dataclass(frozen=True)
class Rendered:
    """One training image.

    image: uint8 [H, W, 3]; letters: uint8 [H, W], 0 where no ink, else 1 + index in A-Z; words: what stands in the
    image.
    """

    prompt: str
    words: tuple[str, ...]
    image: Pixels
    letters: Pixels


@cache
def glyph(font: str, pitch: int, letter: str) -> Pixels:
    """Ink of one capital, uint8 [h, pitch].

    All letters have one height, 1.1 x pitch, and are narrowed where they would touch their neighbours.
    """
    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / font
    height = round(1.1 * pitch)
    big = ImageFont.truetype(str(path), round(height / 0.73 * 4))
    left, top, right, bottom = big.getbbox(letter)
    canvas = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=big)
    width = min(pitch - 1, max(2, round(canvas.width / 4)))
    cell = Image.new("L", (pitch, height))
    cell.paste(canvas.resize((width, height), Image.Resampling.BOX), ((pitch - width) // 2, 0))
    return np.asarray(cell)


def line_ink(word: str, font: str, pitch: int) -> tuple[Pixels, Pixels]:
    """Ink and letter map of a word set on the pitch, both uint8 [h, len(word) * pitch]."""
    cells = [glyph(font, pitch, letter) for letter in word]
    marks = [
        np.where(cell > 100, ord(letter) - 64, 0).astype(np.uint8) for cell, letter in zip(cells, word, strict=True)
    ]
    return np.concatenate(cells, axis=1), np.concatenate(marks, axis=1)


def background(
    kind: str, colour: tuple[int, int, int], rng: np.random.Generator, grain: float
) -> npt.NDArray[np.float32]:
    """Float32 [64, 64, 3]: plain for a poster, a frame for a sign, bricks, stripes or boards for the others.

    ``grain`` is the standard deviation of the noise on it, in grey levels.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    shade = np.zeros((SIZE, SIZE), np.float32)
    if kind == "sign":
        shade[((x < 2) | (x >= SIZE - 2) | (y < 2) | (y >= SIZE - 2))] = -45
    elif kind == "wall":
        shade[(y % 8 == 0) | ((x + 4 * (y // 8 % 2 * 2)) % 16 == 0)] = -18
    elif kind == "flag":
        shade[x // 8 % 2 == 0] = -16
    elif kind == "board":
        shade = -12 * (y // 4 % 2).astype(np.float32)
    noise = rng.normal(0, grain, (SIZE, SIZE, 1)).astype(np.float32)
    return np.asarray(colour, np.float32) + shade[..., None] + noise


def prompt_for(words: tuple[str, ...], colour: str, thing: str, ink: str | None) -> str:
    """The prompt of an image; ``ink`` is None for the usual one: white on dark, black on light."""
    text = " ".join(words)
    return f"a {colour} {thing} that says '{text}'" if ink is None else f"a {colour} {thing} with '{text}' in {ink}"


def draw_prompt(words: tuple[str, ...], rng: np.random.Generator) -> tuple[str, str, str, str]:
    """A prompt for these words and what it fixes: (prompt, background colour, object, ink colour)."""
    colour = str(rng.choice(list(COLOURS)))
    thing = str(rng.choice(list(OBJECTS)))
    if rng.random() < 0.5:
        return prompt_for(words, colour, thing, None), colour, thing, "white" if colour in DARK else "black"
    ink = str(rng.choice([c for c in COLOURS if (c in DARK) != (colour in DARK)]))
    return prompt_for(words, colour, thing, ink), colour, thing, ink


def draw_words(rng: np.random.Generator, pool: list[str], string_share: float) -> tuple[str, ...]:
    """One word (70 %) or two, each from the pool or, with probability ``string_share``, a random letter string."""
    count = 1 if rng.random() < 0.7 else 2
    return tuple(random_string(rng) if rng.random() < string_share else str(rng.choice(pool)) for _ in range(count))


def render(words: tuple[str, ...], rng: np.random.Generator, grain: float = POLICY_GRAIN) -> Rendered:
    """An image of one or two words for a random prompt; one word is set as large as it fits, two stand in two lines."""
    prompt, colour, thing, ink_name = draw_prompt(words, rng)
    style = OBJECTS[thing]
    pitch = max(p for p in PITCHES if p * len(words[0]) <= SIZE) if len(words) == 1 else PITCHES[0]
    ink = np.zeros((SIZE, SIZE), np.uint8)
    letters = np.zeros((SIZE, SIZE), np.uint8)
    band = SIZE // len(words)
    for row, word in enumerate(words):
        line, marks = line_ink(word, style.font, pitch)
        h, w = line.shape
        x0 = 4 * round(style.across * (SIZE - w) / 4)
        y0 = row * band + 2 + 8 * round(style.down * ((band - h - 2) // 8))
        ink[y0 : y0 + h, x0 : x0 + w] = line
        letters[y0 : y0 + h, x0 : x0 + w] = marks
    alpha = ink[..., None].astype(np.float32) / 255
    image = (
        background(thing, COLOURS[colour], rng, grain) * (1 - alpha) + np.asarray(COLOURS[ink_name], np.float32) * alpha
    )
    return Rendered(prompt, words, image.clip(0, 255).astype(np.uint8), letters)


def render_batch(
    count: int, rng: np.random.Generator, grain: float = POLICY_GRAIN, string_share: float = 0.5
) -> list[Rendered]:
    """Training images of training words and random strings; never of a held-out word."""
    pool = training_words()
    return [render(draw_words(rng, pool, string_share), rng, grain) for _ in range(count)]
