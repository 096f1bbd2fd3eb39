"""Drawing a benchmark's images: what is missing, several prompts together, the same images whatever the batch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varl.evaluation.benchmarks.draw import draw
from varl.evaluation.benchmarks.items import Item
from varl.evaluation.benchmarks.judge import Picture, pictures_of
from varl.examples.palette import Palette
from varl.policy.base import SamplingParams
from varl.policy.load import load


def to_draw(folder: Path) -> tuple[list[Picture], dict[Path, int]]:
    """Two prompts of different lengths with two seeds each."""
    items = [
        Item(f"{index}.png", f"a {colour} sign that says '{word}'", (word.lower(),), "")
        for index, (colour, word) in enumerate((("red", "CAT"), ("yellow", "DOG")))
    ]
    seeds = {folder / "seed-0": 0, folder / "seed-1": 1}
    return pictures_of(items, list(seeds)), seeds


@pytest.mark.parametrize(("batch", "calls"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [2, 4]), (4, [4])])
def test_pictures_are_those_of_any_other_batch(batch: int, calls: list[int], tmp_path: Path) -> None:
    policy, told = load(Path("checkpoints/tiny")), list[int]()
    drawn = []
    for folder, size in ((tmp_path / "one", 1), (tmp_path / "other", batch)):
        pictures, seeds = to_draw(folder)
        told.clear()
        draw(policy, pictures, seeds, SamplingParams(cfg=1.0), told.append, size)
        drawn.append([np.asarray(Image.open(picture.path), int) for picture in pictures])
    assert told == [0, *calls]
    assert all(abs(one - other).max() <= 1 for one, other in zip(*drawn, strict=True))


def test_a_policy_of_one_prompt_a_call_draws_them_one_by_one(tmp_path: Path) -> None:
    pictures, seeds = to_draw(tmp_path)
    told = list[int]()
    draw(Palette(), pictures, seeds, SamplingParams(), told.append, 4)  # type: ignore[no-untyped-call]
    assert told == [0, 2, 4]


def test_a_policy_draws_what_is_missing_and_the_same_again(tmp_path: Path) -> None:
    policy = load(Path("checkpoints/tiny"))
    pictures, seeds = to_draw(tmp_path)
    draw(policy, pictures, seeds, SamplingParams(), lambda _: None, 4)
    first = {picture: picture.path.read_bytes() for picture in pictures}
    assert len(set(first.values())) == 4
    kept, gone = pictures[0], pictures[3]
    kept.path.write_bytes(b"as it was")
    gone.path.unlink()
    told = list[int]()
    draw(policy, pictures, seeds, SamplingParams(), told.append, 4)
    assert told == [3, 4]
    assert kept.path.read_bytes() == b"as it was"
    before, after = (np.asarray(Image.open(io.BytesIO(data)), int) for data in (first[gone], gone.path.read_bytes()))
    assert abs(after - before).max() <= 1  # the rounding of another number of images at a time
