"""Image files that are made to cost, and those that cameras make."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import (
    encode,
    exif,
    gradient,
    png_chunk,
    png_file,
    progressive,
    with_chunks,
    with_segments,
)
from tests.support.paths import ROOT
from varl.services.serving.image_parts import MAX_CHUNKS, MAX_SCANS, exif_orientation, parts_of
from varl.services.serving.images import ImageLimits, decode_image
from varl.services.serving.scoring import ErrorCode, Pixels, SampleError

LIMITS = ImageLimits(8 * 2**20, 2048 * 2048, 20, 8)
CASES = ROOT.parent / "shared" / "cases"
JPEG, PNG, WEBP = (encode(gradient(64, 64), kind) for kind in ("JPEG", "PNG", "WEBP"))


def decoded(data: bytes) -> Pixels:
    result = decode_image(data, LIMITS)
    assert not isinstance(result, SampleError), result
    return result


def refusal(data: bytes) -> str:
    result = decode_image(data, LIMITS)
    assert isinstance(result, SampleError)
    assert result.code is ErrorCode.BAD_IMAGE
    assert len(result.detail) < 2100
    return result.detail


EXIF_HEAD = b"\xff\xe1\x00\x08Exif\0\0"
REFUSED = {
    "scans": (progressive(gradient(512, 512), 5000), "scans"),
    "EXIF segments": (with_segments(JPEG, EXIF_HEAD, 100_000), "segments"),
    "comments": (with_segments(JPEG, b"\xff\xfe\x00\x02", 100_000), "segments"),
    "tables": (with_segments(JPEG, b"\xff\xdd\x00\x04\x00\x00", 1000), "tables"),
    "chunks": (with_chunks(PNG, png_chunk(b"teXt") * 600_000), "chunks"),
    "chunks without pixels": (with_chunks(PNG, png_chunk(b"IDAT") * (MAX_CHUNKS + 1)), "chunks"),
    "WebP chunks": (WEBP[:12] + b"ABCD\0\0\0\0" * 100_000 + WEBP[12:], "chunks"),
    "an APNG": (with_chunks(PNG, png_chunk(b"acTL", struct.pack(">II", 2, 0))), "animation"),
}


@pytest.mark.parametrize(("data", "detail"), REFUSED.values(), ids=REFUSED)
def test_files_of_too_many_parts_are_refused_before_they_are_decoded(data: bytes, detail: str) -> None:
    with pytest.raises(ValueError, match=detail):
        parts_of(data)
    assert detail in refusal(data)


IGNORED = {
    "segments that say nothing of pixels": with_segments(JPEG, b"\xff\xe1\xff\xffExif\0\0" + b"x" * 65_527, 100),
    "fill": JPEG[:2] + b"\xff" * 7_000_000 + JPEG[2:],
    "junk between segments": JPEG[:20] + b"\0" * 7_000_000 + JPEG[20:],
    "what follows the picture": JPEG + JPEG * 1000,
    "text that unfolds": with_chunks(PNG, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20 - 99))) * 4000),
    "a profile": with_chunks(PNG, png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**24)))),
    "a second header": with_chunks(PNG, png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**20, 2**20, 8, 2, 0, 0, 0))),
    "an APNG of one frame": with_chunks(PNG, png_chunk(b"acTL", struct.pack(">II", 1, 0))),
    "WebP metadata": encode(gradient(64, 64), "WEBP", exif=b"Exif\0\0" + exif(1), xmp=b"x" * 10**6),
}


@pytest.mark.parametrize("data", IGNORED.values(), ids=IGNORED)
def test_what_pixels_do_not_come_from_falls_away(data: bytes) -> None:
    kind = Image.open(io.BytesIO(data)).format if data[:4] == b"RIFF" else ("PNG" if data[:1] == b"\x89" else "JPEG")
    assert (decoded(data) == decoded({"PNG": PNG, "JPEG": JPEG, "WEBP": WEBP}[str(kind)])).all()
    assert len(parts_of(data).data) < 10_000


def test_as_many_scans_as_encoders_make_are_decoded() -> None:
    image = gradient(256, 256)
    assert decoded(encode(image, "JPEG", progressive=True)).shape == (256, 256, 3)
    assert decoded(progressive(image, MAX_SCANS)).shape == (256, 256, 3)


def test_pixels_that_unfold_beyond_the_picture_are_not_unfolded() -> None:
    squeezed = zlib.compressobj(9)
    pixels = squeezed.compress(bytes(64 * 193)) + squeezed.compress(bytes(2**28)) + squeezed.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND")
    assert not decoded(data).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_orientation_turns_as_pillow_would(kind: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encode(gradient(48, 32), kind, exif=tags)
    from PIL import ImageOps

    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (decoded(data) == expected).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_found_among_other_tags_and_bounded(order: str) -> None:
    assert exif_orientation(exif(6, order, 40)) == 6
    assert exif_orientation(b"Exif\0\0" + exif(8, order)) == 8
    assert exif_orientation(exif(9, order)) == 1
    assert exif_orientation(exif(6, order, 60_000)) == 1  # no camera writes so many
    whole = exif(6, order, 3)
    assert {exif_orientation(whole[:length]) for length in range(len(whole))} == {1}
    assert exif_orientation(whole[:4] + b"\xff\xff\xff\xff" + whole[8:]) == 1


@pytest.mark.parametrize("name", ["photo_with_preview.jpg", "photo_preview_stripped.jpg"])
def test_a_photograph_is_its_first_picture(name: str) -> None:
    if not CASES.is_dir():
        pytest.skip("the cases are not beside this checkout")
    pixels = decoded((CASES / name).read_bytes())
    assert pixels.shape == (128, 256, 3)


def test_a_camera_s_file_of_two_pictures_is_the_first() -> None:
    buffer = io.BytesIO()
    gradient(64, 64).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert (np.abs(decoded(buffer.getvalue()).astype(int) - np.asarray(gradient(64, 64))) < 60).all()


GREY16 = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257


def rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


def test_the_transparent_shade_of_16_bit_grey_is_white() -> None:
    key = int(GREY16[3, 4])
    pixels = decoded(png_file(16, 16, 16, 0, rows(GREY16), png_chunk(b"tRNS", struct.pack(">H", key))))
    expected = (GREY16 >> 8).astype(np.uint8)
    expected[3, 4] = 255
    assert (pixels == expected[:, :, None]).all()
    near = decoded(png_file(16, 16, 16, 0, rows(GREY16), png_chunk(b"tRNS", struct.pack(">H", key + 1))))
    assert near[3, 4, 0] == key >> 8  # 16 bits are compared, not 8


def test_the_transparent_colour_of_16_bit_rgb_is_white() -> None:
    colours = np.stack([GREY16, GREY16 + 1, GREY16 + 2], axis=2)
    key = struct.pack(">HHH", *(int(value) for value in colours[5, 6]))
    pixels = decoded(png_file(16, 16, 16, 2, rows(colours), png_chunk(b"tRNS", key)))
    expected = (colours >> 8).astype(np.uint8)
    expected[5, 6] = 255
    assert (pixels == expected).all()
    near = struct.pack(">HHH", *(int(value) + 1 for value in colours[5, 6]))
    assert (decoded(png_file(16, 16, 16, 2, rows(colours), png_chunk(b"tRNS", near)))[5, 6] < 255).all()


@pytest.mark.parametrize(("depth", "colour", "key"), [(8, 0, b"\0\5"), (8, 2, b"\0\5\0\5\0\5"), (1, 0, b"\0\1")])
def test_transparent_colours_of_fewer_bits_are_white(depth: int, colour: int, key: bytes) -> None:
    width = 16 * depth // 8 * (3 if colour == 2 else 1)
    content = b"\0" + (b"\5" * width if depth == 8 else b"\xff" * width)
    pixels = decoded(png_file(16, 16, depth, colour, content * 16, png_chunk(b"tRNS", key)))
    assert (pixels == 255).all()


def test_the_case_of_16_bit_grey_is_read() -> None:
    if not CASES.is_dir():
        pytest.skip("the cases are not beside this checkout")
    pixels = decoded((CASES / "png_ct0_16bit_trns.png").read_bytes())
    assert pixels.shape[2] == 3
    assert (pixels == 255).all(axis=2).any()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_other_files_are_told_what_to_do(kind: str) -> None:
    try:
        data = encode(gradient(), kind)
    except (KeyError, OSError):
        pytest.skip(f"Pillow writes no {kind} here")
    assert "save it, or its first frame, as PNG" in refusal(data)
