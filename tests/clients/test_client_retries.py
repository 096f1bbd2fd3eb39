"""What the copyable client asks again and what it does not, against a real HTTP server that fails on purpose."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

import pytest
from fastapi import Response

from clients.varl_client import RejectedError, ScoreError, Scores, UnavailableError
from tests.support.client_rig import Rig, async_scores, json_reply, listen, problem, serving, sizes, sync_scores, url_of

IMAGES = [b"x" * size for size in (10, 20, 30)]
Scoring = Callable[..., dict[str, Scores]]
both = pytest.mark.parametrize("scores", [sync_scores, async_scores])


@both
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_may_pass_is_asked_again(scores: Scoring, status: int) -> None:
    rig = Rig(
        script=[
            problem(status, "later", "0"),
            problem(status, "later", formatdate(0, usegmt=True)),
            problem(status, "later", "soon"),
        ]
    )
    with serving(rig.app()) as url:
        assert scores(url, IMAGES)["size"].values() == [10, 20, 30]
    assert len(rig.asked) == 4


@both
@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthenticated"), (404, "nope"), (413, "request_too_large"), (422, "x"), (500, "internal")],
)
def test_what_never_succeeds_is_asked_once_and_keeps_its_code(scores: Scoring, status: int, code: str) -> None:
    rig = Rig(script=[problem(status, code)])
    with serving(rig.app()) as url, pytest.raises(RejectedError, match="on purpose") as rejected:
        scores(url, IMAGES)
    assert (rejected.value.status, rejected.value.code, len(rig.asked)) == (status, code, 1)


@both
def test_attempts_are_bounded(scores: Scoring) -> None:
    rig = Rig(reply=problem(429, "overloaded", "0"))
    with serving(rig.app()) as url, pytest.raises(UnavailableError, match="HTTP 429, overloaded: on purpose"):
        scores(url, IMAGES, attempts=3)
    assert len(rig.asked) == 3


@both
def test_a_retry_after_the_deadline_is_not_waited_for(scores: Scoring) -> None:
    rig = Rig(reply=problem(503, "not_ready", "3600"))
    with serving(rig.app()) as url, pytest.raises(UnavailableError) as failure:
        scores(url, IMAGES, deadline=60)
    assert failure.value.retry_after == 3600
    assert len(rig.asked) == 1


@both
def test_a_service_that_does_not_answer_is_left_at_the_deadline(scores: Scoring) -> None:
    rig = Rig(gate=asyncio.Barrier(1000))
    with serving(rig.app()) as url, pytest.raises(UnavailableError):
        scores(url, IMAGES, deadline=1)
    assert rig.asked


@both
def test_connections_that_break_are_made_anew(scores: Scoring) -> None:
    rig, listener = Rig(), listen()
    url = url_of(listener)

    def break_two_then_serve() -> None:
        for _ in range(2):
            listener.accept()[0].close()
        with serving(rig.app(), listener):
            done.wait()

    done = threading.Event()
    thread = threading.Thread(target=break_two_then_serve)
    thread.start()
    try:
        assert scores(url, IMAGES)["size"].values() == [10, 20, 30]
    finally:
        done.set()
        thread.join()


@both
def test_nobody_there_is_unavailable(scores: Scoring) -> None:
    with listen() as listener:
        url = url_of(listener)
    with pytest.raises(UnavailableError, match="ConnectError"):
        scores(url, IMAGES, attempts=2)


@both
def test_of_a_gateway_only_what_failed_is_asked_again(scores: Scoring) -> None:
    def reply(head: dict[str, Any], files: Mapping[str, bytes]) -> Response:
        error = {"code": "not_ready", "detail": "b is loading", "retryable": len(rig.asked) < 4, "retry_after": 0.01}
        down = {"b"} if len(rig.asked) < 3 else {"a"} if len(rig.asked) == 4 else set()
        return json_reply(
            {"rewards": {name: {"error": error} if name in down else sizes(head, files) for name in head["rewards"]}}
        )

    rig = Rig(reply=reply, info={"rewards": {"a": {}, "b": {}}, "max_samples": 9, "max_image_bytes": 100})
    with serving(rig.app()) as url:
        found = scores(url, IMAGES, {"formulas": {"b": "f"}})
        assert [head["rewards"] for head in rig.asked] == [["a", "b"], ["b"], ["b"]]
        assert [head["formulas"] for head in rig.asked] == [{"b": "f"}] * 3
        assert found["a"].values() == found["b"].values() == [10, 20, 30]
        found = scores(url, IMAGES, {"rewards": ["b", "a"]})
    assert list(found) == ["b", "a"]
    assert found["b"].values() == [10, 20, 30]
    assert found["a"] == Scores((ScoreError("not_ready", "b is loading"),) * 3, ())


@both
def test_a_reward_that_stays_away_leaves_the_others_their_scores(scores: Scoring) -> None:
    error = {"code": "overloaded", "detail": "full", "retryable": True, "retry_after": None}
    rig = Rig(
        reply=lambda head, files: json_reply({"rewards": {"a": sizes(head, files), "b": {"error": error}}}),
        info={"rewards": {"a": {}, "b": {}}, "max_samples": 9, "max_image_bytes": 100},
    )
    with serving(rig.app()) as url:
        found = scores(url, IMAGES, attempts=2)
    assert found["a"].values() == [10, 20, 30]
    assert found["b"].values() == [None] * 3
    assert found["b"].outcomes == (ScoreError("overloaded", "full", retryable=True),) * 3
