"""What the demo says while it works: which stage it is at, and how long all that is left will take."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from varl.launch.pulse import QUIET_S, watched
from varl.trainer.disk.atomic import write_durably
from varl.trainer.progress.time_left import in_words

logger = logging.getLogger("trainer")
Say = Callable[[str], None]


class StageClock:
    """Numbered stages with expected seconds; the expectations are corrected by what the finished stages took.

    file: keeps what earlier attempts at the run took, so that the times count all of them; None: nothing is kept.
    """

    def __init__(self, expected: Mapping[str, float], say: Say, file: Path | None = None) -> None:
        self._expected = dict(expected)
        self._say, self._file, self._saving = say, file, threading.Lock()
        self._began: tuple[str, float] | None = None  # the stage in progress, and when it began
        self._before: dict[str, float] = _read_seconds(file) if file else {}  # of earlier attempts
        self.seconds: dict[str, float] = {}  # of the finished stages

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce one of the stages, and note how long it took."""
        number = list(self._expected).index(title) + 1
        self._say(f"\n[{number}/{len(self._expected)}] {title} (about {in_words(self.left())} left in all)")
        self._began = title, time.monotonic()
        try:
            yield
        except BaseException:
            self.save()
            raise
        self.seconds[title] = self._so_far()[title]
        self._began = None
        self.save()

    def save(self) -> None:
        """Write down what the stages have taken so far, the one in progress included; any thread may call it."""
        if self._file is None:
            return
        with self._saving:
            try:
                write_durably(self._file, json.dumps(self._so_far()))
            except OSError as error:
                logger.warning("%s could not be written: %s", self._file, error)

    def _so_far(self) -> dict[str, float]:
        """Seconds of every stage that was begun, in all attempts."""
        found = self._before | self.seconds
        began = self._began
        if began is not None:
            title, start = began
            found[title] = self._before.get(title, 0.0) + time.monotonic() - start
        return found

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Replace expectations by better ones."""
        self._expected |= seconds

    def left(self) -> float:
        """Expected seconds of the stages that are not finished."""
        return sum(expected for title, expected in self._expected.items() if title not in self.seconds)

    def total(self) -> float:
        """Seconds of all stages, in all attempts."""
        return sum(self._so_far().values())


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with its own estimate of the time left, as a callable that is told (done, asked).

    Where stderr is no terminal, lines of a log in its place.
    """
    with tqdm(total=total, unit=unit, dynamic_ncols=True, disable=not watched()) as bar:
        said = time.monotonic()

        def told(done: int, asked: int) -> None:
            nonlocal said
            bar.update(done - bar.n)
            if not watched() and (done == asked or time.monotonic() - said >= QUIET_S):
                said = time.monotonic()
                logger.info("%d of %d %ss", done, asked, unit)

        yield told


def _read_seconds(file: Path) -> dict[str, float]:
    try:
        return {str(title): float(seconds) for title, seconds in json.loads(file.read_text(encoding="utf-8")).items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):  # nothing kept, or cut off by a crash
        return {}
