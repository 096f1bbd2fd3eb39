"""multipart/form-data out of a body that is there as a whole.

The parsers that there are read byte by byte in Python: lines that nearly are the boundary take a second a few MB. Here
the boundary is looked for by ``bytes.split``, in time that grows with the body alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from python_multipart.multipart import parse_options_header

# Splitting a header into its parameters takes time that grows with the square of its length.
_MAX_HEAD = 2048  # bytes of a part's header fields
_MAX_TYPE = 1024  # bytes of a Content-Type header
_MAX_BOUNDARY = 256
_ENCODED = re.compile("%(22|09|0D|0A)")  # by clients, of a name: a quote, a tab, the ends of a line


class Part(NamedTuple):
    """A part: its name, whether it is a file, and what it holds."""

    name: str
    is_file: bool
    data: bytes


def decoded_name(name: str) -> str:
    """A part's name with what clients encode in it decoded, and nothing else: they leave a % as it is."""
    return _ENCODED.sub(lambda match: chr(int(match[1], 16)), name)


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type header names; raises ValueError where there is none, or another charset."""
    if len(content_type) > _MAX_TYPE:
        raise ValueError("a content type of too many parameters")
    options = parse_options_header(content_type)[1]
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise ValueError("a charset other than UTF-8")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise ValueError("no boundary, or one that is too long")
    return boundary


def parts_of(body: bytes, boundary: bytes, most: int) -> list[Part]:
    """The parts of a body in their order.

    Raises:
        ValueError: there are more than ``most``, one has no name, or the body does not end with the boundary.

    """
    if body.count(b"--" + boundary) > most + 1:
        raise ValueError(f"more than {most} parts")
    _, *sections = (b"\r\n" + body).split(b"\r\n--" + boundary)  # what stands before the first is nobody's
    parts = list[Part]()
    for section in sections:
        if section.startswith(b"--"):
            return parts
        parts.append(_part(section))
    raise ValueError("the last boundary is missing")


def _part(section: bytes) -> Part:
    end = section.find(b"\r\n\r\n", 0, _MAX_HEAD)
    if end < 0 or section[: section.index(b"\r\n")].strip(b" \t"):
        raise ValueError("a part without its header fields, or with too many")
    for line in section[:end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            options = parse_options_header(value.strip())[1]
            if b"name" in options:
                return Part(options[b"name"].decode(), b"filename" in options, section[end + 4 :])
    raise ValueError("a part without a name")
