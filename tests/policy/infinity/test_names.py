"""Names and shapes of the published models, built without memory: what their files have to fit."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from varl.policy.infinity import InfinityConfig, TokenizerConfig
from varl.policy.infinity.config import PATCHIFIED, PRESETS
from varl.policy.infinity.tokenizer import Tokenizer
from varl.policy.infinity.transformer import InfinityTransformer

# Printed by FoundationVision/Infinity's infinity_2b for its tokenizer of 32 bits; {} stands for a chunk and a block.
NAMES_2B = Path(__file__).with_name("names_2b.txt")


def expected() -> dict[str, tuple[int, ...]]:
    rows = [line.split() for line in NAMES_2B.read_text(encoding="utf-8").splitlines()]
    places = list(product(range(8), range(4)))
    return {name.format(*place): tuple(map(int, shape.split("x"))) for name, shape in rows for place in places}


def built(name: str, tokenizer: TokenizerConfig) -> InfinityTransformer:
    with torch.device("meta"):
        return InfinityTransformer(InfinityConfig(tokenizer=tokenizer, transformer=PRESETS[name]))


def test_the_2b_model_has_the_published_names_and_shapes() -> None:
    state = {name: tuple(value.shape) for name, value in built("2B", TokenizerConfig(bits=32)).state_dict().items()}
    assert len(state) == 694 and state == expected()


@pytest.mark.parametrize(
    ("name", "tokenizer", "names", "billions"),
    [
        ("125M", TokenizerConfig(), 274, 0.1251),
        ("layer16", TokenizerConfig(), 358, 0.3616),
        ("1B", TokenizerConfig(), 526, 0.9409),
        ("2B", TokenizerConfig(bits=32), 694, 2.2046),
        ("8B", PATCHIFIED, 862, 8.3758),
    ],
)
def test_every_size_has_the_published_number_of_parameters(
    name: str, tokenizer: TokenizerConfig, names: int, billions: float
) -> None:
    module = built(name, tokenizer)
    assert len(module.state_dict()) == names
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e9 == pytest.approx(billions, abs=6e-5)


@pytest.mark.parametrize(
    ("tokenizer", "encoder", "decoder", "names"),
    [
        (TokenizerConfig(), 44.95, 65.02, 268),
        (TokenizerConfig(bits=32), 45.03, 65.09, 268),
        (PATCHIFIED, 33.14, 48.48, 224),
    ],
)
def test_the_tokenizers_have_the_published_number_of_parameters(
    tokenizer: TokenizerConfig, encoder: float, decoder: float, names: int
) -> None:
    with torch.device("meta"):
        model = Tokenizer(tokenizer, ((1, 1), (2, 2)))
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.encoder, model.decoder)]
    assert millions == pytest.approx([encoder, decoder], abs=6e-3)
    assert len(model.state_dict()) == names  # two less than the files, which hold a table of powers of two twice
