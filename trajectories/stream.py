"""One Redis stream with one consumer group, as bytes: read, claim, drop. Commands of Redis 6.2 only."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import redis
from redis.exceptions import ResponseError

from varl.trajectories.access import RedisAccess

T = TypeVar("T")
GONE = re.compile(r"\bNOGROUP\b|no such key")
PAYLOAD = b"m"
PAGE = 256  # ids, or small entries, a round trip
DEFAULT_SOCKET_TIMEOUT_S = 5.0  # redis-py's, where the client names none

# Scripts and not transactions: a Redis that is out of memory takes nothing into a transaction, and these free memory.
# KEYS: stream. ARGV: consumer group, and of DROP the ids of entries. DROP returns how many were there.
DROP = """
local dropped = 0
for i = 2, #ARGV do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  dropped = dropped + redis.call('XDEL', KEYS[1], ARGV[i])
end
return dropped
"""
UNTAKEN = "return redis.call('XLEN', KEYS[1]) - redis.call('XPENDING', KEYS[1], ARGV[1])[1]"


@dataclass(frozen=True)
class Entry:
    """One entry as handed out: its id, its payload, and how often it has been handed out (1: the first time)."""

    entry_id: str
    payload: bytes
    deliveries: int


def connect(url: str, socket_timeout_s: float = 30.0) -> redis.Redis:
    """Open a client of a Redis that wants nothing but its address; see ``RedisAccess`` for passwords and TLS."""
    return RedisAccess(url).connect(socket_timeout_s)


class GroupStream:
    """A stream and a consumer group on it (both created if absent), seen by one consumer.

    Thread-safe: it keeps no state. page: entries a round trip in scans.
    """

    def __init__(self, client: redis.Redis, key: str, group: str, consumer: str, page: int = PAGE) -> None:
        self._client, self.key, self.group, self._consumer, self._page = client, key, group, consumer, page
        self._drop_script, self._untaken_script = client.register_script(DROP), client.register_script(UNTAKEN)
        self._create()

    def _create(self) -> None:
        """Make the stream or its group where it is lacking; not asked for in vain, which a full Redis would refuse."""
        if self._groups():
            return
        try:
            self._client.xgroup_create(self.key, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it exists: another process was first
                raise

    def _groups(self) -> list[Any]:
        """What Redis tells of this group: nothing where it is not there."""
        try:
            groups = cast(Any, self._client.xinfo_groups(self.key))
        except ResponseError as error:
            if GONE.search(str(error)):
                return []
            raise
        return [group for group in groups if group["name"] == self.group.encode()]

    def add(self, payloads: Sequence[bytes]) -> None:
        """Append entries, all or none."""
        with self._client.pipeline(transaction=True) as pipe:
            for payload in payloads:
                pipe.xadd(self.key, {PAYLOAD: payload})
            pipe.execute()

    def read_new(self, count: int, block_ms: int) -> list[Entry]:
        """Return up to ``count`` entries never handed out, waiting up to ``block_ms`` for the first.

        The wait is cut to half the client's socket timeout: a longer one would end in a TimeoutError instead of an
        empty list.
        """
        limit = self._client.get_connection_kwargs().get("socket_timeout", DEFAULT_SOCKET_TIMEOUT_S)
        block = block_ms if limit is None else min(block_ms, int(limit * 500))
        reply = self._again(
            lambda: self._client.xreadgroup(
                self.group, self._consumer, {self.key: ">"}, count=count, block=block or None
            )  # for Redis a block of 0 would mean without end
        )
        return [
            Entry(name.decode(), fields.get(PAYLOAD, b""), 1)
            for _, entries in cast(Any, reply)
            for name, fields in entries
        ]

    def claim(self, min_idle_ms: int, skip: Iterable[str] = ()) -> Iterator[Entry]:
        """Take over, one by one, entries that were handed out but not settled for ``min_idle_ms``, from any consumer.

        XPENDING + XCLAIM rather than XAUTOCLAIM, which on 6.2 tells neither the delivery count nor the ids of entries
        that are gone.
        """
        skipped, start = set(skip), "-"
        while page := self._pending_page(start, min_idle_ms):
            for row in page:
                if row["message_id"].decode() not in skipped:
                    yield from self._claim_one(row["message_id"].decode(), min_idle_ms, row["times_delivered"] + 1)
            start = f"({page[-1]['message_id'].decode()}"

    def _pending_page(self, start: str, min_idle_ms: int) -> list[Any]:
        return cast(
            list[Any],
            self._again(lambda: self._client.xpending_range(self.key, self.group, start, "+", PAGE, idle=min_idle_ms)),
        )

    def _again(self, ask: Callable[[], T]) -> T:
        """Ask Redis; where it came back without the stream or its group, as an emptier one, make both and ask again."""
        try:
            return ask()
        except ResponseError as error:
            if not GONE.search(str(error)):
                raise
        self._create()
        return ask()

    def _claim_one(self, entry_id: str, min_idle_ms: int, deliveries: int) -> Iterator[Entry]:
        for claimed, fields in cast(
            Any, self._client.xclaim(self.key, self.group, self._consumer, min_idle_ms, [entry_id])
        ):
            if claimed is None:  # deleted by someone else: only its pending mark is left
                self._client.xack(self.key, self.group, entry_id)
            else:
                yield Entry(entry_id, fields.get(PAYLOAD, b""), deliveries)

    def touch(self, entry_id: str) -> None:
        """Start the idle time of a pending entry again without counting a delivery."""
        self._again(lambda: self._client.xclaim(self.key, self.group, self._consumer, 0, [entry_id], justid=True))

    def release(self, entry_id: str, idle_ms: int) -> None:
        """Make a pending entry look as if nobody had touched it for so long, without counting a delivery."""
        self._again(
            lambda: self._client.xclaim(self.key, self.group, self._consumer, 0, [entry_id], idle=idle_ms, justid=True)
        )

    def release_all(self, idle_ms: int) -> int:
        """Release every pending entry of every consumer; returns how many there were."""
        start, count = "-", 0
        while page := self._pending_page(start, min_idle_ms=0):
            for row in page:
                self.release(row["message_id"].decode(), idle_ms)
            start, count = f"({page[-1]['message_id'].decode()}", count + len(page)
        return count

    def drop(self, entry_ids: Sequence[str]) -> int:
        """Acknowledge and delete entries; returns how many were there."""
        if not entry_ids:
            return 0
        return int(cast(int, self._drop_script(keys=[self.key], args=[self.group, *entry_ids])))

    def position(self) -> str:
        """Return the id of the newest entry that the stream has ever had.

        An older one than before means that Redis has lost entries.
        """
        found = self._again(lambda: self._client.xinfo_stream(self.key))
        return bytes(cast(Any, found)["last-generated-id"]).decode()

    def pending(self) -> int:
        """Return the number of entries handed out and not settled."""
        return int(cast(Any, self._again(lambda: self._client.xpending(self.key, self.group)))["pending"])

    def untaken(self) -> int:
        """Return the number of entries never handed out (settled entries must be deleted for this to be right)."""
        return max(int(cast(int, self._again(lambda: self._untaken_script([self.key], [self.group])))), 0)

    def scan(self, start: str = "-") -> Iterator[Entry]:
        """Read every entry, from ``start`` on, without handing it out (deliveries is 0)."""
        while page := self._range(start, "+"):
            yield from page
            start = f"({page[-1].entry_id}"

    def scan_others(self, known: Collection[str]) -> Iterator[Entry]:
        """Read every entry that is not in ``known``, as ``scan`` does.

        Of those that were handed out the ids alone are read first.
        """
        last = next((group["last-delivered-id"].decode() for group in self._groups()), "0-0")
        start = "-"
        while page := self._pending_page(start, min_idle_ms=0):
            ids = [row["message_id"].decode() for row in page]
            for entry_id in ids:
                if entry_id not in known:
                    yield from self._range(entry_id, entry_id)
            start = f"({ids[-1]}"
        yield from self.scan(f"({last}")

    def _range(self, start: str, end: str) -> list[Entry]:
        found = cast(Any, self._client.xrange(self.key, start, end, count=self._page))
        return [Entry(name.decode(), fields.get(PAYLOAD, b""), 0) for name, fields in found]

    def leave(self) -> None:
        """Remove this consumer's name from the group if it holds nothing.

        A busy name stays until others have its entries.
        """
        holds = self._again(
            lambda: self._client.xpending_range(self.key, self.group, "-", "+", 1, consumername=self._consumer)
        )
        if not holds:
            self._client.xgroup_delconsumer(self.key, self.group, self._consumer)
