"""The copyable client against a real HTTP server that fails on purpose; both clients do the same."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Response

from clients.varl_client import (
    AsyncRewardClient,
    BadAnswerError,
    MissingScoreError,
    Model,
    RejectedError,
    RewardClient,
    Score,
    ScoreError,
    Scores,
    read_image,
)
from tests.support.client_rig import MODEL, Rig, async_scores, json_reply, serving, sizes, sync_scores

IMAGES = [b"x" * size for size in (10, 20, 30)]
Scoring = Callable[..., dict[str, Scores]]
both = pytest.mark.parametrize("scores", [sync_scores, async_scores])


@both
def test_values_stand_in_the_order_of_the_images_with_their_model(scores: Scoring) -> None:
    with serving(Rig().app()) as url:
        found = scores(url, IMAGES)["size"]
    assert found.values() == found.require() == [10, 20, 30]
    assert found.models == (Model(**MODEL),)


@both
@pytest.mark.parametrize(
    ("most", "most_bytes", "requests"),
    [(2, 1000, [2, 2, 1]), (9, 100, [3, 1, 1]), (9, 45, [2, 1, 1, 1]), (9, 1, [1] * 5)],
)
def test_a_large_call_is_split_by_count_and_bytes(
    scores: Scoring, most: int, most_bytes: int, requests: list[int]
) -> None:
    rig = Rig()
    with serving(rig.app()) as url:
        found = scores(url, [b"x" * size for size in (10, 30, 50, 70, 90)], batch_samples=most, batch_bytes=most_bytes)
    assert found["size"].values() == [10, 30, 50, 70, 90]
    assert sorted(len(head["samples"]) for head in rig.asked) == sorted(requests)


@both
def test_no_request_has_more_samples_than_the_service_takes(scores: Scoring) -> None:
    rig = Rig(info={"reward": "size", "max_samples": 2, "max_image_bytes": 100})
    with serving(rig.app()) as url:
        found = scores(url, IMAGES)
    assert found["size"].values() == [10, 20, 30]
    assert sorted(len(head["samples"]) for head in rig.asked) == [1, 2]


@both
def test_requests_of_one_call_are_in_flight_together(scores: Scoring) -> None:
    rig = Rig(gate=asyncio.Barrier(3))  # answers nothing until three have come
    with serving(rig.app()) as url:
        assert scores(url, IMAGES, batch_samples=1, concurrency=3, attempts=1)["size"].values() == [10, 20, 30]


@both
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_an_error_and_never_a_value(scores: Scoring, number: float) -> None:
    def reply(head: dict[str, Any], files: Mapping[str, bytes]) -> Response:
        body = sizes(head, files)
        body["results"][0]["value"] = number
        body["results"][1] = {"id": "1", "error": {"code": "bad_image", "detail": "image: broken"}}
        body["results"][2]["components"] = {"mu": number}
        return json_reply(body)

    with serving(Rig(reply=reply).app()) as url:
        found = scores(url, [*IMAGES, b"good"])["size"]
    assert found.values() == [None, None, None, 4]
    assert found.outcomes[1] == ScoreError("bad_image", "image: broken")
    with pytest.raises(MissingScoreError, match="image 0: not_finite"):
        found.require()


BAD_ANSWERS = [
    "<html>welcome</html>",
    "[]",
    "{}",
    '{"reward": "size", "results": 3}',
    json.dumps({"reward": "size", "model": MODEL, "results": []}),
    json.dumps({"reward": "size", "model": MODEL, "results": [{"id": "0", "value": "7", "components": {}}]}),
]


@both
@pytest.mark.parametrize("body", BAD_ANSWERS)
def test_what_is_no_reward_service_is_named(scores: Scoring, body: str) -> None:
    with serving(Rig(reply=lambda *_: Response(body)).app()) as url, pytest.raises(BadAnswerError, match="/v1/score"):
        scores(url, IMAGES[:1])
    with serving(FastAPI()) as url, pytest.raises(RejectedError, match="404"):
        scores(url, IMAGES)


@both
def test_the_token_is_sent(scores: Scoring) -> None:
    rig = Rig()
    with serving(rig.app()) as url:
        scores(url, IMAGES, token="s3cret")
        scores(url, IMAGES)
    assert rig.tokens == ["Bearer s3cret", None]


@both
def test_calls_that_make_no_sense_are_refused_before_they_are_sent(scores: Scoring, tmp_path: Path) -> None:
    rig = Rig()
    with serving(rig.app()) as url:
        with pytest.raises(ValueError, match="3 images, 3 prompts and 1 target_words"):
            scores(url, IMAGES, {"target_words": [["a"]]})
        with pytest.raises(TypeError, match=r"images\[0\] is a str"):
            scores(url, ["sign.png"])
        with pytest.raises(RejectedError, match="'hpsv3' is not on offer, only size"):
            scores(url, IMAGES, {"rewards": ["hpsv3"]})
        with pytest.raises(ValueError, match="attempts"):
            scores(url, IMAGES, attempts=0)
        assert scores(url, [])["size"] == Scores((), ())
        assert rig.asked == []
        (tmp_path / "a.png").write_bytes(b"y" * 20_000)
        big, small = scores(url, [read_image(tmp_path / "a.png"), b"z"])["size"].outcomes
    assert big == ScoreError("image_too_large", "image: at most 10000 bytes are taken")
    assert small == Score(1, {})


@both
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_words": ["BREAD", "MILK", "EGGS"]}, "target_words[0] is a str; a list of words is wanted"),
        ({"target_words": [["BREAD"], (), "EGGS"]}, "target_words[2] is a str; a list of words is wanted"),
        ({"target_words": "abc"}, "target_words is a str; a list with an entry for each image is wanted"),
        ({"prompts": "abc"}, "prompts is a str; a list with an entry for each image is wanted"),
    ],
)
def test_a_text_is_not_taken_for_a_list_of_letters(scores: Scoring, fields: dict[str, object], message: str) -> None:
    rig = Rig()
    with serving(rig.app()) as url, pytest.raises(TypeError, match=re.escape(message)):
        scores(url, IMAGES, fields)
    assert rig.asked == []


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "localhost:8080", "gateway", "ftp://host:21", "http://", "http://[::1"]
)
@pytest.mark.parametrize("client", [RewardClient, AsyncRewardClient])
def test_an_address_that_can_be_none_is_named(client: type[RewardClient | AsyncRewardClient], url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"url: {url!r}")):
        client(url)


@both
def test_metadata_goes_with_its_image(scores: Scoring) -> None:
    extras: list[dict[str, object]] = [{"tone": "dark"}, {}, {"boxes": [[1, 2.5]]}]
    rig = Rig()
    with serving(rig.app()) as url:
        with pytest.raises(ValueError, match="3 images and 1 metadata"):
            scores(url, IMAGES, {"metadata": [{}]})
        scores(url, IMAGES, {"metadata": extras}, batch_samples=1)
    sent = {sample["id"]: sample.get("metadata", {}) for head in rig.asked for sample in head["samples"]}
    assert [sent[name] for name in sorted(sent)] == extras


def test_one_client_serves_many_threads() -> None:
    with serving(Rig().app()) as url, RewardClient(url) as client:
        found: list[list[float]] = []
        threads = [
            threading.Thread(target=lambda: found.append(client.score(IMAGES, ["p"] * 3)["size"].require()))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[10, 20, 30]] * 8
