"""Image files written as Base64, in the forms that clients have."""

from __future__ import annotations

import binascii
from base64 import b64decode

from varl.services.serving.scoring import ErrorCode, SampleError

_STANDARD = bytes.maketrans(b"-_", b"+/")
_SPACE = b" \t\r\n\f\v"


def image_bytes(text: str, field: str) -> bytes | SampleError:
    """The bytes of an image given as Base64 or as a data: URL; ``field`` names it in the error.

    The URL-safe alphabet, line breaks and missing padding are taken as well. No other URL is looked at.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            return SampleError(ErrorCode.BAD_IMAGE, f"{field}: a data: URL that is not ;base64")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return _lenient(text, field)


def _lenient(text: str, field: str) -> bytes | SampleError:
    try:
        digits = text.encode("ascii").translate(_STANDARD, _SPACE).rstrip(b"=")
        return b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        why = "a character beyond ASCII" if isinstance(error, UnicodeError) else error
        return SampleError(ErrorCode.BAD_IMAGE, f"{field}: no Base64: {why}")
