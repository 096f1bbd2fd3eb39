"""The supervisor with real child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer

from tests.support.paths import PYTHONPATH
from varl.launch import supervisor
from varl.launch.supervisor import (
    ChildDiedError,
    Supervisor,
    postponed,
    sigterm_as_exit,
    tied_to_this_process,
    unhurried,
)

READY = (
    "import json, os, sys, time; "
    "print(json.dumps({'pid': os.getpid(), 'given': os.environ.get('GIVEN')}), flush=True); "
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    while is_alive(pid):
        time.sleep(0.01)


def test_children_are_ready_inside_and_gone_after_the_block(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "logs") as parts:
        first = parts.start("first", python(READY + "time.sleep(600)"), {"GIVEN": "secret"})
        second = parts.start("second", python(READY + "print('noise ' * 100000); time.sleep(600)"))
        assert (first["given"], second["given"]) == ("secret", None)
        assert is_alive(first["pid"])
        assert is_alive(second["pid"])
    assert not is_alive(first["pid"])
    assert not is_alive(second["pid"])


def test_children_are_stopped_last_started_first(tmp_path: Path) -> None:
    note = (
        "import signal; "
        "signal.signal(15, lambda *_: (open(sys.argv[1], 'a').write(sys.argv[2]), sys.exit())); time.sleep(600)"
    )
    told = tmp_path / "order"
    with Supervisor(tmp_path) as parts:
        for name in "abc":
            code = "import json, sys, time; " + note.replace("time.sleep", "print('{}', flush=True); time.sleep")
            parts.start(name, [*python(code), str(told), name])
    assert told.read_text() == "cba"


def test_a_child_that_dies_while_starting_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; print('x' * 9000 + 'no port for me', file=sys.stderr); sys.exit(3)"
    message = r"(?s)broken ended with exit status 3; the end of .*broken\.log:\nx+no port for me$"
    with pytest.raises(ChildDiedError, match=message) as error, Supervisor(tmp_path) as parts:
        parts.start("broken", python(code))
    assert len(str(error.value)) < 3000


def test_a_death_interrupts_the_block_at_once(tmp_path: Path) -> None:
    with pytest.raises(ChildDiedError, match="frail was killed by SIGKILL"), Supervisor(tmp_path) as parts:
        steady = parts.start("steady", python(READY + "time.sleep(600)"))
        frail = parts.start("frail", python(READY + "time.sleep(600)"))
        os.kill(frail["pid"], signal.SIGKILL)
        time.sleep(600)  # the test's own time limit would end it
    assert not is_alive(steady["pid"])


def test_even_a_clean_exit_is_a_death(tmp_path: Path) -> None:
    with pytest.raises(ChildDiedError, match="short ended with exit status 0"), Supervisor(tmp_path) as parts:
        parts.start("short", python(READY))
        time.sleep(600)


def test_other_processes_may_come_and_go(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as parts:
        parts.start("steady", python(READY + "time.sleep(600)"))
        assert os.waitstatus_to_exitcode(os.system("exit 4")) == 4
        parts.check()


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_TIMEOUT_S", 0.3)
    stubborn = (
        "import json, os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(json.dumps({'pid': os.getpid(), 'inner': inner.pid}), flush=True); time.sleep(600)"
    )
    with Supervisor(tmp_path) as parts:
        ready = parts.start("stubborn", python(stubborn))
    assert not is_alive(ready["pid"])
    wait_until_gone(ready["inner"])


def test_a_child_that_never_says_ready_is_an_error_and_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT_S", 1.0)
    told = tmp_path / "pid"
    code = f"import os, sys, time; open({str(told)!r}, 'w').write(str(os.getpid())); "
    code += "print('still loading', file=sys.stderr, flush=True); time.sleep(600)"
    with (
        pytest.raises(TimeoutError, match=r"(?s)mute was not ready after 1 s.*still loading"),
        Supervisor(tmp_path) as parts,
    ):
        parts.start("mute", python(code))
    assert not is_alive(int(told.read_text()))


def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    if not tied_to_this_process():
        pytest.skip("no setpriv on this machine")
    parent = (
        "import json, pathlib, sys, time; from varl.launch.supervisor import Supervisor\n"
        f"with Supervisor(pathlib.Path({str(tmp_path)!r})) as parts:\n"
        "    print(json.dumps(parts.start('inner', [sys.executable, '-c', "
        f"{READY + 'time.sleep(600)'!r}])), flush=True); "
        "time.sleep(600)"
    )
    with Supervisor(tmp_path / "outer") as parts:
        inner = parts.start("parent", ["env", f"PYTHONPATH={PYTHONPATH}", *python(parent)])["pid"]
        assert is_alive(inner)
        with pytest.raises(ChildDiedError):
            os.kill(parts._children[0].process.pid, signal.SIGKILL)
            time.sleep(600)
    wait_until_gone(inner)


def test_signals_are_held_off_while_things_are_stopped() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with unhurried():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_postponed_signal_comes_after_a_block_that_fails() -> None:
    with pytest.raises(SystemExit) as left, sigterm_as_exit(), postponed():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("no room")
    assert left.value.code == 128 + signal.SIGTERM and isinstance(left.value.__context__, OSError)


def test_a_postponed_signal_comes_after_the_block() -> None:
    reached = False
    with pytest.raises(SystemExit) as left, sigterm_as_exit(), postponed():
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert reached
    assert left.value.code == 143


def test_sigterm_inside_a_serializer_of_pydantic_is_an_exit_all_the_same() -> None:
    class Named(BaseModel):
        name: str

        @field_serializer("name")
        def slow(self, value: str) -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            return value

    with pytest.raises(SystemExit) as left, sigterm_as_exit():
        Named(name="a").model_dump_json()
    assert left.value.code == 143


def test_an_error_without_sigterm_stays_itself() -> None:
    with pytest.raises(ValueError, match="mine"), sigterm_as_exit():
        raise ValueError("mine")


def test_ctrl_c_while_a_child_is_being_started_loses_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
        process: subprocess.Popen[bytes] = started(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(SystemExit), sigterm_as_exit(), Supervisor(tmp_path) as parts:
        parts.start("child", python(READY + "time.sleep(600)"))
    [child] = parts._children
    assert child.process.returncode == -signal.SIGTERM


def test_sigterm_leaves_the_block_as_an_exit() -> None:
    with pytest.raises(SystemExit) as left, sigterm_as_exit():
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
