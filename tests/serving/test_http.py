"""The HTTP API of one service: what it offers beside the reward's own tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from tests.support.compat_rig import ToyScorer, base64_of, grey
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService, State
from varl.services.serving.settings import ServingSettings
from varl.services.serving.status import STATUS, RejectionCode

SAMPLE = {"id": "a", "prompt": "p", "image": base64_of(grey(255))}


def extra(service: ScoringService) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/extra")
    async def route() -> dict[str, str]:
        return {"reward": service.scorer.reward}

    return router


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, ScoringService]]:  # noqa: ANN401
    service = ScoringService(ServingSettings(**changes), ToyScorer("toy"))
    await service.start()
    transport = httpx.ASGITransport(build_app(service, extra), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client, service
    await service.close()


async def test_a_reward_can_offer_routes_of_its_own() -> None:
    async with serving() as (http, _):
        assert (await http.get("/v1/extra")).json() == {"reward": "toy"}
        assert (await http.post("/v1/score", json={"samples": [SAMPLE]})).json()["results"][0]["value"] == 1.0
        assert "/v1/extra" in (await http.get("/openapi.json")).json()["paths"]


async def test_base64_comes_in_any_form() -> None:
    text = base64_of(grey(51))
    wrapped = "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    url_safe = text.translate(str.maketrans("+/", "-_")).rstrip("=")
    forms = [
        text,
        wrapped,
        url_safe,
        f"data:image/png;base64,{text}",
        f"data:image/png;base64,{wrapped}",
        "%",
        "data:,x",
    ]
    samples = [SAMPLE | {"id": str(index), "image": form} for index, form in enumerate(forms)]
    async with serving() as (http, _):
        results = (await http.post("/v1/score", json={"samples": samples})).json()["results"]
    assert [result.get("value") for result in results] == [0.2] * 5 + [None] * 2
    assert [result["error"]["code"] for result in results[5:]] == ["bad_image"] * 2


async def test_a_query_is_refused_and_not_passed_over() -> None:
    async with serving() as (http, _):
        answer = await http.post("/v1/score?formula=plain", json={"samples": [SAMPLE]})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "formula")


async def test_trainers_formats_are_served_beside() -> None:
    async with serving() as (http, _):
        assert (await http.get("/compat/unirl/rewards")).json() == {"rewards": ["toy"]}
        assert (await http.post("/compat/flow_grpo/geneval", content=b"")).status_code == 404
    async with serving(compat_pickle=True) as (http, _):
        assert (await http.post("/compat/flow_grpo/geneval", content=b"")).status_code != 404


async def test_every_status_is_documented() -> None:
    async with serving() as (http, _):
        paths = (await http.get("/openapi.json")).json()["paths"]
    for path, statuses in {
        "/v1/score": {"400", "401", "413", "415", "422", "429", "500", "503", "504"},
        "/v1/info": {"401"},
        "/readyz": {"503"},
        "/compat/unirl/score": {"401"},
    }.items():
        for operation in paths[path].values():
            assert statuses <= operation["responses"].keys()
            for status in statuses:
                assert operation["responses"][status]["content"].keys() == {"application/problem+json"}


async def test_a_passed_deadline_may_be_tried_again() -> None:
    async with serving(request_seconds=1e-9) as (http, _):
        answer = await http.post("/v1/score", json={"samples": [SAMPLE]})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (504, "deadline_exceeded", True)


@pytest.mark.parametrize("state", [State.LOADING, State.DRAINING])
async def test_until_ready_and_while_draining_nothing_is_taken(state: State) -> None:
    async with serving() as (http, service):
        service.state = state
        for answer in (await http.get("/readyz"), await http.post("/v1/score", json={"samples": [SAMPLE]})):
            assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
        assert (await http.get("/livez")).status_code == 200


async def test_a_big_file_in_a_form_needs_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_disk(*_: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", no_disk)
    files: dict[str, tuple[str | None, str | bytes]] = {
        "request": (None, json.dumps({"samples": [{"id": "a", "prompt": "p"}]})),
        "a": ("a", b"x" * 3 * 2**20),
    }
    async with serving() as (http, _):
        answer = await http.post("/v1/score", files=files)
    assert answer.json()["results"][0]["error"]["code"] == "bad_image"


async def test_what_breaks_a_request_is_a_problem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (http, service):
        monkeypatch.setattr(service, "score", None)
        answer = await http.post("/v1/score", json={"samples": [SAMPLE]})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (500, "internal", False)


@pytest.mark.parametrize("code", RejectionCode)
def test_every_rejection_has_a_status(code: RejectionCode) -> None:
    assert STATUS[code].http >= 400
