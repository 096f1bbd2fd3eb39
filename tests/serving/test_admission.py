from __future__ import annotations

import math
from contextlib import ExitStack

import pytest

from varl.services.serving.admission import Admission
from varl.services.serving.status import RejectionCode, RequestRejectedError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(samples: int, size: int = 10**9, clock: Clock | None = None, jitter: float = 0.0) -> Admission:
    return Admission(samples, size, clock or Clock(), lambda: jitter)


def refused(admission: Admission, samples: int, size: int = 0, deadline: float = math.inf) -> RequestRejectedError:
    with pytest.raises(RequestRejectedError) as rejection, admission.admit(samples, size, deadline):
        pytest.fail("admitted")
    return rejection.value


def test_room_is_bounded_in_samples_and_given_back() -> None:
    bound = admission(4)
    with bound.admit(3, 0, math.inf):
        assert refused(bound, 2).code is RejectionCode.OVERLOADED
        with bound.admit(1, 0, math.inf):
            assert bound.samples == 4
    assert bound.samples == 0


def test_room_is_bounded_in_bytes_and_given_back() -> None:
    bound = admission(4, 100)
    with bound.admit(1, 60, math.inf):
        assert refused(bound, 1, 41).code is RejectionCode.OVERLOADED
        with bound.admit(1, 40, math.inf):
            assert bound.bytes == 100
    assert bound.bytes == 0


def test_room_is_given_back_after_a_failure() -> None:
    bound = admission(2)
    with pytest.raises(KeyError), bound.admit(2, 5, math.inf):
        raise KeyError
    assert (bound.samples, bound.bytes) == (0, 0)


def work(bound: Admission, clock: Clock, samples: int, size: int, seconds: float) -> None:
    with bound.admit(samples, size, math.inf):
        clock.now += seconds


def test_retry_after_is_the_time_that_the_excess_takes_at_the_rate_seen() -> None:
    clock = Clock()
    bound = admission(10, 1000, clock)
    with bound.admit(10, 0, math.inf):
        assert refused(bound, 1).retry_after == 1.0  # no rate is known yet
    bound = admission(10, 1000, clock)
    work(bound, clock, 10, 500, 5.0)
    clock.now += 100.0  # idle time is no busy time
    with ExitStack() as stack:
        stack.enter_context(bound.admit(10, 900, math.inf))
        assert refused(bound, 4).retry_after == pytest.approx(4 * 5.0 / 10)
        assert refused(bound, 1, 300).retry_after == pytest.approx(200 * 5.0 / 500)


def test_retry_after_is_spread_over_half_as_long_again() -> None:
    clock = Clock()
    bound = admission(10, clock=clock, jitter=1.0)
    work(bound, clock, 10, 0, 10.0)
    with bound.admit(10, 0, math.inf):
        assert refused(bound, 2).retry_after == pytest.approx(1.5 * 2.0)


def test_the_rate_follows_what_happened_last() -> None:
    clock = Clock()
    bound = admission(10, clock=clock)
    work(bound, clock, 1, 0, 20.0)
    for _ in range(600):
        work(bound, clock, 1, 0, 0.1)
    with bound.admit(10, 0, math.inf):
        assert refused(bound, 10).retry_after == pytest.approx(10 * 0.1, rel=0.3)


def test_a_deadline_before_what_is_in_flight_is_done_is_refused() -> None:
    clock = Clock()
    bound = admission(100, clock=clock)
    work(bound, clock, 10, 0, 10.0)  # one a second
    with bound.admit(5, 0, math.inf):
        assert refused(bound, 1, deadline=clock.now + 4.9).code is RejectionCode.DEADLINE_EXCEEDED
        with bound.admit(1, 0, clock.now + 5.1):
            assert bound.samples == 6


def test_an_idle_service_takes_what_its_last_measurement_speaks_against() -> None:
    clock = Clock()
    bound = admission(100, clock=clock)
    work(bound, clock, 1, 0, 60.0)
    with bound.admit(1, 0, clock.now + 0.1):
        assert bound.samples == 1
    assert refused(bound, 1, deadline=clock.now - 0.1).code is RejectionCode.DEADLINE_EXCEEDED
