"""Large bodies leave the event loop free, one after another; small ones take no detour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import httpx
import pytest
from fastapi import FastAPI, Request

from varl.services.serving.http import problems
from varl.services.serving.http.bodies import aside, read_json_as
from varl.services.serving.http.models import Strict
from varl.services.serving.status import FieldFault, invalid

LARGE = 2**20


class Text(Strict):
    text: str


def client(convert: Callable[[Text], object]) -> httpx.AsyncClient:
    app = FastAPI()
    problems.install(app)

    @app.post("/text")
    async def text(request: Request) -> object:
        return await read_json_as(request, Text, convert, 2 * LARGE)

    @app.get("/livez")
    async def livez() -> str:
        return "alive"

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=60)


async def test_the_service_answers_while_a_large_body_is_parsed() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def convert(body: Text) -> int:
        begun.set()
        assert go_on.wait(60)
        return len(body.text)

    async with client(convert) as http:
        large = asyncio.create_task(http.post("/text", json={"text": "x" * LARGE}))
        await asyncio.to_thread(begun.wait, 60)
        assert (await http.get("/livez")).json() == "alive"
        assert not large.done()
        go_on.set()
        assert (await large).json() == LARGE


async def test_a_small_body_is_parsed_where_it_is_read() -> None:
    async with client(lambda _: threading.current_thread() is threading.main_thread()) as http:
        assert (await http.post("/text", json={"text": "x"})).json() is True
        assert (await http.post("/text", json={"text": "x" * LARGE})).json() is False


@pytest.mark.parametrize("letters", [1, LARGE])
async def test_a_fault_has_the_same_answer_whatever_the_size(letters: int) -> None:
    def convert(body: Text) -> None:
        raise invalid(FieldFault("text", f"{body.text[0]} is not wanted"))

    async with client(convert) as http:
        answer = await http.post("/text", json={"text": "x" * letters})
        assert (answer.status_code, answer.json()["errors"]) == (422, [{"field": "text", "detail": "x is not wanted"}])


async def test_large_bodies_take_turns_and_one_that_was_given_up_takes_none() -> None:
    begun, go_on, ran = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        begun.set()
        assert go_on.wait(60)
        ran.append("first")

    one = asyncio.create_task(aside(LARGE, first))
    await asyncio.to_thread(begun.wait, 60)
    left, last = (asyncio.create_task(aside(LARGE, partial(ran.append, name))) for name in ("left", "last"))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert not ran
    go_on.set()
    await asyncio.gather(one, last)
    assert ran == ["first", "last"]
