"""What to do while Redis refuses: drop the connection, resolve its address again, and ask until patience is over.

A server that was replaced may go on answering under the old connection: as a replica it is READONLY, for ever. Behind
an address that moves, only a new connection finds the new one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import redis.exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from varl.launch.waits import Wait

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
# What a server answers that is loading, full, short of replicas, unable to save, busy, or no longer the primary. Redis
# 6.2 quotes the code of a command that a script called after a dash, redis-py what a pipeline met after "error: ".
PASSING = re.compile(
    r"(?:^|-|because of: |caused error: )"
    r"(?:READONLY|NOREPLICAS|MISCONF|LOADING|OOM|MASTERDOWN|UNBLOCKED|BUSY|TRYAGAIN)\b"
)
PASSING_TYPES = (
    errors.ConnectionError,
    errors.TimeoutError,
    errors.ReadOnlyError,
    errors.OutOfMemoryError,
    errors.MasterDownError,
    errors.TryAgainError,
    errors.ClusterDownError,
)
_told: ContextVar[bool] = ContextVar("told", default=False)
LASTING_TYPES = (errors.AuthenticationError, errors.AuthorizationError)  # redis-py counts them as lost connections


def is_passing(error: BaseException) -> bool:
    """Whether waiting and another connection may mend this: a server that is away, or that refuses for a while."""
    if isinstance(error, LASTING_TYPES):
        return False
    by_code = isinstance(error, errors.ResponseError) and PASSING.search(str(error)) is not None
    return by_code or isinstance(error, PASSING_TYPES)


class PatientRetry(Retry):
    """redis-py's hook for retries: by time, not by number, and for whatever ``is_passing``.

    The connection is dropped before each attempt, so that the address is resolved again.

    patience_s: how long a command goes on being tried, counted from its first attempt; 0: the connection is dropped
    and the error raised. let_in: the server has taken these credentials before, so that a refusal means a password
    that is being changed, which is waited for as well.
    """

    def __init__(self, patience_s: float, let_in: bool = False) -> None:
        super().__init__(NoBackoff(), retries=-1)
        self._patience_s, self._let_in = patience_s, let_in

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Return what ``do`` returns; ``fail`` drops the connection. Raises the last error once patience is over."""
        wait = Wait("Redis", self._patience_s)
        if self._patience_s <= 0 or _told.get():  # a connection is made inside of a command, whose wait is told of
            return self._call(wait, do, fail, is_retryable, with_failure_count)
        token = _told.set(True)
        try:
            with wait.told_aside():  # a server that hangs says nothing until the socket's time-out
                return self._call(wait, do, fail, is_retryable, with_failure_count)
        finally:
            _told.reset(token)

    def _call(
        self,
        wait: Wait,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None,
        with_failure_count: bool,
    ) -> T:
        pause, failures = FIRST_PAUSE_S, 0
        while True:
            try:
                return do()
            except (errors.RedisError, TimeoutError) as error:
                if not self._may_pass(error) or (is_retryable and not is_retryable(error)):
                    raise
                failures += 1
                fail(error, failures) if with_failure_count else fail(error)
                if wait.left_s <= 0:
                    raise
                wait.tell(error)
            time.sleep(min(pause, wait.left_s))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _may_pass(self, error: BaseException) -> bool:
        refused = self._let_in and isinstance(error, errors.AuthenticationError)
        return refused or isinstance(error, TimeoutError) or is_passing(error)
