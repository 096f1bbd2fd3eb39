"""Image files of many kinds, sound ones and headers that promise more than they hold."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 32, height: int = 16) -> Image.Image:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    return Image.fromarray(
        np.stack(
            [np.tile(ramp, (height, 1)), np.full((height, width), 9, np.uint8), np.tile(ramp[::-1], (height, 1))],
            axis=2,
        )
    )


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I", 0)
        + b"IDAT"
    )


def webp_header(width: int, height: int) -> bytes:
    body = (
        b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\0\0\0\0"
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def progressive(image: Image.Image, scans: int) -> bytes:
    """A JPEG with its last scan repeated until there are so many; each goes over every pixel."""
    data = encode(image, "JPEG", progressive=True, quality=60)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    return data[:-2] + data[starts[-1] : -2] * (scans - len(starts)) + data[-2:]


def with_segments(jpeg: bytes, segment: bytes, count: int) -> bytes:
    """A JPEG with a segment many times at its start."""
    return jpeg[:2] + segment * count + jpeg[2:]


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(png: bytes, chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    return png[:33] + chunks + png[33:]


def png_file(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of raw rows, each with its filter byte; ``extra`` are chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def exif(orientation: int, order: str = "<", entries: int = 1) -> bytes:
    """EXIF data with a number of tags, of which the last is the orientation."""
    tags = [(0x010E, 3, 1, 7)] * (entries - 1) + [(0x0112, 3, 1, orientation)]
    packed = b"".join(struct.pack(f"{order}HHIHxx", *tag) for tag in tags)
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, entries) + packed
