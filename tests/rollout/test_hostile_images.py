"""Strange image files through the real HTTP API.

Each has a score or a typed error, and never harms the sample beside it.
"""

from __future__ import annotations

import base64
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encode, gradient, png_header, webp_header
from tests.support.toy_process import ToyProcess, toy_service

GOOD = encode(Image.new("RGB", (16, 16), (255, 0, 0)), "PNG")
SCORE, BAD, TOO_LARGE = "score", "bad_image", "image_too_large"


@pytest.fixture(scope="module")
def service() -> Iterator[ToyProcess]:
    with toy_service() as running:
        yield running


def frames(kind: str) -> bytes:
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=50)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(gradient(), "JPEG", exif=exif)


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def with_chunk(extra: bytes) -> bytes:
    """A PNG file with one more chunk behind its header."""
    return GOOD[:33] + extra + GOOD[33:]


def noise(mode: str, kind: str) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).convert(mode), kind)


CORPUS = [
    ("a good one", GOOD, SCORE),
    ("nothing", b"", BAD),
    ("a PNG cut in its header", GOOD[:20], BAD),
    ("a PNG cut in its pixels", encode(gradient(64, 64), "PNG")[:-60], BAD),
    ("a JPEG cut in its pixels", encode(gradient(64, 64), "JPEG")[:-100], BAD),
    ("a WebP cut in its pixels", encode(gradient(64, 64), "WEBP")[:-20], BAD),
    ("a PNG of 100000 x 100000 in 50 bytes", png_header(100_000, 100_000)[:50], TOO_LARGE),
    ("a WebP of 16384 x 16384 in 30 bytes", webp_header(16384, 16384), TOO_LARGE),
    ("a PNG of 0 x 0", png_header(0, 0), BAD),
    ("1 x 1", encode(Image.new("RGB", (1, 1)), "PNG"), BAD),
    ("1 x 20000", encode(Image.new("RGB", (1, 20_000)), "PNG"), BAD),
    ("20 x 20000", encode(Image.new("1", (20, 20_000)), "PNG"), TOO_LARGE),
    ("CMYK", noise("CMYK", "JPEG"), SCORE),
    ("grey", noise("L", "PNG"), SCORE),
    ("black and white", noise("1", "PNG"), SCORE),
    ("palette", noise("P", "PNG"), SCORE),
    ("palette with transparency", encode(Image.new("P", (16, 16)), "PNG", transparency=b"\x80\x00"), SCORE),
    ("grey with transparency", noise("LA", "PNG"), SCORE),
    ("16 bits", encode(Image.fromarray(np.full((16, 16), 40_000, np.uint16)), "PNG"), SCORE),
    ("turned by its EXIF", rotated(), SCORE),
    ("junk for EXIF", encode(gradient(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40), SCORE),
    ("junk for a colour profile", encode(gradient(), "PNG", icc_profile=b"\0" * 300), SCORE),
    ("a colour profile that does not inflate", with_chunk(chunk(b"iCCP", b"x\0\0" + b"junk")), SCORE),
    (
        "a text chunk that inflates to 200 MB",
        with_chunk(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
        SCORE,  # the decoder never sees it
    ),
    ("a wrong checksum", GOOD[:30] + b"\0" + GOOD[31:], BAD),
    ("animated PNG", frames("PNG"), BAD),
    ("animated WebP", frames("WEBP"), BAD),
    ("animated GIF", frames("GIF"), BAD),
    ("TIFF", noise("RGB", "TIFF"), BAD),
    ("a gzip bomb", gzip.compress(bytes(10_000_000)), BAD),
    ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", BAD),
    ("a URL", b"http://127.0.0.1/a.png", BAD),
]


def post(service: ToyProcess, files: dict[str, bytes]) -> list[dict[str, Any]]:
    samples = [{"id": name, "prompt": "", "image": base64.b64encode(data).decode()} for name, data in files.items()]
    answer = httpx.post(f"{service.http}/v1/score", json={"samples": samples}, timeout=240)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def outcome(result: dict[str, Any]) -> str:
    return result["error"]["code"] if "error" in result else SCORE


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in CORPUS], ids=[row[0] for row in CORPUS])
def test_a_strange_file_has_its_own_outcome(service: ToyProcess, data: bytes, expected: str) -> None:
    strange, good = post(service, {"strange": data, "good": GOOD})
    assert (outcome(strange), good["value"]) == (expected, 1.0), strange


def test_all_of_them_at_once(service: ToyProcess) -> None:
    results = post(service, {name: data for name, data, _ in CORPUS})
    assert [outcome(result) for result in results] == [expected for _, _, expected in CORPUS]


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "image/png"), ("a.exe", "application/x-msdownload"), ("a.gif", "image/gif")]
)
def test_the_name_and_type_of_a_file_say_nothing(service: ToyProcess, name: str, kind: str) -> None:
    jpeg = io.BytesIO(encode(Image.new("RGB", (16, 16)), "JPEG"))
    files: Any = {"request": (None, '{"samples": [{"id": "a", "prompt": ""}]}'), "a": (name, jpeg, kind)}
    answer = httpx.post(f"{service.http}/v1/score", files=files, timeout=240)
    assert [outcome(result) for result in answer.json()["results"]] == [SCORE]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_not_inflated(service: ToyProcess, encoding: str) -> None:
    bomb = gzip.compress(b" " * 100_000_000) if encoding == "gzip" else zlib.compress(b" " * 100_000_000)
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = httpx.post(f"{service.http}/v1/score", content=bomb, headers=headers, timeout=240)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")
