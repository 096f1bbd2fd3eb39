"""The proxy carries bytes, and breaks, holds and refuses connections when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chaos.proxy import CHUNK, Link, link_to
from varl.launch.ports import reserve_port

PATIENCE_S = 30.0


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with link_to(server.sockets[0].getsockname()[1]) as link:
        yield link
    server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def ask(link: Link, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.readexactly(len(data)), PATIENCE_S)
    finally:
        writer.close()


async def test_bytes_come_through_whole_and_in_order_also_many_of_them(link: Link) -> None:
    for data in (b"a", bytes(range(256)) * 5000):
        assert await ask(link, data) == data


async def test_a_reset_breaks_all_connections_hard_and_new_ones_work(link: Link) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", link.port) for _ in range(3)]
    for reader, writer in opened:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    assert link.reset() == 3
    for reader, _ in opened:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), PATIENCE_S)
    assert await ask(link, b"again") == b"again"


async def test_what_is_stalled_comes_later_and_new_connections_wait_as_well(link: Link) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"1")
    assert await reader.readexactly(1) == b"1"
    with link.stalled(), link.stalled():  # overlapping stalls end with the last one
        writer.write(b"23")
        new = asyncio.create_task(ask(link, b"new"))
        waiting = asyncio.create_task(reader.readexactly(2))
        done, _ = await asyncio.wait({new, waiting}, timeout=0.2)
        assert not done
    assert await asyncio.wait_for(waiting, PATIENCE_S) == b"23"
    assert await new == b"new"
    writer.close()


async def test_while_it_refuses_nobody_gets_through(link: Link) -> None:
    with link.refusing():
        for _ in range(2):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await ask(link, b"x")
    assert await ask(link, b"x") == b"x"


async def test_an_address_that_moves_leads_new_connections_elsewhere(link: Link) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"1")
    assert await reader.readexactly(1) == b"1"
    other = await asyncio.start_server(shout, "127.0.0.1", 0)
    link.move_to(other.sockets[0].getsockname()[1])
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"  # it stays where it is
    reader_of_new, writer_of_new = await asyncio.open_connection("127.0.0.1", link.port)
    writer_of_new.write(b"a")
    assert await reader_of_new.readexactly(1) == b"A"
    for end in (writer, writer_of_new):
        end.close()
    other.close()


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read(CHUNK)).upper())
    await writer.drain()
    writer.close()


async def test_without_a_server_behind_a_connection_is_reset() -> None:
    async with link_to(reserve_port()) as link:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(link, b"x")
