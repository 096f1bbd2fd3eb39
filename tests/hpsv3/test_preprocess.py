"""What the model is shown: sizes, pixels, patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.hpsv3_builders import noise
from varl.services.hpsv3.preprocess import AREA, CELL, PATCH_VALUES, patchify, resize, target_size, token_count


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [
        (256, 256, 256),
        (1024, 1024, 256),
        (768, 1024, 234),
        (768, 1344, 252),
        (512, 2048, 256),
        (3000, 30, 320),
        (30, 3000, 320),
        (8, 8, 256),
    ],
)
def test_token_counts_are_those_of_the_package(height: int, width: int, tokens: int) -> None:
    resized = resize(noise(height, width))
    assert tuple(resized.shape) == (3, *target_size(height, width))
    assert resized.dtype == torch.uint8
    assert token_count(resized) == tokens


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_whole_cells_of_about_one_area(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="200 times"):
            target_size(height, width)
        return
    found = target_size(height, width)
    assert all(side >= CELL and side % CELL == 0 for side in found)
    assert target_size(width, height) == found[::-1]
    if max(height, width) < 4 * min(height, width):
        assert 0.8 < found[0] * found[1] / AREA < 1.25


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = noise(448, 448)
    assert np.array_equal(resize(pixels).permute(1, 2, 0).numpy(), pixels)


def test_resizing_is_pillows_bicubic() -> None:
    pixels = noise(100, 300)
    height, width = target_size(100, 300)
    expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    assert np.array_equal(resize(pixels).permute(1, 2, 0).numpy(), expected)


def test_patches_hold_the_normalised_pixels_cell_by_cell() -> None:
    images = torch.stack([torch.from_numpy(noise(56, 84, seed).transpose(2, 0, 1).copy()) for seed in range(2)])
    patches = patchify(images, torch.float32)
    assert tuple(patches.shape) == (2, 4 * 6, PATCH_VALUES)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    places = [
        (2 * row + y, 2 * column + x) for row in range(2) for column in range(3) for y in range(2) for x in range(2)
    ]
    for index, (row, column) in enumerate(places):
        patch = patches[1, index].view(3, 2, 14, 14)
        for channel in range(3):
            pixels = images[1, channel, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14].double() / 255
            expected = (pixels - mean[channel]) / deviation[channel]
            for frame in range(2):
                torch.testing.assert_close(patch[channel, frame].double(), expected, atol=1e-6, rtol=0)
