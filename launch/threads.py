"""How the threads of a process wait for one another, on a machine that they share with other work.

PyTorch brings GNU's OpenMP library, which reads its environment as it is loaded, so this stands before the first import
of torch: ``varl`` itself calls it. It imports nothing, since every process of varl goes through it.
"""

from __future__ import annotations

import os

# libgomp lets a waiting thread spin 300,000 times, some milliseconds, in which it keeps a core from the very thread
# that it waits for once other processes want the cores too. 300 spins, some microseconds, bridge the shortest pauses
# between two operators of a model, and a thread that waits longer sleeps: under load as fast as without any spinning,
# on an idle machine nearly as fast as with it. benchmarks/threads.py has the figures. No number depends on it.
SPIN_COUNT = 300
SPIN_VARIABLE = "GOMP_SPINCOUNT"
POLICY_VARIABLE = "OMP_WAIT_POLICY"


def wait_without_spinning() -> None:
    """Let OpenMP's threads sleep soon, here and in child processes, unless the environment says how they wait."""
    if POLICY_VARIABLE not in os.environ:
        os.environ.setdefault(SPIN_VARIABLE, str(SPIN_COUNT))
