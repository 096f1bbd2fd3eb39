"""One forward of a model, and how it ended."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from varl.services.serving.batching.queue import (
    Answer,
    FatalModelError,
    Item,
    ItemFailedError,
    UnavailableError,
    WrongLengthError,
)

_log = logging.getLogger("varl.serving")
Model = Callable[[Sequence[Item]], Sequence[Answer]]


class Result(StrEnum):
    """How one forward ended."""

    OK = "ok"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    WRONG_LENGTH = "wrong_length"
    FATAL = "fatal"


class Execution(NamedTuple):
    """One forward pass.

    ``seconds`` is the time inside the model; ``waits`` are its items' seconds in the queue, empty for a repeated
    forward.
    """

    items: int
    result: Result
    seconds: float
    waits: Sequence[float]


@dataclass(frozen=True)
class Fault:
    """Why a forward gave no answers."""

    result: Result
    detail: str

    @property
    def kind(self) -> type[Exception]:
        """The error for those whom the forward settles."""
        return _ERRORS.get(self.result, ItemFailedError)


_ERRORS: Mapping[Result, type[Exception]] = {Result.WRONG_LENGTH: WrongLengthError, Result.FATAL: UnavailableError}


def forward(model: Model[Item, Answer], items: Sequence[Item]) -> list[Answer] | Fault:
    """One forward.

    The exception itself is let go of: it would keep the model's tensors alive through the next forward.
    """
    try:
        answers = list(model(items))
    except MemoryError as error:
        return Fault(Result.OUT_OF_MEMORY, f"out of memory: {error}")
    except FatalModelError as error:
        _log.critical("the model is lost: %s", error)
        return Fault(Result.FATAL, f"the model is lost: {error}")
    except Exception as error:
        if len(items) == 1:  # the message may quote a prompt, the traceback does not
            _log.error(
                "the model failed on an item: %s\n%s",
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
        return Fault(Result.FAILED, f"{type(error).__name__}: {error}")
    except BaseException as error:  # something asks this thread to end: no instance, no answers
        _log.critical("the model's thread was ended by %s", type(error).__name__)
        return Fault(Result.FATAL, f"the model is lost: {type(error).__name__}")
    if len(answers) != len(items):
        return Fault(Result.WRONG_LENGTH, f"the model gave {len(answers)} answers to {len(items)} items")
    return answers
