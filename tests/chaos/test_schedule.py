"""The schedule of faults is a function of its arguments, and fair to all kinds."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.driver import injector, lane
from chaos.schedule import MEANING, QUIET_AT_THE_END, USUAL, Kind, schedule
from chaos.settings import ChaosSettings


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert schedule(3, 60, 60) == schedule(3, 60, 60)
    assert schedule(3, 60, 60) != schedule(4, 60, 60)


@pytest.mark.parametrize("count", [1, 8, 22, 60, 100])
def test_every_kind_comes_as_often_as_any_other_but_for_one(count: int) -> None:
    counts = Counter(dict.fromkeys(USUAL, 0)) + Counter(fault.kind for fault in schedule(0, count, 50))
    assert sum(counts.values()) == count
    assert max(counts.values()) - min(counts.get(kind, 0) for kind in USUAL) <= 1


def test_faults_are_spread_in_order_and_the_end_is_quiet() -> None:
    due = [fault.due for fault in schedule(0, 60, 40)]
    assert due == sorted(due) and due[0] == 0 and 30 < due[-1] < 40 - QUIET_AT_THE_END


def test_a_run_without_room_or_kinds_is_refused() -> None:
    for updates, kinds in ((QUIET_AT_THE_END, tuple(Kind)), (50, ())):
        with pytest.raises(ValueError, match="faults need"):
            schedule(0, 5, updates, kinds)


def test_every_kind_has_an_injector_a_lane_and_words() -> None:
    assert set(MEANING) == set(Kind)
    lanes = {fault.kind: lane(fault) for fault in schedule(0, len(Kind), 50, tuple(Kind))}
    assert (
        lanes[Kind.DISK_FULL] == lanes[Kind.TRAINER_KILL_WAITING] == "trainer" and lanes[Kind.POISON_PROMPT] == "redis"
    )
    assert all(injector(kind).__name__ == kind.value for kind in Kind)


def test_flags_name_kinds_and_an_unknown_one_is_refused() -> None:
    assert ChaosSettings(kinds="redis_kill, ocr_kill,redis_kill").chosen() == (Kind.OCR_KILL, Kind.REDIS_KILL)
    assert ChaosSettings().chosen() == USUAL and Kind.DEADLY_JOB not in USUAL
    with pytest.raises(ValueError, match="earthquake unknown"):
        ChaosSettings(kinds="earthquake")
