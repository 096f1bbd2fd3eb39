from __future__ import annotations

from contextlib import ExitStack

import pytest

from services.serving.admission import Admission, OverloadedError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_room_is_bounded_and_given_back() -> None:
    admission = Admission(4, Clock())
    with admission.admit(3):
        assert admission.in_flight == 3
        with pytest.raises(OverloadedError), admission.admit(2):
            pytest.fail("admitted over the limit")
        with admission.admit(1):
            assert admission.in_flight == 4
    assert admission.in_flight == 0


def test_room_is_given_back_after_a_failure() -> None:
    admission = Admission(2, Clock())
    with pytest.raises(KeyError), admission.admit(2):
        raise KeyError
    assert admission.in_flight == 0


def test_retry_after_is_the_time_that_the_excess_takes_at_the_rate_seen() -> None:
    clock = Clock()
    admission = Admission(10, clock)
    with admission.admit(10), pytest.raises(OverloadedError) as first, admission.admit(1):
        pass
    assert first.value.retry_after == 1.0  # no rate is known yet
    with admission.admit(10):
        clock.now += 5.0
    clock.now += 100.0  # idle time is no busy time
    with ExitStack() as stack:
        stack.enter_context(admission.admit(10))
        with pytest.raises(OverloadedError) as second, admission.admit(4):
            pass
    assert second.value.retry_after == pytest.approx(4 * 5.0 / 20)  # 20 samples answered in 5 busy seconds
