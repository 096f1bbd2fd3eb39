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
    service = ScoringService(ServingSettings.model_validate({}), ToyScorer("toy"))
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


@pytest.mark.parametrize("name", ['a"b', "a\tb", "a\r\nb", "a%22b", "a%41b", "ünï"])
async def test_an_id_is_found_however_the_client_encodes_it(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.post("/v1/score", files=request(name) + file(name))  # httpx encodes as curl and browsers do
    assert answer.json()["results"] == [answer.json()["results"][0] | {"id": name, "value": 1.0}]


async def test_an_id_that_is_encoded_has_one_file(http: httpx.AsyncClient) -> None:
    body = b"".join(
        b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % part
        for part in (
            (b"request", b"", b'{"samples": [{"id": "a\\"b", "prompt": "p"}]}'),
            (b"a%22b", b"; filename=f", IMAGE),
            (b'a\\"b', b"; filename=f", IMAGE),
        )
    )
    head = {"content-type": "multipart/form-data; boundary=b"}
    answer = await http.post("/v1/score", content=body + b"--b--", headers=head)
    assert answer.json()["errors"] == [{"field": 'a"b', "detail": "stands twice"}]


async def test_an_id_that_is_the_fields_own_name_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/score", files=request("a", "request") + file("a"))
    fault = {"field": "samples[1].id", "detail": "'request' is the field's own name in a form"}
    assert (answer.status_code, answer.json()["errors"]) == (422, [fault])
