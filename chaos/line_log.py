"""The lines that a process writes, in a file and for those who wait for one of them."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path


class LineLog:
    """Lines as they come. For one event loop; positions count lines from 0."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self._out = file.open("a", encoding="utf-8", buffering=1)
        self.lines: list[str] = []
        self.times: list[float] = []  # time.monotonic() of each line
        self._news = asyncio.Event()

    def add(self, line: str) -> None:
        """Take in one line."""
        self._out.write(line + "\n")
        self.lines.append(line)
        self.times.append(time.monotonic())
        self._news.set()
        self._news = asyncio.Event()

    def end(self) -> int:
        """Position of the next line."""
        return len(self.lines)

    def find(self, pattern: str, since: int = 0, until: int | None = None) -> list[re.Match[str]]:
        """What of the lines since a position matches, anywhere in a line."""
        return [match for line in self.lines[since:until] if (match := re.search(pattern, line))]

    async def wait(self, pattern: str, since: int) -> tuple[int, re.Match[str]]:
        """Position and match of the first line from ``since`` on that matches, once it is there."""
        seen = since
        while True:
            news = self._news
            for position in range(seen, len(self.lines)):
                if match := re.search(pattern, self.lines[position]):
                    return position, match
            seen = len(self.lines)
            await news.wait()

    def close(self) -> None:
        """Close the file."""
        self._out.close()
