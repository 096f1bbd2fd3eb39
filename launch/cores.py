"""The cores of this machine, as far as its system says which of them a process may use.

It imports nothing else of varl, so every part can use it.
"""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use.

    All of the machine's where the system knows no such choice, as macOS does not.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
