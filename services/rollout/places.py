"""How many requests for images are taken in at a time, over both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class NoPlaceError(Exception):
    """Too many requests wait already; the same one may be taken later."""


class Places:
    """Room for ``most`` requests. For use on one event loop."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    def take(self) -> None:
        """Hold a place until ``free``. Raises NoPlaceError."""
        if self._taken >= self._most:
            raise NoPlaceError(f"{self._taken} requests are waiting, try again later")
        self._taken += 1

    def free(self) -> None:
        """Give a place back."""
        self._taken -= 1

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Raises NoPlaceError."""
        self.take()
        try:
            yield
        finally:
            self.free()
