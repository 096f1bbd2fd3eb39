"""What an injector is given and what it tells."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chaos.rig import Rig
from chaos.schedule import Fault


@dataclass
class Strike:
    """One fault as it happens; times are time.monotonic().

    hit: the fault met what it was meant for (a phase of the trainer, say). back_at: when the part worked again.
    """

    fault: Fault
    target: str = ""
    detail: str = ""
    hit: bool = False
    struck_at: float | None = None
    back_at: float | None = None

    def now(self, target: str, detail: str = "") -> None:
        """The fault begins."""
        self.target, self.detail, self.struck_at = target, detail, time.monotonic()

    def back(self, hit: bool, detail: str = "") -> None:
        """The part works again."""
        self.hit, self.back_at = hit, time.monotonic()
        self.detail = detail or self.detail


@dataclass
class Field:
    """The run under attack, and what has been put into its streams: reason by digest of the payload."""

    rig: Rig
    rubbish: dict[str, str] = field(default_factory=dict)


Injector = Callable[[Field, Strike], Awaitable[None]]


def digest(payload: bytes) -> str:
    """Short name of some bytes."""
    return hashlib.sha256(payload).hexdigest()[:16]
