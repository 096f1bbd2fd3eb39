"""Images from callers, judged by their header before a pixel is decoded."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from varl.services.serving.scoring import ErrorCode, Pixels, SampleError

_FORMATS = ("PNG", "JPEG", "WEBP")
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
    if not _has_magic(data):
        return SampleError(ErrorCode.BAD_IMAGE, "image: the bytes are not a PNG, JPEG or WebP file")
    try:
        refusal = _refuse(_webp_size(data), limits)  # Pillow's WebP reader sets a canvas aside on opening
        return refusal or _decode(data, limits)
    except Image.DecompressionBombError as error:
        return SampleError(ErrorCode.IMAGE_TOO_LARGE, f"image: {error}")
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others on broken files
        return SampleError(ErrorCode.BAD_IMAGE, f"image: {type(error).__name__}: {error}")


def _has_magic(data: bytes) -> bool:
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _decode(data: bytes, limits: ImageLimits) -> Pixels | SampleError:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        refusal = _refuse(image.size, limits)
        if refusal:
            return refusal
        if getattr(image, "n_frames", 1) != 1:
            return SampleError(ErrorCode.BAD_IMAGE, "image: an animation; one frame is wanted")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_rgb(image))


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


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) as a WebP file's first chunk declares them; None for other formats."""
    if data[:4] != b"RIFF":
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("a WebP file without a picture")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert() would clip, not scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
