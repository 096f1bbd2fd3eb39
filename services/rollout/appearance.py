"""How an image looks, in figures that no reward is trained on: a reward that rises while these drift is being gamed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageDraw

from varl.v1 import trajectory_pb2

DARK_BELOW = 32 / 255  # luma
SATURATED_ABOVE, BRIGHT_ABOVE = 0.9, 0.3  # HSV saturation, and the value below which a hue is not seen
BINS = 4  # a colour channel, in the entropy of the background
Floats = npt.NDArray[np.float64]
_TO_LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


def appearance(file: bytes, regions: Iterable[trajectory_pb2.LocatedRegion]) -> dict[str, float]:
    """Figures of one PNG file and of the regions with text that a reward found in it.

    dark: share of pixels with luma below DARK_BELOW. saturated: share with HSV saturation above SATURATED_ABOVE and
    value above BRIGHT_ABOVE. sharpness: mean |Laplacian| of the luma, in grey levels of 255. lightness, a, b: mean
    CIELAB (D50), lightness in [0, 100]. text_area: share of pixels inside text regions. background_entropy: bits of the
    colour histogram outside of them, BINS a channel, in [0, 6]; absent where they cover everything. text_contrast: mean
    over text regions of the 95th less the 5th percentile of the luma, in [0, 1]; absent where there is none.

    Raises:
        PIL.UnidentifiedImageError: the file is no PNG.
    """
    with Image.open(io.BytesIO(file), formats=["PNG"]) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(image, np.float64) / 255
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    masks = [_inside(image.size, region.polygon) for region in regions if region.text and region.polygon]
    text = np.any(masks, axis=0) if masks else np.zeros(luma.shape, bool)
    return (
        {"dark": float((luma < DARK_BELOW).mean()), "saturated": _saturated(pixels), "sharpness": _sharpness(luma)}
        | dict(zip(("lightness", "a", "b"), _lab(image), strict=True))
        | {"text_area": float(text.mean())}
        | ({} if text.all() else {"background_entropy": _entropy(pixels[~text])})
        | _contrast(luma, masks)
    )


def _saturated(pixels: Floats) -> float:
    high, low = pixels.max(-1), pixels.min(-1)
    return float(((high - low > SATURATED_ABOVE * high) & (high > BRIGHT_ABOVE)).mean())


def _sharpness(luma: Floats) -> float:
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(255 * np.abs(4 * inner - around).mean())


def _lab(image: Image.Image) -> tuple[float, float, float]:
    converted = ImageCms.applyTransform(image, _TO_LAB)
    assert converted is not None  # noqa: S101  # it is None only when it works in place
    lightness, a, b = np.asarray(converted).reshape(-1, 3).T
    return float(lightness.mean() / 2.55), float(a.view(np.int8).mean()), float(b.view(np.int8).mean())


def _entropy(colours: Floats) -> float:
    """Bits of the histogram of colours [N, 3] in [0, 1]."""
    bins = np.minimum(colours * BINS, BINS - 1).astype(np.int64) @ np.array([BINS * BINS, BINS, 1])
    shares = np.bincount(bins) / len(bins)
    return float((shares[shares > 0] * -np.log2(shares[shares > 0])).sum())


def _contrast(luma: Floats, masks: Sequence[npt.NDArray[np.bool_]]) -> dict[str, float]:
    spans = [np.subtract(*np.percentile(luma[mask], (95, 5))) for mask in masks if mask.any()]
    return {"text_contrast": float(np.mean(spans))} if spans else {}


def _inside(size: tuple[int, int], polygon: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Pixels [H, W] inside a polygon x0 y0 x1 y1 …; size: (width, height)."""
    mask = Image.new("1", size)
    ImageDraw.Draw(mask).polygon(list(polygon), fill=1)
    return np.asarray(mask)
