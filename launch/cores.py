"""The cores of this machine, as far as its system says which of them a process may use. Knows nothing else, for all parts to ask."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use; all of the machine's where the system knows no such choice, as macOS does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
