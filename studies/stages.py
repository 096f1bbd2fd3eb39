"""What the demo says while it works: which stage it is at, and how long all that is left will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

Say = Callable[[str], None]


class StageClock:
    """Numbered stages with expected seconds; the expectations are corrected by what the finished stages took."""

    def __init__(self, expected: Mapping[str, float], say: Say) -> None:
        self._expected = dict(expected)
        self._say = say
        self._begin = time.monotonic()
        self.seconds: dict[str, float] = {}  # of the finished stages

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce one of the stages, and note how long it took."""
        number = list(self._expected).index(title) + 1
        self._say(f"\n[{number}/{len(self._expected)}] {title} (about {_span(self.left())} left in all)")
        start = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - start

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Replace expectations by better ones."""
        self._expected |= seconds

    def left(self) -> float:
        """Expected seconds of the stages that are not finished."""
        return sum(expected for title, expected in self._expected.items() if title not in self.seconds)

    def total(self) -> float:
        """Seconds since the first stage was planned."""
        return time.monotonic() - self._begin


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with its own estimate of the time left, as a callable that is told (done, asked)."""
    with tqdm(total=total, unit=unit, dynamic_ncols=True) as bar:

        def told(done: int, asked: int) -> None:
            bar.update(done - bar.n)

        yield told


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
