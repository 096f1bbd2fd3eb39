"""Tokens as bytes: a site takes as many whole bytes as its bits need, little-endian.

A site is one position of a grid. It holds a codebook index, or the bits of a bitwise token with bit j as 1 << j.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MAX_BITS = 64


def site_bytes(bits: int) -> int:
    """Bytes that one site of ``bits`` bits takes, 1 to 8."""
    return -(-bits // 8)


def pack(tokens: npt.ArrayLike, bits: int) -> bytes:
    """Bytes of tokens [n] of ``bits`` bits each, int64 (64-bit tokens in two's complement); higher bits are cut off."""
    sites = np.ascontiguousarray(tokens, dtype="<i8").view(np.uint8).reshape(-1, 8)
    return sites[:, : site_bytes(bits)].tobytes()


def unpack(data: bytes, bits: int) -> npt.NDArray[np.uint64]:
    """Tokens uint64 [n] out of their bytes; ``view(numpy.int64)`` is what torch takes.

    Raises:
        ValueError: the number of bytes is no multiple of a site's.
    """
    width = site_bytes(bits)
    if len(data) % width:
        raise ValueError(f"{len(data)} bytes are no multiple of the {width} that a site of {bits} bits takes")
    sites = np.zeros((len(data) // width, 8), np.uint8)
    sites[:, :width] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return sites.view("<u8").reshape(-1).astype(np.uint64, copy=False)
