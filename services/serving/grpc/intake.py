"""How the messages of calls come in: each within its time, and only so many slowly at a time.

grpcio keeps a message in memory from its first byte to its last, says nothing of it meanwhile and has no deadline for
it. So methods read their one request themselves, as a stream of one, which clients cannot tell from a unary call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from varl.services.serving.status import RejectionCode, RequestRejectedError

_TICK = 0.25
_QUICK = 0.5  # seconds in which a message may come in whatever the others do


class Intake:
    """Reads requests. Of those that take longer than a moment, ``slots`` at a time, first come, first served.

    Belongs to one event loop.
    """

    def __init__(self, slots: int, seconds: float = 30.0) -> None:
        self._slots, self._seconds = slots, seconds
        self._since: dict[asyncio.Task[object], float] = {}  # in the order in which they began
        self._refused: dict[asyncio.Task[object], RequestRejectedError] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def message(self, requests: AsyncIterator[bytes]) -> bytes:
        """The one message of a call.

        Raises:
            RequestRejectedError: MALFORMED, there is none; DEADLINE_EXCEEDED or OVERLOADED, it takes too long.

        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        loop = asyncio.get_running_loop()
        self._since[task] = loop.time()
        if self._timer is None:
            self._wait()
        try:
            async for message in requests:
                return message
        except asyncio.CancelledError:
            if task not in self._refused or task.uncancel():
                raise
            raise self._refused[task] from None
        finally:
            del self._since[task]
            self._refused.pop(task, None)
        raise RequestRejectedError(RejectionCode.MALFORMED, "the call has no message")

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _TICK
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for task in self._since:
            self._since[task] += max(0.0, now - self._due)  # while the loop was held up, nothing could come in
        waiting = [(task, since) for task, since in self._since.items() if task not in self._refused]
        late = [task for task, since in waiting if now - since > self._seconds]
        slow = [task for task, since in waiting if _QUICK < now - since <= self._seconds]
        for task in late:
            self._refuse(task, RejectionCode.DEADLINE_EXCEEDED, f"no message within {self._seconds:g} s")
        for task in slow[self._slots :]:
            self._refuse(task, RejectionCode.OVERLOADED, "too many messages come in slowly", 1.0)
        self._timer = None
        if self._since:
            self._wait()

    def _refuse(
        self, task: asyncio.Task[object], code: RejectionCode, detail: str, retry_after: float | None = None
    ) -> None:
        self._refused[task] = RequestRejectedError(code, detail, retry_after=retry_after)
        task.cancel()
