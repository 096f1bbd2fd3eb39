"""Systems that know neither scheduling policies nor a process's own cores, as macOS: parts start all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from tests.support.ocr_builders import ENVIRONMENT
from tests.support.paths import ROOT
from varl.launch.cores import usable_cores
from varl.launch.machine import describe_machine

LINUX_ONLY = ("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "sched_getscheduler", "SCHED_BATCH")
WITHOUT = (
    f"import os, runpy; [delattr(os, name) for name in {LINUX_ONLY}]; "
    f"runpy.run_module({{!r}}, run_name='__main__', alter_sys=True)"
)


def test_cores_are_those_of_the_machine_where_the_system_knows_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert usable_cores() == len(os.sched_getaffinity(0))
    for name in LINUX_ONLY:
        monkeypatch.delattr(os, name, raising=False)
    assert usable_cores() == describe_machine("cpu").cores == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this is such a system: all other tests show it")
def test_a_service_starts_serves_and_ends_without_what_only_linux_has() -> None:
    command = [
        sys.executable,
        "-c",
        WITHOUT.format("benchmarks.serving.toy_service"),
        "--http-port",
        "0",
        "--grpc-port",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = json.loads(process.stdout.readline())["http_port"]
            assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=240).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(240) == 0
        finally:
            process.kill()
