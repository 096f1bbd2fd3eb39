"""Image files written as text: Base64 in the forms that callers use, data: URLs, and images inside a longer text."""

from __future__ import annotations

import re
from urllib.parse import unquote

from pybase64 import b64decode  # 20 to 40 times as fast as base64's, which holds the event loop 3 ms a megabyte

from varl.services.serving.scoring import ErrorCode, SampleError

_URL_SAFE = str.maketrans("-_", "+/")
# The first bytes of PNG, JPEG and WebP files in Base64, at the start of a run: four characters also occur inside one.
_START = re.compile(r"(?<![A-Za-z0-9+/_=-])(?:iVBORw0KGgo|[/_]9j[/_]|UklGR)")
# Lines of 60 characters and more are wrapped Base64 and go on in the next; a shorter one ends it.
_RUN = re.compile(r"(?:[A-Za-z0-9+/_-]{60,}+\r?\n)*[A-Za-z0-9+/_-]+={0,2}")


def image_file(text: str, name: str) -> bytes | SampleError:
    """The bytes of a file given as Base64 or as a data: URL; ``name`` is the field, for the error.

    Base64 may be wrapped, URL-safe and without its padding (RFC 4648, sections 3.1, 3.2 and 5). No other URL is looked
    at.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            return SampleError(ErrorCode.BAD_IMAGE, f"{name}: a data: URL that is not ;base64")
        text = unquote(text) if "%" in text else text
    try:
        return b64decode(text, validate=True)
    except ValueError:  # the common form came first: it is the only one that costs no copy
        return _other_base64(text, name)


def _other_base64(text: str, name: str) -> bytes | SampleError:
    plain = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        return SampleError(ErrorCode.BAD_IMAGE, f"{name}: no Base64: {error}")


def last_image(text: str, name: str, given: str = "") -> bytes | SampleError:
    """The last PNG, JPEG or WebP file in what a model wrote, as a data: URL or a run of Base64.

    An image that stands in ``given``, the text before the model's own, is not the model's.
    """
    start = max((match.start() for match in _START.finditer(text)), default=None)
    if start is None:
        detail = "no image in it: neither a data: URL nor the Base64 of a PNG, JPEG or WebP file"
        return SampleError(ErrorCode.BAD_IMAGE, f"{name}: {detail}")
    match = _RUN.match(text, start)
    assert match is not None  # noqa: S101 # it starts with what _START found
    if match[0] in given:
        return SampleError(ErrorCode.BAD_IMAGE, f"{name}: no image behind the prompt, whose own is not scored")
    run = "".join(match[0].split())
    return image_file(run[:-1] if len(run) % 4 == 1 else run, name)  # one character alone can be no byte
