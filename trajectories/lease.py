"""One trainer of a run at a time: a lease in Redis that its holder renews, and that ends by itself where it dies."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import cast

import redis
from redis.exceptions import RedisError

from varl.launch.folder_lock import Holder, this_process
from varl.launch.waits import Wait

LEASE_S = 30.0
POLL_S = 0.5
_log = logging.getLogger("varl.lease")

# KEYS: lease. ARGV: a holder that may be replaced, the one that shall hold it, its milliseconds. Returns "", or the
# holder that stands in the way. A Redis that is out of memory must not refuse the lease to the trainer that frees it:
# renewing takes no memory, and only a script's first write is refused, which DEL never is.
SWAP = """
local found = redis.call('GET', KEYS[1]) or ''
if found == ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return ''
end
if found ~= '' and found ~= ARGV[1] then return found end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return ''
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"


class RunHeldError(RuntimeError):
    """Another trainer has the run; the message says which and where."""


@dataclass(frozen=True)
class RunHolder:
    """Who trains a run. folder: identity of the lock on its run directory, "" where it has none."""

    process: Holder
    directory: str
    folder: str
    token: str

    def __str__(self) -> str:
        return f"the trainer in {self.directory} ({self.process})"

    def encode(self) -> str:
        """As it stands in Redis."""
        return json.dumps(asdict(self))


def decode_holder(text: str) -> RunHolder | None:
    """Read what stands in Redis; None where it is nothing of ours."""
    try:
        fields = json.loads(text)
        return RunHolder(**fields | {"process": Holder(**fields["process"])})
    except (ValueError, TypeError, KeyError):
        return None


class Lease:
    """A run's lease, for whoever holds it.

    ``check`` is to be called before anything that only its trainer may do. directory: of the run, for people to read.
    folder: identity of its lock, "" where it has none. hasty: a client without the patience of ``client``, for what
    must not wait long: renewing beside the run, and giving the lease back.
    """

    def __init__(
        self,
        client: redis.Redis,
        hasty: redis.Redis,
        run_id: str,
        directory: str,
        folder: str,
        lease_s: float = LEASE_S,
    ) -> None:
        self.key, self.lease_s, self._run_id = f"varl:{run_id}:trainer", lease_s, run_id
        self._client, self._hasty = client, hasty
        self._mine = RunHolder(this_process(), directory, folder, secrets.token_hex(8))
        self._swap_script, self._release_script = client.register_script(SWAP), client.register_script(RELEASE)
        self._lost = ""  # what another trainer has put there
        self._renewed = 0.0

    def take(self) -> None:
        """Take the lease, waiting for that of a trainer which has died to end.

        One that worked in the same folder under the same kernel has died for certain, since its lock is ours now.

        Raises:
            RunHeldError: another trainer renews it.
        """
        wait = Wait(f"the lease of run {self._run_id!r}", self.lease_s + 2 * POLL_S)
        found, left = self._swap(), self.lease_s
        while found:
            other = decode_holder(found)
            if other is not None and self._outlived(other):
                found = self._swap(found)
                continue
            before, left = left, self._left_s()
            if left > before or wait.left_s <= 0:
                raise RunHeldError(self._told(found))
            wait.tell(f"held by {other or found[:200]}, who may have died")
            time.sleep(POLL_S)
            found = self._swap()

    def check(self) -> None:
        """Raise RunHeldError where another trainer has taken the run since, and redis-py's errors where none can tell.

        Redis is asked only where the lease may have ended, as after a long stop of this process.
        """
        if not self._lost and time.monotonic() - self._renewed > self.lease_s:
            self.renew(self._client)
        if self._lost:
            raise RunHeldError(self._told(self._lost))

    def renew(self, client: redis.Redis | None = None) -> None:
        """Begin the lease again, also where Redis has lost it."""
        self._lost = self._swap(client=client or self._hasty)

    def release(self) -> None:
        """Give it back, where it is still ours."""
        self._release_script(keys=[self.key], args=[self._mine.encode()], client=self._hasty)

    def _swap(self, outlived: str = "", client: redis.Redis | None = None) -> str:
        """Take or renew the lease, "" where that succeeded, else who holds it."""
        begin = time.monotonic()
        arguments: list[str | bytes | int] = [outlived, self._mine.encode(), round(1000 * self.lease_s)]
        found = self._swap_script(keys=[self.key], args=arguments, client=client or self._client)
        text = cast(bytes, found).decode(errors="replace")
        if not text:
            self._renewed = begin
        return text

    def _left_s(self) -> float:
        return max(self._client.pttl(self.key), 0) / 1000

    def _outlived(self, other: RunHolder) -> bool:
        mine = self._mine
        return bool(mine.folder and mine.process.boot) and (other.folder, other.process.boot) == (
            mine.folder,
            mine.process.boot,
        )

    def _told(self, found: str) -> str:
        return (
            f"run {self._run_id!r} is held by {decode_holder(found) or found[:200]}: two would purge each other's jobs"
        )


@contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    """Hold a run's lease for the length of the block, renewed by a thread.

    Raises RunHeldError and redis-py's errors as ``take`` does.
    """
    lease.take()
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(lease, over), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        try:
            lease.release()
        except RedisError as error:
            _log.warning("%s was not given back and ends by itself: %s", lease.key, error)


def _keep(lease: Lease, over: threading.Event) -> None:
    while not over.wait(lease.lease_s / 3):
        try:
            lease.renew()
        except RedisError as error:
            _log.debug("%s could not be renewed: %s", lease.key, error)  # the queue's own commands say so aloud
