"""A process whose standard streams are closed, or whose reader has gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import PYTHONPATH

OPENS = """
import os, sys
from varl.launch.streams import keep_streams
keep_streams()
with open(sys.argv[1], "wb") as file:
    assert file.fileno() > 2, file.fileno()
    print("to nobody", flush=True)
    os.write(1, b"to nobody")
    os.write(2, b"to nobody")
    sys.stderr.write("to nobody")
    assert sys.stdin.read() == ""
    file.write(b"whole")
"""
TALKS = """
import sys
from varl.launch.streams import keep_streams
keep_streams()
stream = sys.stdout if sys.argv[1] == "1" else sys.stderr
for number in range(10_000):
    stream.write(f"line {number}\\n")
    stream.flush()
raise SystemExit(7)
"""


def shell(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", line, "bash", sys.executable, *arguments]
    return subprocess.run(command, env={"PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_number_of_a_stream_that_is_closed(closed: str, tmp_path: Path) -> None:
    done = shell(f'"$1" -c "$2" "$3" </dev/null {closed}', OPENS, str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize(("number", "pipe"), [("1", "|"), ("2", "2>&1 >/dev/null |")])
def test_a_reader_that_goes_away_ends_nothing(number: str, pipe: str) -> None:
    done = shell(f'"$1" -c "$2" "$3" {pipe} head -n 1; exit "${{PIPESTATUS[0]}}"', TALKS, number)
    assert (done.returncode, done.stdout) == (7, "line 0\n") and "rror" not in done.stderr
