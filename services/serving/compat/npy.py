"""An .npy file of images out of a request, judged by its header before anything is set aside for it."""

from __future__ import annotations

import io
import math
import tokenize
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from varl.services.serving.status import FieldFault, RequestRejectedError, cut, invalid, shown

_READERS: Mapping[tuple[int, int], Callable[[io.BytesIO], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_PNG_LEVEL = 1  # the file lives for one request: speed before size


def read_images(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [B, H, W, 3] as ``np.save`` wrote it, without a copy; objects are never unpickled.

    Raises:
        RequestRejectedError: INVALID_REQUEST for another type or shape, or where the bytes do not match the header.

    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        shape, fortran_order, dtype = _READERS[version](stream)
    except (LookupError, ValueError, RecursionError, MemoryError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise invalid(FieldFault("array", f"no .npy header: {cut(str(error), 200)}")) from error
    sound = all(type(side) is int and side > 0 for side in shape)  # a header may say True, which is 1 in Python alone
    if dtype != np.uint8 or len(shape) != 4 or not sound or shape[3] != 3:
        raise _fault(f"{shown(dtype)} of shape {shown(shape)}; uint8 of shape [B, H, W, 3] is taken")
    start = stream.tell()
    if math.prod(shape) != len(data) - start:
        raise _fault(f"{len(data) - start} bytes follow the header, which declares {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape, order="F" if fortran_order else "C")


def png_files(images: npt.NDArray[np.uint8]) -> list[bytes]:
    """One PNG file an image, without loss; takes milliseconds an image."""
    return [_png(image) for image in images]


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _fault(detail: str) -> RequestRejectedError:
    return invalid(FieldFault("array", detail))
