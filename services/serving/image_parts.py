"""What decoding a picture needs of its file, found in one walk over its segments or chunks.

A decoder that is handed a whole file does what the file says: a JPEG of 144 KB may have thousands of scans, each of
which goes over every pixel; thousands of EXIF segments are joined at a cost that grows with their square; a run of fill
is read byte by byte. So it is handed no more than pixels come from, in bounded numbers. What cameras add, previews and
second pictures (MPO) among it, falls away with the rest.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_SEGMENTS = 4096  # of a JPEG file; an ICC profile or a preview of 8 MiB needs 130
MAX_TABLES = 256  # segments that decoding needs
MAX_SCANS = 32  # encoders make 10 to 20 of a progressive file
MAX_CHUNKS = 16_384  # of a PNG or WebP file; encoders put 8 KiB or more into one
_MAX_TAGS = 512


class Parts(NamedTuple):
    """A file that holds one picture and nothing else; its EXIF orientation, 1 to 8; (width, height) where it is told.

    ``size`` is None for JPEG, whose decoder looks at nothing before its caller has seen the size.
    """

    data: bytes
    orientation: int = 1
    size: tuple[int, int] | None = None


def parts_of(data: bytes) -> Parts:
    """The parts of a PNG, JPEG or WebP file, told by its first bytes.

    Raises:
        ValueError: another file, an animation, or one with more parts than pictures have.

    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    kind = next((name for name, magic in _OTHERS.items() if re.match(magic, data, re.DOTALL)), "")
    advice = f" but {kind}: save it, or its first frame, as PNG" if kind else ""
    raise ValueError(f"the bytes are not a PNG, JPEG or WebP file{advice}")


_OTHERS = {
    "a GIF": rb"GIF8",
    "a TIFF": rb"II\*\0|MM\0\*",
    "a BMP": rb"BM.{8}",
    "an AVIF": rb".{4}ftypavi",
    "a HEIF": rb".{4}ftyp(hei|hev|mif|msf)",
    "a JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "an SVG": rb"\s*<(\?xml|svg)",
}

# JPEG: segments after markers; what stands between two of them is a scan's data, or junk.

_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # not stuffing, fill, or a restart within a scan
_EOI, _SOI, _SOS, _APP1 = 0xD9, 0xD8, 0xDA, 0xE1
_TABLES = {*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE} - {0xC8}  # frames, tables, restarts; JFIF's and Adobe's colours


def _jpeg(data: bytes) -> Parts:
    kept, orientation, scans, tables, scan_at = [data[:2]], 0, 0, 0, 0
    for count, (marker, start, stop) in enumerate(_segments(data), 1):
        if scan_at:
            kept.append(data[scan_at:start])
            scan_at = 0
        if marker == _EOI:
            kept.append(data[start:stop])
            break
        if marker == _SOS:
            scans, scan_at = scans + 1, stop
        elif marker in _TABLES:
            tables += 1
        elif marker == _APP1 and not orientation and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[start + 10 : stop])
        if marker == _SOS or marker in _TABLES:
            kept.append(data[start:stop])
        _check(scans, MAX_SCANS, "scans")
        _check(tables, MAX_TABLES, "tables")
        _check(count, MAX_SEGMENTS, "segments")
    if scan_at:  # cut short; the decoder says so
        kept.append(data[scan_at:])
    return Parts(b"".join(kept), orientation or 1)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where it stands, where its segment ends), up to the end of the file or the picture."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, start, at = data[found.end() - 1], found.start(), found.end()
        if marker not in (_EOI, _SOI):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if at > len(data):
            return
        yield marker, start, at


# PNG and WebP: chunks with a length each.


def _png(data: bytes) -> Parts:
    kept, seen, orientation = [data[:8]], set[bytes](), 0
    for count, (kind, start, stop) in enumerate(_chunks(data, 8, ">I4s", tail=4), 1):
        _check(count, MAX_CHUNKS, "chunks")
        if kind == b"acTL" and data[start + 8 : start + 12] != b"\0\0\0\1":
            raise ValueError("an animation; save the frame that is meant as PNG")
        if kind == b"eXIf" and not orientation:
            orientation = exif_orientation(data[start + 8 : stop - 4])
        if (kind in _PNG_ONCE and kind not in seen) or (kind == b"IDAT" and stop > start + 12):
            kept.append(data[start:stop])
        seen.add(kind)
        if kind == b"IEND":
            break
    if data[12:16] != b"IHDR" or len(data) < 24:
        raise ValueError("a PNG file without a header")
    width, height = struct.unpack_from(">II", data, 16)
    return Parts(b"".join(kept), orientation or 1, (width, height))


_PNG_ONCE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IEND"))


def _webp(data: bytes) -> Parts:
    kept, seen, orientation = list[bytes](), set[bytes](), 0
    for count, (kind, start, stop) in enumerate(_chunks(data, 12, "<4sI", even=True), 1):
        _check(count, MAX_CHUNKS, "chunks")
        if kind == b"ANMF" or (kind == b"VP8X" and data[start + 8] & 2):
            raise ValueError("an animation; save the frame that is meant as PNG")
        if kind == b"EXIF" and not orientation:
            orientation = exif_orientation(data[start + 8 : stop])
        if kind in _WEBP_ONCE and kind not in seen:
            chunk = data[start:stop]
            kept.append(chunk[:8] + bytes([chunk[8] & 0x10]) + chunk[9:] if kind == b"VP8X" else chunk)
        seen.add(kind)
    body = b"WEBP" + b"".join(kept)
    return Parts(b"RIFF" + struct.pack("<I", len(body)) + body, orientation or 1, _webp_size(kept))


_WEBP_ONCE = frozenset((b"VP8X", b"ALPH", b"VP8 ", b"VP8L"))


def _webp_size(chunks: list[bytes]) -> tuple[int, int]:
    """(width, height) as the first chunk declares them."""
    chunk = chunks[0] if chunks else b""
    if chunk.startswith(b"VP8X"):
        return 1 + int.from_bytes(chunk[12:15], "little"), 1 + int.from_bytes(chunk[15:18], "little")
    if chunk.startswith(b"VP8L"):
        bits = struct.unpack_from("<I", chunk, 9)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk.startswith(b"VP8 "):
        width, height = struct.unpack_from("<HH", chunk, 14)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("a WebP file without a picture")


def _chunks(data: bytes, at: int, head: str, tail: int = 0, even: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where it stands, where it ends); the last one may be cut short."""
    while at + 8 <= len(data):
        first, second = struct.unpack_from(head, data, at)
        kind, size = (first, second) if isinstance(first, bytes) else (second, first)
        stop = at + 8 + size + tail + (size & 1 if even else 0)
        yield kind, at, min(stop, len(data))
        at = stop


def exif_orientation(tiff: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data of a picture declares; 1 where it declares none."""
    tiff = tiff.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    at: int = struct.unpack_from(f"{order}I", tiff, 4)[0]
    count = min(_MAX_TAGS, *struct.unpack(f"{order}H", tiff[at : at + 2].ljust(2, b"\0")))
    entries = tiff[at + 2 : at + 2 + 12 * count]
    for tag, kind, value in struct.iter_unpack(f"{order}HH4x4s", entries[: len(entries) // 12 * 12]):
        if tag == 0x0112 and kind in (3, 4):  # SHORT, LONG
            found: int = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", value)[0]
            return found if 1 <= found <= 8 else 1
    return 1


def _check(count: int, most: int, what: str) -> None:
    if count > most:
        raise ValueError(f"more than {most} {what}")
