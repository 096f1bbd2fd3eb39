"""One HTTP connection: uvicorn's, within the limits of a ``Guard``."""

from __future__ import annotations

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from varl.services.serving.http.guard import Guard, Refusal

_LINGER_BYTES = 64 * 2**20
_PIECES, _LEAST_PIECE = 1024, 64  # a body in more pieces than this must have as many bytes in the average piece
_LATE = Refusal(HTTPStatus.REQUEST_TIMEOUT, "too_slow", "the request did not come in within its time")
_LARGE_HEAD = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "the request line and header fields are too large"
)
_TINY_PIECES = Refusal(HTTPStatus.BAD_REQUEST, "malformed", f"a body in chunks of less than {_LEAST_PIECE} bytes")
_PIPELINED = 64  # requests that may wait on one connection for the answer to the one before them
_CROWD = Refusal(HTTPStatus.TOO_MANY_REQUESTS, "overloaded", "too many requests at once on one connection", 1)
_NO_HTTP = Refusal(HTTPStatus.BAD_REQUEST, "malformed", "no HTTP request")
_NO_PROXY = Refusal(HTTPStatus.BAD_REQUEST, "malformed", "CONNECT is for proxies")


class _Phase(Enum):
    """What a connection is at."""

    HEAD = 0  # from its start, or the first byte of a later request
    BODY = 1
    WORK = 2  # the request is there, its answer is not
    KEPT = 3  # between two requests; uvicorn ends it after its own time
    ENDING = 4  # refused: what still comes is thrown away, for a moment, so that the client reads why


class _Refused(Exception):  # noqa: N818
    """Stops the parser; its caller turns it into one of the parser's own errors."""


class GuardedConnection(HttpToolsProtocol):
    """An HTTP/1.1 connection that keeps to ``guard``'s limits."""

    guard: ClassVar[Guard]

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self.since, self.held = 0.0, 0
        self._phase = _Phase.HEAD
        self._head = self._raw = self._body = self._pieces = self._thrown = 0
        self._unsent, self._unsent_since = 0, 0.0
        self._plain_head = b""  # of a request that asked for another protocol, without that wish

    # What the guard asks and tells.

    @property
    def idle(self) -> bool:
        """Whether no request has come in whole."""
        at_work = self.cycle is not None and not self.cycle.response_complete  # on the request before
        return self._phase is _Phase.ENDING or (self._phase in (_Phase.HEAD, _Phase.KEPT) and not at_work)

    @property
    def uploading(self) -> bool:
        """Whether a body is on its way."""
        return self._phase is _Phase.BODY

    def drop(self) -> None:
        """Close without an answer."""
        self.guard.closed("idle")
        self.transport.abort()

    def refuse(self, answer: Refusal) -> None:
        """Answer so, unless an answer is on its way, and close once the client had a moment to read it."""
        if self._phase is _Phase.ENDING:
            return
        self.guard.closed(answer.code)
        cycle = self.cycle
        if self.pipeline or self.transport.is_closing():  # the answer before has not gone out, or was the last one
            self.transport.abort()
        elif cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(answer.render())
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application sees its client leave
            cycle.message_event.set()
        self._end()

    def _end(self) -> None:
        """Say that no more is sent, and read on for a moment: closing at once could take the answer back."""
        self._enter(_Phase.ENDING)
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self.guard.release(self)
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def look(self, now: float) -> None:
        """End what takes too long."""
        limits, passed = self.guard.limits, now - self.since
        match self._phase:
            case _Phase.HEAD if passed > limits.head_seconds:
                if self._raw:
                    self.refuse(_LATE)
                else:
                    self.drop()
            case _Phase.BODY if not self.flow.read_paused and self._is_slow(passed):
                self.refuse(_LATE)
            case _Phase.ENDING if passed > limits.linger_seconds:
                self.transport.abort()
        self._look_at_answer(now)

    def _is_slow(self, passed: float) -> bool:
        limits = self.guard.limits
        return passed > limits.body_seconds or self._body < limits.body_rate * (passed - limits.stall_seconds)

    def _look_at_answer(self, now: float) -> None:
        """End a connection whose client does not read."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > self.guard.limits.stall_seconds:
            self.guard.closed("too_slow")
            self.transport.abort()

    def _enter(self, phase: _Phase) -> None:
        self._phase, self.since = phase, self.loop.time()

    # What the transport and the parser tell.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._enter(_Phase.HEAD)
        self.guard.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self.guard.leave(self)

    def shutdown(self) -> None:
        """The server stops."""
        if self._phase is _Phase.ENDING:
            self.transport.abort()
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        if self._phase is _Phase.ENDING:
            self._thrown += len(data)
            if self._thrown > _LINGER_BYTES:
                self.transport.abort()
            return
        if self._phase is _Phase.KEPT:
            self._unset_keepalive_if_required()
            self._raw = 0
            self._enter(_Phase.HEAD)
        try:
            self._feed(data)
        except httptools.HttpParserError:  # or what a callback raised
            self.refuse(_NO_HTTP)
        if self._phase is _Phase.HEAD:  # what the parser keeps of an unfinished field, it tells nobody
            self._raw += len(data)
            if self._raw > self.guard.limits.head_bytes:
                self.refuse(_LARGE_HEAD)

    def _feed(self, data: bytes) -> None:
        """Parse; an upgrade (to h2c, say) is not granted, and its request is answered like any other.

        The parser takes what follows such a head for the other protocol, not for a body. Hence a second one, which
        starts over at the head without the field.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._plain_head + data[upgrade.args[0] :]
                self._plain_head, self.parser = b"", httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def on_message_begin(self) -> None:
        """A request line begins."""
        super().on_message_begin()
        self._head = self._raw = self._body = self._pieces = 0
        if self._phase is not _Phase.HEAD:
            self._enter(_Phase.HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or one that follows a body."""
        self._head += len(name) + len(value) + 4
        if self._head > self.guard.limits.head_bytes:
            self._stop(_LARGE_HEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head += len(self.url)
        if self._head > self.guard.limits.head_bytes:
            self._stop(_LARGE_HEAD)
        if self.parser.should_upgrade():
            self._plain_head = self._head_without_upgrade()
            return
        self._enter(_Phase.BODY)
        super().on_headers_complete()
        if len(self.pipeline) > _PIPELINED:
            self._stop(_CROWD)

    def _head_without_upgrade(self) -> bytes:
        method = self.parser.get_method()
        if method == b"CONNECT":  # whatever its fields
            self._stop(_NO_PROXY)
        fields = [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(fields))

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        size = len(body)
        self._body += size
        self._pieces += 1
        if self._pieces > _PIECES and self._body < _LEAST_PIECE * self._pieces:
            self._stop(_TINY_PIECES)
        if not self.cycle.response_complete:
            self.guard.reserve(self, size, self.loop.time())
        if self._phase is _Phase.ENDING:
            raise _Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._plain_head:
            return
        self._phase = _Phase.WORK
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is given; where the body is not, nothing more is read of it."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._phase is _Phase.BODY and self.cycle.response_complete:
            self._end()
        elif not self.cycle.response_complete:
            return  # another request has come in meanwhile
        else:
            self.guard.release(self)
            if self._phase is _Phase.WORK:
                self._enter(_Phase.KEPT)

    def _stop(self, answer: Refusal) -> None:
        self.refuse(answer)
        raise _Refused


def connection_of(guard: Guard) -> type[GuardedConnection]:
    """The connections of the server that ``guard`` looks after."""

    class Connection(GuardedConnection):
        pass

    Connection.guard = guard
    return Connection
