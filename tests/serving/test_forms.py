"""The parts of a form: each is looked at, or refused by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.compat_rig import ToyScorer, grey
from tests.support.gateway_rig import gateway, toy
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings

IMAGE = grey(255)
NO_FIELD = "unknown field; images come as files, all else stands in the field request"
Form = list[tuple[str, tuple[str | None, bytes | str]]]  # as httpx takes it


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    service = ScoringService(ServingSettings(), ToyScorer("toy"))
    await service.start()
    transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=240) as client:
        yield client
    await service.close()


def request(*names: str) -> Form:
    samples = [{"id": name, "prompt": "p"} for name in names]
    return [("request", (None, json.dumps({"samples": samples})))]


def file(name: str) -> Form:
    return [(name, (name, IMAGE))]


def field(name: str, value: str = "x") -> Form:
    return [(name, (None, value))]


@pytest.mark.parametrize(
    ("form", "faults"),
    [
        (request("a") + file("a") + field("formula", "twice"), {"formula": NO_FIELD}),
        (request("a") + field("a"), {"a": NO_FIELD}),
        (field("samples", "[]") + field("formula"), dict.fromkeys(["samples", "formula"], NO_FIELD)),
        (request("a") + file("a") + file("a"), {"a": "stands twice"}),
        (request("a") + file("a") + request("a"), {"request": "stands twice"}),
        (request("a") + file("a") + file("b"), {"b": "no sample has this id"}),
    ],
)
async def test_a_part_that_would_be_passed_over_is_refused(
    http: httpx.AsyncClient, form: Form, faults: dict[str, str]
) -> None:
    answer = await http.post("/v1/score", files=form)
    found = {fault["field"]: fault["detail"] for fault in answer.json()["errors"]}
    missing = {} if any(name == "request" for name, _ in form) else {"request": "the field is missing"}
    assert (answer.status_code, found) == (422, missing | faults)


async def test_the_gateway_refuses_it_too() -> None:
    async with toy("toy") as service, gateway({"toy": service.port}) as rig:
        form = request("a") + file("a") + field("formulas", '{"toy": "twice"}')
        answer = await rig.http.post("/v1/score", files=form)
        assert answer.json()["errors"] == [{"field": "formulas", "detail": NO_FIELD}]
        assert (await rig.http.post("/v1/score", files=request("a") + file("a"))).status_code == 200
