"""Large numbers in words."""

from __future__ import annotations

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))


def amount(count: float) -> str:
    """Three digits and the prefix of a unit, 1.23 T; thousands of the largest stay 1230 P."""
    size, prefix = next(((size, prefix) for size, prefix in PREFIXES if count >= size), (1, ""))
    return f"{count / size:.3g} {prefix}" if count < 1000 * size else f"{count / size:.0f} {prefix}"


def size_of(count: float) -> str:
    """Bytes, in units of 1000."""
    return f"{amount(count)}B"
