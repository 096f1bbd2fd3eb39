"""Requests that ask for another protocol are answered like any other, and their bodies are bodies."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.connection_rig import GET, HASTY, answer, ended, post, serving

JSON = b"content-type: application/json\r\n"
FORM = b"content-type: multipart/form-data; boundary=b\r\n"
UPGRADES = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    "and the last": b"upgrade: h2c\r\nconnection: close, upgrade\r\n",
}
upgrading = pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)


@upgrading
async def test_an_upgrade_is_answered_like_any_other_request(upgrade: bytes) -> None:
    async with serving() as rig:
        assert (await rig.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n"))[0] == 200


@upgrading
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (JSON, b'{"samples": []}'),
        (FORM, b'--b\r\ncontent-disposition: form-data; name="request"\r\n\r\n{}\r\n--b--\r\n'),
        (JSON, b"GET /v1/info HTTP/1.1\r\nhost: x\r\n\r\n"),
        (JSON, b"x" * 300_000),
    ],
    ids=["json", "form", "a request in the body", "large"],
)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("apart", [False, True])
async def test_the_body_of_an_upgrade_is_its_body(
    upgrade: bytes, fields: bytes, body: bytes, chunked: bool, apart: bool
) -> None:
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\n" + fields + upgrade + length + b"\r\n\r\n"
    async with serving() as rig:
        reader, writer = await rig.open()
        for packet in (head[:50], head[50:], sent) if apart else (head + sent,):
            writer.write(packet)
            await asyncio.sleep(0.05 if apart else 0)
        assert (await answer(reader))[0] == 200
        assert rig.bodies == [len(body)]
        if b"close" not in upgrade:  # nothing is left of it, and the connection goes on
            writer.write(post(3, body=b"abc"))
            assert (await answer(reader))[0] == 200
            assert rig.bodies == [len(body), 3]
        else:
            assert await ended(reader) == b""
        writer.close()


async def test_upgrades_sent_one_after_the_other_are_answered_in_turn() -> None:
    async with serving() as rig:
        reader, writer = await rig.open()
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n" + UPGRADES["h2c"] + b"\r\n"
        writer.write((head + b"abc") * 20 + GET)
        assert [(await answer(reader))[0] for _ in range(21)] == [200] * 21
        assert rig.bodies == [3] * 20 + [0]
        writer.close()


async def test_an_upgrade_has_the_limits_of_any_request() -> None:
    async with serving(HASTY) as rig:
        head = b"POST / HTTP/1.1\r\n" + UPGRADES["h2c"]
        assert (await rig.send(head + b"x: " + b"y" * 70_000 + b"\r\n\r\n"))[0] == 431
        assert (await rig.send(head + b"content-length: 1000\r\n\r\nabc"))[0] == 408
        assert (await rig.send(head + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"))[0] == 400
        assert all(rig.outcomes[code] == 1 for code in ("head_too_large", "too_slow", "malformed"))


async def test_connect_is_refused() -> None:
    async with serving() as rig:
        reader, writer = await rig.open()
        writer.write(b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
        assert (await answer(reader))[0] == 400
        assert (await ended(reader), rig.bodies) == (b"", [])
        writer.close()
