"""How the messages of calls come in: each within its time, and only so many slowly at a time.

grpcio keeps a message in memory from its first byte to its last, says nothing of it meanwhile and has no deadline for
it. So methods read their one request themselves, as a stream of one, which clients cannot tell from a unary call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from varl.services.serving.grpc.wire import forgetting
from varl.services.serving.status import RejectionCode, RequestRejectedError
from varl.services.serving.ticks import Ticks

_TICK = 0.25  # seconds between two looks at all calls
_QUICK = 0.5  # seconds in which a message may come in whatever the others do


class Intake:
    """Reads requests. Of those that take longer than a moment, ``slots`` at a time, first come, first served.

    Belongs to one event loop.
    """

    def __init__(self, slots: int, seconds: float = 30.0) -> None:
        self._slots, self._seconds = slots, seconds
        self._since: dict[asyncio.Task[object], float] = {}  # in the order in which they began
        self._refused: dict[asyncio.Task[object], RequestRejectedError] = {}
        self._ticks = Ticks(_TICK, self._look)

    async def message(self, requests: AsyncIterator[bytes]) -> bytes:
        """The one message of a call.

        Raises:
            RequestRejectedError: MALFORMED, there is none; DEADLINE_EXCEEDED or OVERLOADED, it takes too long.

        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._since[task] = asyncio.get_running_loop().time()
        self._ticks.start()
        try:
            async with forgetting(requests) as messages:
                return await anext(messages)
        except StopAsyncIteration:
            raise RequestRejectedError(RejectionCode.MALFORMED, "the call has no message") from None
        except asyncio.CancelledError:
            if task not in self._refused or task.uncancel():
                raise
            raise self._refused[task] from None
        finally:
            del self._since[task]
            self._refused.pop(task, None)

    def _look(self, now: float, held_up: float) -> bool:
        for task in self._since:
            self._since[task] += held_up
        waiting = [(task, since) for task, since in self._since.items() if task not in self._refused]
        late = [task for task, since in waiting if now - since > self._seconds]
        slow = [task for task, since in waiting if _QUICK < now - since <= self._seconds]
        for task in late:
            self._refuse(task, RejectionCode.DEADLINE_EXCEEDED, f"no message within {self._seconds:g} s")
        for task in slow[self._slots :]:
            self._refuse(task, RejectionCode.OVERLOADED, "too many messages come in slowly", 1.0)
        return bool(self._since)

    def _refuse(
        self, task: asyncio.Task[object], code: RejectionCode, detail: str, retry_after: float | None = None
    ) -> None:
        self._refused[task] = RequestRejectedError(code, detail, retry_after=retry_after)
        task.cancel()
