from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.image_files import encode, gradient, png_header, webp_header
from varl.services.serving.images import ImageLimits, decode_image
from varl.services.serving.scoring import ErrorCode, Pixels, SampleError

pytestmark = pytest.mark.filterwarnings(
    "ignore::PIL.Image.DecompressionBombWarning"
)  # as the module does outside pytest
LIMITS = ImageLimits(max_bytes=100_000, max_pixels=256 * 256, max_aspect_ratio=4, min_side=8)


def decoded(data: bytes, limits: ImageLimits = LIMITS) -> Pixels:
    result = decode_image(data, limits)
    assert not isinstance(result, SampleError), result
    return result


def refused(data: bytes, limits: ImageLimits = LIMITS) -> ErrorCode:
    result = decode_image(data, limits)
    assert isinstance(result, SampleError)
    assert result.detail.startswith("image: ")
    return result.code


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"lossless": True, "exif": b"Exif\0\0"})]
)
def test_lossless_formats_come_back_exactly(kind: str, options: dict[str, Any]) -> None:
    pixels = decoded(encode(gradient(), kind, **options))
    assert pixels.dtype == np.uint8
    assert (pixels == np.asarray(gradient())).all()


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_lossy_formats_come_back_nearly(kind: str, options: dict[str, Any]) -> None:
    difference = decoded(encode(gradient(), kind, **options)).astype(int) - np.asarray(gradient())
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (16, 16), (255, 255, 255)).convert(mode)
    pixels = decoded(encode(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert pixels.shape == (16, 16, 3)
    assert (pixels > 250).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 0x4000, 0x8000, 0xFFFF] * 4] * 16, dtype=np.uint16)
    assert decoded(encode(Image.fromarray(values), "PNG"))[0, :4, 0].tolist() == [0, 0x40, 0x80, 0xFF]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new(mode, (16, 16), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert (decoded(encode(image, "PNG")) == 255).all()


def test_palette_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30] * 256)
    assert (decoded(encode(image, "PNG", transparency=0)) == 255).all()


def test_exif_orientation_is_applied() -> None:
    image = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    pixels = decoded(encode(image, "PNG", exif=exif))
    assert (pixels == np.asarray(image.transpose(Image.Transpose.ROTATE_270))).all()


@pytest.mark.parametrize("header", [png_header, webp_header])
@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (12_000, 12_000), (257, 256)])
def test_bombs_are_refused_from_the_header(header: Callable[[int, int], bytes], width: int, height: int) -> None:
    assert refused(header(width, height)) is ErrorCode.IMAGE_TOO_LARGE


def test_jpeg_size_is_refused_from_the_header() -> None:
    data = encode(Image.new("RGB", (1000, 900)), "JPEG")
    assert refused(data[:700]) is ErrorCode.IMAGE_TOO_LARGE  # the pixels are not even there


def test_limits_are_inclusive() -> None:
    assert decoded(encode(Image.new("RGB", (256, 256)), "PNG")).shape == (256, 256, 3)
    assert decoded(encode(Image.new("RGB", (8, 32)), "PNG")).shape == (32, 8, 3)
    data = encode(gradient(), "PNG")
    exact = ImageLimits(len(data), 10_000, 4, 8)
    assert decoded(data, exact).shape == (16, 32, 3)
    assert refused(data + b"\0", exact) is ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("size", "code"),
    [((1, 1), ErrorCode.BAD_IMAGE), ((7, 20), ErrorCode.BAD_IMAGE), ((8, 33), ErrorCode.IMAGE_TOO_LARGE)],
)
def test_odd_shapes(size: tuple[int, int], code: ErrorCode) -> None:
    assert refused(encode(Image.new("RGB", size), "PNG")) is code


def test_animations_are_refused() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        assert refused(encode(frames[0], kind, save_all=True, append_images=frames[1:])) is ErrorCode.BAD_IMAGE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = encode(gradient(64, 64), kind)
    assert {refused(data[:length]) for length in (0, 4, 12, 20, len(data) // 2, len(data) - 40)} == {
        ErrorCode.BAD_IMAGE
    }


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    assert refused(encode(gradient(), kind)) is ErrorCode.BAD_IMAGE


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damage_never_escapes_as_an_exception(kind: str, place: int, junk: bytes) -> None:
    data = encode(gradient(), kind)
    result = decode_image(data[:place] + junk + data[place + len(junk) :], LIMITS)
    assert isinstance(result, SampleError) or (result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X"]),
)
def test_junk_is_a_bad_image_or_too_large(junk: bytes, magic: bytes) -> None:
    assert refused(magic + junk) in (ErrorCode.BAD_IMAGE, ErrorCode.IMAGE_TOO_LARGE)
