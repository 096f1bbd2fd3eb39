"""The signs: three splits that share no word, and pictures that are what their prompts say."""

from pathlib import Path

import numpy as np
import pytest

from varl.tiny import signs
from varl.tiny.sign_words import Split, random_string, split_of, words_of
from varl.trajectories.prompt_files import load_prompts

PROMPTS = Path("recipes/prompts")


def test_pretraining_rl_and_evaluation_share_no_word() -> None:
    shown = {split: set(words_of(split)) for split in Split}
    assert all(shown.values())
    assert len(set.union(*shown.values())) == sum(map(len, shown.values()))
    for stem, split in (("signs_train", Split.TRAIN), ("signs_heldout", Split.HELD_OUT)):
        prompts = load_prompts(PROMPTS / f"{stem}.jsonl")
        assert {word for spec in prompts for word in spec.target_words} <= shown[split]
    rng = np.random.default_rng(0)
    assert all(split_of(random_string(rng, 6)) is Split.PRETRAIN for _ in range(200))
    assert all(split_of(word) is Split.PRETRAIN for item in signs.render_batch(200, rng) for word in item.words)


def test_letters_lie_in_the_cells_of_their_word() -> None:
    sign = signs.Sign("blue", ("TOAST", "PEAR"), ("top", "bottom"))
    item = signs.render(sign, np.random.default_rng(0))
    cells = item.letters.reshape(signs.CELLS, signs.CELL, signs.CELLS, signs.CELL).max((1, 3))
    assert [chr(64 + code) for code in cells[signs.ROWS["top"], 2:7]] == list("TOAST")
    assert [chr(64 + code) for code in cells[signs.ROWS["bottom"], 2:6]] == list("PEAR")
    assert np.count_nonzero(cells) == 9


def test_the_wall_is_what_the_prompt_leaves_open() -> None:
    sign = signs.Sign("cyan", ("KETTLE",), ("middle",))
    one, other = (signs.render(sign, np.random.default_rng(seed)).image.astype(int) for seed in (0, 1))
    same = (one == other).all(-1)
    top = signs.ROWS["middle"] * signs.CELL
    assert same[top : top + signs.CELL, signs.CELL : 7 * signs.CELL].all()  # the plate and its word
    assert same.mean() < 0.3


def test_a_word_wider_than_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="'ABCDEFGHI' has more than 8 letters"):
        signs.render(signs.Sign("red", ("ABCDEFGHI",), ("top",)), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("sign", "prompt"),
    [
        (signs.Sign("red", ("OVEN",), ("top",)), "a red sign 'OVEN' at the top"),
        (
            signs.Sign("pink", ("OVEN", "LAMP", "KITE"), ("top", "middle", "bottom")),
            "pink signs 'OVEN' at the top, 'LAMP' at the middle and 'KITE' at the bottom",
        ),
    ],
)
def test_the_prompt_says_where_each_word_stands(sign: signs.Sign, prompt: str) -> None:
    assert sign.prompt() == prompt
