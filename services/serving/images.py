"""Images from callers, judged by their header before a pixel is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from varl.services.serving.image_parts import Parts, parts_of
from varl.services.serving.scoring import ErrorCode, Pixels, SampleError
from varl.services.serving.status import cut

_FORMATS = ("PNG", "JPEG", "WEBP")
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Sizes come from the header and are refused by ImageLimits; Pillow's own, much higher, threshold has nothing to add.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be: bytes of the file, pixels, sides in pixels, longer side / shorter side."""

    max_bytes: int
    max_pixels: int
    max_aspect_ratio: float
    min_side: int


def decode_image(data: bytes, limits: ImageLimits) -> Pixels | SampleError:
    """A PNG, JPEG or WebP file as uint8 [H, W, 3] RGB, turned as its EXIF says, transparency laid on white.

    A SampleError where it cannot be one.
    """
    if len(data) > limits.max_bytes:
        return SampleError(ErrorCode.IMAGE_TOO_LARGE, f"image: {len(data)} bytes, at most {limits.max_bytes} are taken")
    try:
        parts = parts_of(data)
        return _refuse(parts.size, limits) or _decode(parts, limits)
    except Image.DecompressionBombError as error:
        return SampleError(ErrorCode.IMAGE_TOO_LARGE, f"image: {error}")
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others on broken files
        return SampleError(ErrorCode.BAD_IMAGE, f"image: {cut(_told(error))}")


def _told(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _decode(parts: Parts, limits: ImageLimits) -> Pixels | SampleError:
    with Image.open(io.BytesIO(parts.data), formats=_FORMATS) as image:
        refusal = _refuse(image.size, limits)
        if refusal:
            return refusal
        image.load()
        turn = _TURNS.get(parts.orientation)
        opaque = _rgb(image, parts.data)
        return np.asarray(opaque if turn is None else opaque.transpose(turn))


def _refuse(size: tuple[int, int] | None, limits: ImageLimits) -> SampleError | None:
    if size is None:
        return None
    width, height = size
    if width * height > limits.max_pixels:
        return SampleError(
            ErrorCode.IMAGE_TOO_LARGE, f"image: {width} x {height} pixels, at most {limits.max_pixels} are taken"
        )
    if min(size) < limits.min_side:
        return SampleError(
            ErrorCode.BAD_IMAGE, f"image: {width} x {height} pixels, each side must have at least {limits.min_side}"
        )
    if max(size) > limits.max_aspect_ratio * min(size):
        return SampleError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"image: {width} x {height}, longer than {limits.max_aspect_ratio:g} times its shorter side",
        )
    return None


def _rgb(image: Image.Image, data: bytes) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip, not scale
        return _from_grey16(np.asarray(image), image.info.get("transparency"))
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and data[24] == 16:  # a PNG's bits a channel
        return _keyed16(np.asarray(image), _low_bytes(data), key)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _from_grey16(grey: npt.NDArray[np.integer[Any]], key: object) -> Image.Image:
    """16-bit grey as 8-bit RGB; the one shade that is transparent, if any, as white."""
    shades = (grey.astype(np.uint32) >> 8).astype(np.uint8)
    if isinstance(key, int):
        shades[grey == key] = 255
    return Image.fromarray(shades).convert("RGB")


def _keyed16(high: Pixels, low: Pixels, key: tuple[int, ...]) -> Image.Image:
    """RGB with its one transparent colour, of 16 bits a channel, as white."""
    pixels = high.copy()
    pixels[((high.astype(np.uint16) << 8 | low) == key).all(axis=2)] = 255
    return Image.fromarray(pixels)


def _low_bytes(data: bytes) -> Pixels:
    """The lower bytes of a PNG of 16 bits a channel, of which Pillow keeps the upper ones: read in the other order."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        return np.array(image)
