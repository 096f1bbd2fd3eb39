"""Pairs of pictures of the tiny task for one prompt, of which a script says that the first is better.

No person was asked.
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from varl.tiny.render import SIZE, Pixels, Rendered, draw_words, render
from varl.tiny.words import held_out_words, is_held_out, random_string, training_words

CELL = 8  # pixels; the tiny policy draws in cells of this size
GRADED_SHARE = 0.2  # of the pairs with a damage: both pictures have it, the worse one three times as much
SHARES = {
    "word": 0.15, "letter": 0.3, "scene": 0.15, "blur": 0.05, "noise": 0.05, "contrast": 0.05,
    "crop": 0.05, "jpeg": 0.05, "cast": 0.05, "cells": 0.05, "double": 0.05,
}  # fmt: skip
KINDS = tuple(SHARES)  # what is wrong with the worse picture
CONTENT_SHARES = {"word": 0.35, "letter": 0.45, "scene": 0.2}


@dataclass(frozen=True)
class Pair:
    """Two pictures uint8 [64, 64, 3] for one prompt.

    shown: the prompt that the worse picture was rendered for, or None where damage may have changed what can be seen;
    graded: the better picture is damaged as well, only less.
    """

    prompt: str
    kind: str
    better: Pixels
    worse: Pixels
    shown: str | None
    graded: bool = False


def make_pair(kind: str, rng: np.random.Generator, held_out: bool = False) -> Pair:
    """A pair of ``kind``.

    Of held-out words or, as in training, of training words and random strings that are not held out.
    """
    asked = draw_words(rng, held_out_words() if held_out else training_words(), 0.0 if held_out else 0.5)
    seed = int(rng.integers(2**63))  # render draws the style before anything that depends on the words
    clean = render(asked, np.random.default_rng(seed))
    if kind in DAMAGES:
        severity = float(rng.uniform(0.15, 1.0))
        graded = bool(rng.random() < GRADED_SHARE)
        mild = DAMAGES[kind](clean, severity / 3, rng) if graded else clean.image
        worse = DAMAGES[kind](clean, severity, rng)
        return Pair(clean.prompt, kind, soften(mild, rng), soften(worse, rng), None, graded)
    if kind == "scene":
        other = _other_scene(clean, rng)
    else:
        change = _other_word if kind == "word" else _other_letter
        other = render(_change_one(asked, rng, lambda word: change(word, rng, held_out)), np.random.default_rng(seed))
    return Pair(clean.prompt, kind, soften(clean.image, rng), soften(other.image, rng), other.prompt)


def draw_pairs(count: int, rng: np.random.Generator, shares: Mapping[str, float] = SHARES) -> list[Pair]:
    """Training pairs, kinds by their shares, which sum to 1."""
    kinds = rng.choice(list(shares), size=count, p=list(shares.values()))
    return [make_pair(str(kind), rng) for kind in kinds]


def mirrored(pair: Pair) -> Pair:
    """The same pictures for the prompt of the worse one, which is then the better one.

    Raises ValueError for a damaged picture.
    """
    if pair.shown is None:
        raise ValueError(f"{pair.kind}: no prompt asks for a damaged picture")
    return Pair(pair.shown, pair.kind, pair.worse, pair.better, pair.prompt)


def _change_one(words: tuple[str, ...], rng: np.random.Generator, change: Callable[[str], str]) -> tuple[str, ...]:
    place = int(rng.integers(len(words)))
    return (*words[:place], change(words[place]), *words[place + 1 :])


def _other_word(word: str, rng: np.random.Generator, held_out: bool) -> str:
    """Another word, of any length that the layout takes."""
    while True:
        other = str(rng.choice(held_out_words())) if held_out else random_string(rng)
        if other != word:
            return other


def _other_letter(word: str, rng: np.random.Generator, held_out: bool) -> str:
    """The word with one letter changed; in training never to a held-out word."""
    while True:
        place = int(rng.integers(len(word)))
        other = word[:place] + str(rng.choice(list(string.ascii_uppercase))) + word[place + 1 :]
        if other != word and (held_out or not is_held_out(other)):
            return other


def _other_scene(clean: Rendered, rng: np.random.Generator) -> Rendered:
    """The same words for another prompt: another colour, object or ink."""
    while True:
        other = render(clean.words, rng)
        if other.prompt != clean.prompt:
            return other


def soften(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Both pictures of a pair alike.

    The slight blur and grain that a decoder of codes leaves, so that these cost nothing.
    """
    soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.5))))
    return _rounded(np.asarray(soft) + rng.normal(0, float(rng.uniform(0, 4)), image.shape))


def _rounded(image: np.typing.NDArray[np.floating]) -> Pixels:
    return image.round().clip(0, 255).astype(np.uint8)


# Each damage takes a picture, a severity in (0, 1] and a generator.


def _blur(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(clean.image).filter(ImageFilter.GaussianBlur(0.5 + 2.5 * severity)))


def _noise(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    return _rounded(clean.image + rng.normal(0, 80 * severity, clean.image.shape))


def _contrast(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    mean = clean.image.mean((0, 1))
    return _rounded(mean + (clean.image - mean) * (1 - 0.95 * severity**0.5))


def _crop(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    """A part, enlarged to the whole: letters are cut off at the borders."""
    side = round(SIZE * (1 - 0.6 * severity))
    left, top = (int(rng.integers(SIZE - side + 1)) for _ in range(2))
    part = Image.fromarray(clean.image).crop((left, top, left + side, top + side))
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _jpeg(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(clean.image).save(file, "JPEG", quality=round(20 - 19 * severity**0.5))
    return np.asarray(Image.open(file).convert("RGB"))


def _cast(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    """Everything drawn towards one strong colour."""
    tint = rng.permutation([255.0, float(rng.uniform(0, 255)), 0.0])
    return _rounded(clean.image + (tint - clean.image) * (0.15 + 0.6 * severity))


def _cells(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    """Cells from elsewhere in the picture: what a policy draws that picks wrong codes."""
    grid = (
        clean.image.reshape(SIZE // CELL, CELL, SIZE // CELL, CELL, 3).swapaxes(1, 2).reshape(-1, CELL, CELL, 3).copy()
    )
    places = rng.permutation(len(grid))[: max(2, round(0.7 * severity * len(grid)))]
    grid[places] = grid[rng.integers(len(grid), size=len(places))]
    rows = grid.reshape(SIZE // CELL, SIZE // CELL, CELL, CELL, 3)
    return rows.swapaxes(1, 2).reshape(SIZE, SIZE, 3)


def _double(clean: Rendered, severity: float, rng: np.random.Generator) -> Pixels:
    """A second exposure beside the first: strokes of two letters in one place."""
    beside = np.roll(clean.image, int(rng.integers(3, 14)), axis=int(rng.integers(2)))
    return _rounded(clean.image + (0.1 + 0.4 * severity) * (beside.astype(np.float32) - clean.image))


DAMAGES: Mapping[str, Callable[[Rendered, float, np.random.Generator], Pixels]] = {
    "blur": _blur,
    "noise": _noise,
    "contrast": _contrast,
    "crop": _crop,
    "jpeg": _jpeg,
    "cast": _cast,
    "cells": _cells,
    "double": _double,
}
