"""The gateway before real services: answers apart by reward, one that is unavailable or overloaded, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.compat_rig import grey
from tests.support.gateway_rig import Rig, Toy, gateway, sample, toy, until
from varl.launch.ports import reserve_port
from varl.services.serving.batching.batcher import Batcher

MODEL = {"engine": "toy", "name": "brightness", "revision": "1"}


@pytest.fixture
async def first() -> AsyncIterator[Toy]:
    async with toy("first") as service:
        yield service


@pytest.fixture
async def second() -> AsyncIterator[Toy]:
    async with toy("second", max_samples=16, max_in_flight=16, max_image_bytes=5000) as service:
        yield service


@pytest.fixture
async def rig(first: Toy, second: Toy) -> AsyncIterator[Rig]:
    async with gateway({"first": first.port, "second": second.port}) as found:
        await found.until("first", "ready")
        await found.until("second", "ready")
        yield found


def values(answer: httpx.Response, reward: str) -> list[float]:
    return [result["value"] for result in answer.json()["rewards"][reward]["results"]]


async def test_each_reward_has_its_results_and_its_model(rig: Rig) -> None:
    answer = (await rig.score(sample("a", level=51), sample("b"))).json()
    assert answer.keys() == {"rewards"}
    assert list(answer["rewards"]) == ["first", "second"]
    for entry in answer["rewards"].values():
        assert entry["model"] == MODEL
        assert [(result["id"], result["value"], result["components"]) for result in entry["results"]] == [
            ("a", 0.2, {"bright": 0.2}),
            ("b", 1.0, {"bright": 1.0}),
        ]


async def test_only_the_rewards_wanted_are_asked(rig: Rig) -> None:
    answer = await rig.score(rewards=["second", "second"])
    assert list(answer.json()["rewards"]) == ["second"]
    metrics = (await rig.http.get("/metrics")).text
    assert 'varl_gateway_rewards_total{outcome="ok",reward="second"} 1.0' in metrics
    assert 'outcome="ok",reward="first"' not in metrics


async def test_a_bad_sample_is_its_own_error_in_each_reward(rig: Rig) -> None:
    bad = [
        sample("text") | {"image": "aGVsbG8="},
        sample("base64") | {"image": "%"},
        sample("none", "nothing"),
        sample("nan", "nan"),
    ]
    answer = (await rig.score(sample("fine"), *bad)).json()["rewards"]
    for entry in answer.values():
        codes = [result.get("error", {}).get("code") for result in entry["results"]]
        assert codes == [None, "bad_image", "bad_image", "no_target", "not_finite"]
        assert entry["results"][2]["error"]["detail"].startswith("image: no Base64")


async def test_files_pass_through_as_they_are(rig: Rig) -> None:
    head = {"samples": [{"id": "a", "prompt": "p"}, {"id": "gone", "prompt": "p"}], "rewards": ["first"]}
    answer = await rig.http.post("/v1/score", files={"request": (None, json.dumps(head)), "a": ("a", grey(51, "WEBP"))})
    good, gone = answer.json()["rewards"]["first"]["results"]
    assert good["value"] == pytest.approx(0.2, abs=0.01)
    assert gone["error"] == {"code": "invalid_field", "detail": "image: no file part is named 'gone', or it is empty"}


async def test_a_file_over_the_gateways_limit_goes_nowhere(first: Toy) -> None:
    async with gateway({"first": first.port}, max_image_bytes=64) as rig:
        (result,) = (await rig.score()).json()["rewards"]["first"]["results"]
    assert result["error"]["code"] == "image_too_large"


async def test_info_lists_the_rewards_and_the_limits_that_all_take(rig: Rig) -> None:
    info = (await rig.http.get("/v1/info")).json()
    shared = {"state": "ready", "model": MODEL, "formulas": ["plain", "twice"]}
    assert info == {
        "rewards": {
            "first": {**shared, "max_samples": 256, "max_image_bytes": 8 * 2**20},
            "second": {**shared, "max_samples": 16, "max_image_bytes": 5000},
        },
        "max_samples": 16,
        "max_image_bytes": 5000,
    }


async def test_formulas_go_to_the_rewards_that_they_name(rig: Rig) -> None:
    assert (await rig.score(formulas={"first": "twice"})).status_code == 200
    answer = (await rig.score(formulas={"first": "nope"})).json()["rewards"]
    error = answer["first"]["error"]
    assert (error["code"], error["retryable"], error["retry_after"]) == ("invalid_request", False, None)
    assert error["detail"] == "first: formula: 'nope' is none of plain, twice"
    assert answer["second"]["results"][0]["value"] == 1.0


BAD_REQUESTS: list[tuple[dict[str, Any], int, str]] = [
    ({"rewards": ["third"]}, 404, "no_such_reward"),
    ({"rewards": ["first", "third"]}, 404, "no_such_reward"),
    ({"formulas": {"third": "plain"}}, 404, "no_such_reward"),
    ({"rewards": []}, 422, "invalid_request"),
    ({"formula": "plain"}, 422, "invalid_request"),
    ({"samples": []}, 422, "invalid_request"),
    ({"samples": [sample("a"), sample("a")]}, 422, "invalid_request"),
    ({"rewards": ["first"], "formulas": {"first": "nope"}}, 422, "invalid_request"),
]


@pytest.mark.parametrize(("change", "status", "code"), BAD_REQUESTS)
async def test_a_bad_request_is_a_problem(rig: Rig, change: dict[str, Any], status: int, code: str) -> None:
    answer = await rig.http.post("/v1/score", json={"samples": [sample("a")], **change})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (status, code, False)
    assert answer.headers["content-type"] == "application/problem+json"
    metrics = (await rig.http.get("/metrics")).text
    assert f'varl_gateway_requests_total{{outcome="{code}",protocol="http"}} 1.0' in metrics


async def test_a_reward_that_is_down_leaves_the_other_alone_and_serves_again_when_it_is_back(
    rig: Rig, second: Toy
) -> None:
    await second.stop()
    await rig.until("second", "unavailable")
    answer = await rig.score()
    assert answer.status_code == 200
    assert values(answer, "first") == [1.0]
    error = answer.json()["rewards"]["second"]["error"]
    assert (error["code"], error["retryable"]) == ("not_ready", True)
    assert error["retry_after"] > 0
    ready = await rig.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ready", "rewards": {"first": "ready", "second": "unavailable"}},
    )
    assert 'varl_gateway_reward_ready{reward="second"} 0.0' in (await rig.http.get("/metrics")).text
    second.scorer.batcher = Batcher(lambda: second.scorer._forward, second.settings.batch_limits())
    second.settings = second.settings.model_copy(update={"max_samples": 8})
    await second.start()
    await rig.until("second", "ready")
    assert values(await rig.score(), "second") == [1.0]
    assert (await rig.http.get("/v1/info")).json()["max_samples"] == 8


async def test_a_service_that_says_it_does_not_serve_is_not_asked(rig: Rig, second: Toy) -> None:
    await second.health.set_serving(False)
    await rig.until("second", "unavailable")
    answer = await rig.score(rewards=["second"])
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
    await second.health.set_serving(True)
    await rig.until("second", "ready")
    assert (await rig.score(rewards=["second"])).status_code == 200


async def test_where_no_reward_is_there_the_gateway_is_not_ready(rig: Rig, first: Toy, second: Toy) -> None:
    for service in (first, second):
        await service.health.set_serving(False)
    for name in ("first", "second"):
        await rig.until(name, "unavailable")
    for answer in (await rig.http.get("/readyz"), await rig.score()):
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "not_ready", True)
        assert answer.headers["retry-after"] == "1"
        assert "first is unavailable" in answer.json()["detail"]
        assert "second is unavailable" in answer.json()["detail"]
    assert (await rig.http.get("/livez")).status_code == 200


async def test_an_overloaded_reward_says_when_to_come_back_and_leaves_the_other_alone(rig: Rig, second: Toy) -> None:
    second.scorer.gate.clear()
    held = asyncio.create_task(rig.score(*(sample(str(index)) for index in range(16)), rewards=["second"]))
    await until(lambda: 'varl_samples_in_flight{reward="second"} 16.0' in second.service.metrics.render().decode())
    answer = await rig.score()
    assert values(answer, "first") == [1.0]
    error = answer.json()["rewards"]["second"]["error"]
    assert (error["code"], error["retryable"]) == ("overloaded", True)
    assert error["retry_after"] >= 0.1
    alone = await rig.score(rewards=["second"])
    assert (alone.status_code, alone.json()["code"]) == (429, "overloaded")
    assert int(alone.headers["retry-after"]) >= 1
    second.scorer.gate.set()
    assert len(values(await held, "second")) == 16


async def test_the_deadline_goes_with_the_request(first: Toy, second: Toy) -> None:
    second.scorer.gate.clear()
    async with gateway({"first": first.port, "second": second.port}, request_seconds=2.0) as rig:
        await rig.until("first", "ready")
        await rig.until("second", "ready")
        answer = await rig.score()
        assert values(answer, "first") == [1.0]
        assert answer.json()["rewards"]["second"]["error"]["code"] == "deadline_exceeded"
        await until(lambda: 'varl_samples_in_flight{reward="second"} 0.0' in second.service.metrics.render().decode())


async def test_the_gateway_itself_takes_in_no_more_than_it_may(first: Toy) -> None:
    first.scorer.gate.clear()
    async with gateway({"first": first.port}, max_samples=2, max_in_flight=2) as rig:
        held = asyncio.create_task(rig.score(sample("a"), sample("b")))
        await until(lambda: b"varl_gateway_samples_in_flight 2.0" in rig.gateway.metrics.render())
        answer = await rig.score()
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
        first.scorer.gate.set()
        assert len(values(await held, "first")) == 2


async def test_a_reward_that_was_never_there_is_listed_without_a_model(first: Toy) -> None:
    async with gateway({"first": first.port, "absent": reserve_port()}) as rig:
        await rig.until("absent", "unavailable")
        info = (await rig.http.get("/v1/info")).json()["rewards"]["absent"]
    assert info == {"state": "unavailable", "model": None, "formulas": [], "max_samples": None, "max_image_bytes": None}


async def test_openapi_names_every_status(rig: Rig) -> None:
    schema = (await rig.http.get("/openapi.json")).json()
    score = schema["paths"]["/v1/score"]["post"]
    assert {"200", "400", "401", "404", "413", "415", "422", "429", "500", "502", "503", "504"} <= score[
        "responses"
    ].keys()
    assert score["requestBody"]["content"].keys() == {"application/json", "multipart/form-data"}
    assert "/compat/unirl/score" in schema["paths"]
    for reference in set(_references(schema)):
        assert reference.rpartition("/")[2] in schema["components"]["schemas"]


def _references(node: Any) -> list[str]:  # noqa: ANN401
    if isinstance(node, list):
        return [found for each in node for found in _references(each)]
    if not isinstance(node, dict):
        return []
    return [value for key, value in node.items() if key == "$ref"] + [
        found for each in node.values() for found in _references(each)
    ]
