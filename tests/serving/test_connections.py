"""What one connection, and all of them together, may take of an HTTP server: bytes, seconds, places."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from tests.support.connection_rig import GET, HASTY, LIMITS, answer, ended, post, serving, until
from varl.services.serving.access import Tokens

HEADS = {
    "many lines": b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(100_000)),
    "one value": b"GET / HTTP/1.1\r\nx: " + b"y" * 2**21,
    "one name": b"GET / HTTP/1.1\r\n" + b"y" * 2**21,
    "the target": b"GET /" + b"y" * 2**21,
    "whole": b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    "after the body": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    + b"".join(b"x-%d: y\r\n" % n for n in range(100_000)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_a_head_above_64_kib_is_refused_and_the_connection_closed(head: bytes) -> None:
    async with serving() as rig:
        status, body = await rig.send(head)
        assert status == 431
        problem = json.loads(body)
        assert (problem["status"], problem["code"], problem["retryable"]) == (431, "head_too_large", False)
        assert (await rig.send(GET))[0] == 200
        assert rig.outcomes["head_too_large"] == 1


async def test_a_head_below_it_is_taken_however_it_is_cut() -> None:
    async with serving() as rig:
        data = b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(60)) + b"\r\n"
        assert (await rig.send(data))[0] == 200
        reader, writer = await rig.open()
        for start in range(0, len(data), 7_000):
            writer.write(data[start : start + 7_000])
            await asyncio.sleep(0)
        assert (await answer(reader))[0] == 200
        writer.write(GET)  # the same connection again: heads do not add up
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_requests_sent_before_their_answers_are_answered_in_turn() -> None:
    async with serving() as rig:
        reader, writer = await rig.open()
        writer.write(post(3, body=b"abc") + GET + post(70_000, body=b"z" * 70_000) + GET)
        assert [(await answer(reader))[0] for _ in range(4)] == [200] * 4
        assert rig.bodies == [3, 0, 70_000, 0]
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"", 0, "idle"),
        (b"GET / HT", 408, "too_slow"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", 408, "too_slow"),
        (post(1000), 408, "too_slow"),
        (post(100_000, body=b"x" * 5000), 408, "too_slow"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc", 408, "too_slow"),
    ],
)
async def test_what_does_not_come_in_its_time_is_ended(sent: bytes, status: int, code: str) -> None:
    async with serving(HASTY) as rig:
        reader, writer = await rig.open()
        writer.write(sent)
        assert (await answer(reader))[0] == status
        assert await ended(reader) == b""
        assert rig.outcomes[code] == 1
        writer.close()


async def test_a_body_that_trickles_is_ended_though_it_never_stops() -> None:
    async with serving(HASTY) as rig:
        reader, writer = await rig.open()
        writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        found = asyncio.create_task(answer(reader))
        while not found.done():
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)
        assert (await found)[0] == 408
        writer.close()


async def test_a_client_that_does_not_read_its_answer_is_ended() -> None:
    async with serving(HASTY) as rig:
        _, writer = await rig.open()
        writer.write(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: rig.outcomes["too_slow"] == 1)
        writer.close()


async def test_a_request_at_work_is_not_hurried() -> None:
    async with serving(HASTY) as rig:
        waiting = asyncio.create_task(rig.send(post(5, "/wait", b"hello")))
        await asyncio.sleep(1.5)
        assert not rig.outcomes
        rig.release.set()
        assert (await waiting)[0] == 200


async def test_silent_connections_make_room_for_a_request() -> None:
    async with serving() as rig:
        silent = [await rig.open() for _ in range(5 * LIMITS.connections)]
        assert [(await rig.send(GET))[0] for _ in range(3)] == [200] * 3
        assert await ended(silent[0][0]) == b""
        assert rig.outcomes["idle"] >= 4 * LIMITS.connections
        for _, writer in silent:
            writer.close()


async def test_requests_at_work_keep_their_places() -> None:
    async with serving() as rig:
        working = [asyncio.create_task(rig.send(post(1, "/wait", b"x"))) for _ in range(LIMITS.connections)]
        await until(lambda: len(rig.bodies) == LIMITS.connections)
        status, body = await rig.send(GET)
        assert (status, json.loads(body)["retryable"]) == (503, True)
        rig.release.set()
        assert [(await each)[0] for each in working] == [200] * LIMITS.connections


async def test_bytes_of_bodies_are_bounded_and_old_uploads_make_room() -> None:
    limits = replace(LIMITS, connections=64)
    async with serving(limits) as rig:
        uploads = [await rig.open() for _ in range(12)]
        for _, writer in uploads:  # six times as much as there is room for, none of it whole
            writer.write(post(2**20, body=b"x" * 2**19))
        first = [asyncio.create_task(answer(reader)) for reader, _ in uploads]
        await until(lambda: rig.outcomes["overloaded"] >= 10)
        await asyncio.sleep(1.1)  # what is left has had its time
        status, _ = await rig.send(post(2**19, body=b"y" * 2**19))
        assert status == 200
        refused = [each.result() for each in first if each.done()]
        assert {status for status, _ in refused} == {429}
        assert json.loads(refused[0][1])["retryable"] is True
        for _, writer in uploads:
            writer.close()


async def test_answered_bodies_take_no_room() -> None:
    async with serving() as rig:
        body = b"x" * (LIMITS.body_bytes * 3 // 4)
        reader, writer = await rig.open()
        for _ in range(5):
            writer.write(post(len(body), body=body))
            assert (await answer(reader))[0] == 200
        writer.close()
        assert [(await rig.send(post(len(body), body=body)))[0] for _ in range(3)] == [200] * 3


async def test_a_body_in_crumbs_is_refused() -> None:
    async with serving() as rig:
        status, _ = await rig.send(
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
        )
        assert status == 400


@pytest.mark.parametrize("path", ["/unread", "/closed"])
async def test_no_more_is_read_of_a_body_once_its_request_is_answered(path: str) -> None:
    tokens = None if path == "/unread" else Tokens(("secret",))
    async with serving(HASTY, tokens) as rig:
        reader, writer = await rig.open()
        writer.write(post(10**9, path, b"x" * 1000))
        assert (await answer(reader))[0] == (200 if tokens is None else 401)
        assert await ended(reader) == b""
        await until(lambda: reader.at_eof())
        writer.close()


@pytest.mark.parametrize(
    "data",
    [b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", b"\x16\x03\x01" + b"x" * 500],
)
async def test_what_is_no_http_has_a_problem_for_an_answer(data: bytes) -> None:
    async with serving() as rig:
        status, body = await rig.send(data)
        assert (status, json.loads(body)["code"]) == (400, "malformed")


async def test_a_crowd_of_requests_on_one_connection_is_ended() -> None:
    async with serving() as rig:
        reader, writer = await rig.open()
        writer.write(GET * 10_000)
        await ended(reader)
        assert rig.outcomes["overloaded"] == 1
        assert len(rig.bodies) < 200
        writer.close()
