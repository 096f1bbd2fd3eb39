"""Every program of varl says how OpenMP's threads wait before it loads PyTorch, and a user's own choice stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import PYTHONPATH, ROOT
from varl.launch.threads import POLICY_VARIABLE, SPIN_COUNT, SPIN_VARIABLE

# Runs a program up to its first import of torch, and says what the environment was then.
PROBE = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT", "unset"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
sys.argv = ["program", "--help"]
runpy.run_module(os.environ["PROGRAM"], run_name="__main__", alter_sys=True)
"""
PROGRAMS = [
    "varl.trainer", "trainer", "varl.services.rollout", "services.rollout", "varl.services.hpsv3.native",
    "varl.studies.demo", "varl.tiny.pretrain", "varl.tiny.preference", "benchmarks.update", "chaos",
]  # fmt: skip


def waits(program: str, **choice: str) -> str:
    own = {SPIN_VARIABLE, POLICY_VARIABLE}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {"PYTHONPATH": PYTHONPATH, "PROGRAM": program, **choice}
    return subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("program", PROGRAMS)
def test_threads_do_not_spin_for_long(program: str) -> None:
    assert waits(program) == str(SPIN_COUNT)


def test_the_users_choice_stands() -> None:
    assert waits("varl.trainer", GOMP_SPINCOUNT="7") == "7"
    assert waits("varl.trainer", OMP_WAIT_POLICY="ACTIVE") == "unset"


def test_the_tests_themselves_do_not_spin() -> None:
    assert SPIN_VARIABLE in os.environ or POLICY_VARIABLE in os.environ
