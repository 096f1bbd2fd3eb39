"""Traps of Infinity's arithmetic that need no transformer: schedules, positions, bits, and the next scale's inputs.

Each of them a plausible implementation gets wrong without a sampler or a loss that says so.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.support.infinity_models import PATCHIFIED, SQUARE, random_policy
from varl.policy.base import cells
from varl.policy.infinity import InfinityConfig, TokenizerConfig
from varl.policy.infinity.quantizer import Quantizer
from varl.policy.infinity.rope import positions, rotate, rotation
from varl.policy.infinity.schedule import SCHEDULES, SIZES, nearest_template


@pytest.mark.parametrize(("size", "sites", "side"), [("0.06M", 521, 16), ("0.25M", 2521, 32), ("1M", 10521, 64)])
def test_square_images_have_the_published_number_of_tokens(size: str, sites: int, side: int) -> None:
    config = InfinityConfig(scales=SIZES[size])
    assert sum(cells(config.grids)) == sites
    assert config.grids[-1] == (side, side) and config.image_size == (16 * side, 16 * side)


def test_every_template_has_13_growing_grids_of_its_shape() -> None:
    assert sorted(SCHEDULES) == [0.333, 0.4, 0.5, 0.571, 0.666, 0.75, 0.8, 1, 1.25, 1.333, 1.5, 1.75, 2, 2.5, 3]
    for ratio, grids in SCHEDULES.items():
        assert len(grids) == 13 and grids[:2] == ((1, 1), (2, 2))
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(grids))
        for scales in SIZES.values():
            assert grids[scales - 1][0] / grids[scales - 1][1] == pytest.approx(ratio, abs=0.01)


def test_the_nearest_template_is_nearest_by_difference() -> None:
    assert (nearest_template(16 / 9), nearest_template(9 / 16), nearest_template(1.02)) == (1.75, 0.571, 1.0)
    assert nearest_template(10) == 3.0
    with pytest.raises(ValueError, match="above 0"):
        nearest_template(0)


def test_positions_are_rounded_half_to_even() -> None:
    rows = positions((20, 10), (90, 45))[::10, 0]
    assert rows.tolist()[:7] == [0, 4, 9, 14, 18, 22, 27]  # of 0, 4.5, 9, 13.5, 18, 22.5, 27
    square = positions((24, 24), (64, 64))[::24, 0]
    assert square.tolist()[:8] == [0, 3, 5, 8, 11, 13, 16, 19]


def test_small_images_stand_at_the_positions_of_large_ones() -> None:
    small = random_policy(SQUARE.model_copy(update={"scales": 7}))
    cos, sin = small._turns[-1]
    expected = torch.arange(0, 64, 4, dtype=torch.float32)  # 16 rows on a grid of 64, though the image has but 16
    torch.testing.assert_close(cos.view(16, 16, -1)[:, 0, 0], expected.cos(), rtol=0, atol=0)
    torch.testing.assert_close(sin.view(16, 16, -1)[:, 0, 0], expected.sin(), rtol=0, atol=0)


def test_rows_turn_the_first_half_of_the_pairs_and_columns_the_other() -> None:
    cos, sin = (table.view(4, 6, 8) for table in rotation((4, 6), (4, 6), 16))
    frequencies = 10000.0 ** -(torch.arange(4) / 4)
    torch.testing.assert_close(cos[2, 5], torch.cat([2 * frequencies, 5 * frequencies]).cos())
    torch.testing.assert_close(sin[3, 1], torch.cat([3 * frequencies, 1 * frequencies]).sin())


def test_rotation_turns_neighbours_and_not_halves() -> None:
    x = torch.zeros(1, 1, 1, 8)
    x[..., 2] = 1.0
    angles = torch.tensor([[0.0, 0.3, 0.0, 0.0]])
    turned = rotate(x, angles.cos(), angles.sin())[0, 0, 0]
    assert turned.nonzero().flatten().tolist() == [2, 3]
    assert turned[2:4].tolist() == pytest.approx([math.cos(0.3), math.sin(0.3)])


def quantizer(config: InfinityConfig) -> Quantizer:
    return Quantizer(config.tokenizer, config.grids)


@pytest.mark.parametrize(("scale", "size"), [(3, 6), (5, 12)])
def test_the_next_scale_sees_a_bilinear_picture_and_no_average(scale: int, size: int) -> None:
    config = SQUARE.model_copy(update={"scales": 7})
    canvas = torch.randn(2, 32, 16, 16, generator=torch.Generator().manual_seed(1))
    found = quantizer(config).inputs(canvas, scale).transpose(1, 2).reshape(2, 32, size, size)
    torch.testing.assert_close(found, sampled_between(canvas, size), rtol=0, atol=1e-5)
    assert (found - F.interpolate(canvas, size=(size, size), mode="area")).abs().max() > 0.05


def sampled_between(canvas: Tensor, size: int) -> Tensor:
    """Bilinear sampling at the centres of cells, written out; only the nearest two rows and columns count."""
    side = canvas.shape[-1]
    place = ((torch.arange(size) + 0.5) * side / size - 0.5).clamp_min(0)
    low = place.floor().long().clamp_max(side - 1)
    high, share = (low + 1).clamp_max(side - 1), place - low
    weights = torch.zeros(size, side)
    weights.scatter_add_(1, low[:, None], (1 - share)[:, None]).scatter_add_(1, high[:, None], share[:, None])
    return weights @ canvas @ weights.T


def test_codes_have_length_one_and_a_set_bit_is_positive() -> None:
    codes = quantizer(SQUARE).codes(torch.tensor([[[1 << 5]]]))[0, :, 0, 0]
    assert codes.norm() == pytest.approx(1) and codes[5] == pytest.approx(32**-0.5)
    assert (codes > 0).nonzero().flatten().tolist() == [5]


def test_a_patchified_token_holds_the_four_cells_of_each_channel() -> None:
    codes = quantizer(PATCHIFIED).codes(torch.tensor([[[1 << (4 * 3 + 2 * 1 + 0)]]]))[0]
    assert tuple(codes.shape) == (14, 2, 2)
    assert (codes > 0).nonzero().tolist() == [[3, 1, 0]]  # channel 3, lower row, left column


def test_a_feature_of_zero_is_the_bit_0() -> None:
    assert quantizer(SQUARE).encode(torch.zeros(1, 32, *SQUARE.grids[-1]))[0, 0] == 0


@pytest.mark.parametrize("config", [SQUARE, PATCHIFIED], ids=["32 bits", "56 bits"])
def test_encoding_takes_what_is_left_by_area_and_the_sum_comes_nearer(config: InfinityConfig) -> None:
    model = quantizer(config)
    features = torch.randn(2, model.bits, *model.sizes[-1], generator=torch.Generator().manual_seed(2))
    tokens = model.encode(features)
    assert tuple(tokens.shape) == (2, sum(cells(config.grids)))
    first = model.codes(tokens[:, :1].view(2, 1, 1)) > 0
    torch.testing.assert_close(first, F.interpolate(features, size=model.sizes[0], mode="area") > 0)
    errors = [float((features - model.accumulate(tokens[:, :stop])).norm()) for stop in (1, 5, tokens.shape[1])]
    assert errors[0] > errors[1] > errors[2]
    assert torch.equal(model.codes(tokens[:, -36:].view(2, 6, 6)) > 0, features - model.accumulate(tokens[:, :-36]) > 0)


def test_images_are_rgb_rounded_and_use_the_whole_range() -> None:
    class Bands(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return torch.tensor([3.0, 0.003, -1.0]).view(1, 3, 1, 1).expand(len(latent), 3, 96, 96)

    policy = random_policy()
    policy.tokenizer.decoder = Bands()  # type: ignore[assignment]
    pixels = policy.decode(torch.zeros(1, sum(cells(policy.grids)), dtype=torch.int64))
    assert pixels[0, 0, 0].tolist() == [255, 128, 0]  # red first; 127.9 is not cut off to 127
    assert pixels.dtype == np.uint8


def test_a_token_of_more_than_64_bits_is_rejected() -> None:
    with pytest.raises(ValueError, match="64 bits, here it has 128"):
        TokenizerConfig(bits=32, patchify=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("aspect_ratio", 1.1, "aspect_ratio must be one of"),
        ("scales", 14, "scales must be at most 13, got 14"),
        ("architecture", "nextflow", "architecture"),
        ("stranger", 1, "stranger"),
    ],
)
def test_a_config_that_is_no_infinity_model_names_the_field(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfinityConfig.model_validate({field: value})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 7}, "heads must divide width"),
        ({"pool_heads": 5}, "pool_heads must divide width 768, got 5"),
        ({"chunks": 5}, "chunks must divide depth 12, got 5"),
    ],
)
def test_sizes_that_do_not_divide_name_the_field(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfinityConfig.model_validate({"transformer": sizes})
