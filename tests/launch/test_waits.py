"""Waits that say so, and a sign of life for logs that nobody watches on a terminal."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from types import SimpleNamespace

import pytest

from varl.launch import pulse as pulses
from varl.launch import waits
from varl.launch.pulse import pulse
from varl.launch.waits import Wait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that ``waits`` reads, for the test to move on."""
    now = [100.0]
    monkeypatch.setattr(waits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_wait_is_told_after_ten_seconds_and_every_fifteen_from_then_on(clock: list[float]) -> None:
    said: list[str] = []
    wait = Wait("a group", 60.0, said.append)
    for seconds in range(60):
        clock[0] = 100.0 + seconds
        wait.tell("nobody works")
    assert [line.split(" s, until ")[0] for line in said] == [f"waiting for a group for {s}" for s in (10, 25, 40, 55)]
    assert all(re.search(r"until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \S+: nobody works$", line) for line in said)
    assert wait.left_s == pytest.approx(1.0)
    clock[0] = 200.0
    assert wait.left_s == 0.0


def test_a_wait_without_a_limit_says_so(clock: list[float]) -> None:
    said: list[str] = []
    wait = Wait("a job", say=said.append, then_s=300.0)
    for seconds in (9, 10, 200, 311):
        clock[0] = 100.0 + seconds
        wait.tell()
    assert said == [f"waiting for a job for {s} s, until the process is told to stop" for s in (10, 311)]
    assert wait.left_s == float("inf")


async def test_what_cannot_tell_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "FIRST_S", 0.0)
    monkeypatch.setattr(waits, "TICK_S", 0.01)
    said, told = list[str](), asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    async with Wait("scores", 60.0, say).telling():
        await asyncio.wait_for(told.wait(), 60)
    assert len(said) == 1 and said[0].startswith("waiting for scores for 0 s, until 20")


def test_a_quiet_log_gets_a_line_and_one_that_is_not_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "QUIET_S", 0.05)
    monkeypatch.setattr(pulses, "watched", lambda: False)
    said, beats, twice = list[str](), list[int](), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if sum(line.endswith(" s since: update 3: waiting") for line in said) > 1:
            twice.set()

    with pulse(say, lambda: beats.append(1)):
        logging.getLogger("trainer").warning("update %d: waiting", 3)
        assert twice.wait(60)
    assert beats and all(line.startswith("at work for ") for line in said)
    said.clear()
    monkeypatch.setattr(pulses, "watched", lambda: True)
    done = threading.Event()
    with pulse(say, done.set):
        assert done.wait(60)
    assert said == []
