"""Figures of an image's looks, on pictures whose figures can be worked out by hand."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from varl.services.rollout.appearance import appearance
from varl.v1 import trajectory_pb2

Pixels = npt.NDArray[np.uint8]
WHITE, BLACK, RED, GREY = (255, 255, 255), (0, 0, 0), (255, 0, 0), (128, 128, 128)


def plain(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def box(left: float, top: float, right: float, bottom: float, text: str = "A") -> trajectory_pb2.LocatedRegion:
    corners = [left, top, right, top, right, bottom, left, bottom]
    return trajectory_pb2.LocatedRegion(reward="ocr", polygon=corners, text=text, confidence=1)


@pytest.mark.parametrize(
    ("colour", "dark", "saturated", "lab"),
    [(WHITE, 0, 0, (100, 0, 0)), (BLACK, 1, 0, (0, 0, 0)), (RED, 0, 1, (54.3, 80.8, 69.9)), (GREY, 0, 0, (53.6, 0, 0))],
)
def test_one_colour(
    colour: tuple[int, int, int], dark: float, saturated: float, lab: tuple[float, float, float]
) -> None:
    found = appearance(png(plain(colour)), [])
    assert (found["dark"], found["saturated"], found["sharpness"]) == (dark, saturated, 0)
    assert (found["lightness"], found["a"], found["b"]) == pytest.approx(lab, abs=1.0)
    assert (found["background_entropy"], found["text_area"]) == (0, 0)
    assert "text_contrast" not in found


def test_half_black_has_one_bit_and_an_edge() -> None:
    pixels = plain(WHITE)
    pixels[:20] = 0
    found = appearance(png(pixels), [])
    assert found["dark"] == 0.5
    assert found["background_entropy"] == pytest.approx(1)
    assert found["sharpness"] == pytest.approx(255 * 2 / 38)  # two of the 38 inner rows lie at the edge


def test_text_is_measured_inside_its_boxes_and_the_background_outside() -> None:
    pixels = plain(WHITE)
    pixels[10:20, 10:20] = 0  # a quarter of the box
    found = appearance(png(pixels), [box(5, 5, 24, 24)])
    assert found["text_area"] == pytest.approx(400 / 2400)
    assert found["text_contrast"] == pytest.approx(1)
    assert found["background_entropy"] == 0


def test_faint_text_has_little_contrast() -> None:
    pixels = plain(WHITE)
    pixels[10:20, 10:20] = 250
    assert appearance(png(pixels), [box(5, 5, 24, 24)])["text_contrast"] == pytest.approx(5 / 255)


def test_a_region_without_text_or_place_is_background() -> None:
    somewhere = trajectory_pb2.LocatedRegion(reward="ocr", text="A", confidence=1)
    found = appearance(png(plain(GREY)), [box(0, 0, 9, 9, text=""), somewhere])
    assert found["text_area"] == 0


def test_text_that_covers_everything_leaves_no_background() -> None:
    found = appearance(png(plain(GREY)), [box(-5, -5, 99, 99)])
    assert found["text_area"] == 1
    assert "background_entropy" not in found


def test_figures_of_a_picture_of_one_pixel_are_finite() -> None:
    assert all(np.isfinite(value) for value in appearance(png(plain(RED, 1, 1)), []).values())
