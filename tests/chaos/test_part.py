"""Processes under the harness's hand start again when they die, and what they leave behind is found."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from chaos.data_faults import flip
from chaos.evidence import files_left, processes_left
from chaos.home import MARK
from chaos.part import Part
from chaos.rig import RunSpec

LIVES = "import time; print('I work', flush=True); time.sleep(600)"
BREAKS = "print('I work'); raise ValueError('broken')"
ENDS = "print('I work')"


def make_part(directory: Path, program: str, final: tuple[int, ...] = ()) -> Part:
    return Part("part", [sys.executable, "-c", program], "I work", directory / "part.log", {}, directory, final)


async def test_a_killed_part_comes_back_until_it_is_stopped(tmp_path: Path) -> None:
    part = make_part(tmp_path, LIVES)
    part.start()
    await part.ready(0)
    first = await part.up()
    await part.strike(signal.SIGKILL)
    await part.ready(1)
    assert await part.up() != first
    await part.stop()
    assert [(end.status, end.expected) for end in part.exits] == [(-signal.SIGKILL, True), (-signal.SIGTERM, True)]
    assert not alive(first) and part.log.file.read_text().count("I work") == 2


async def test_a_part_that_ends_by_itself_is_noted_with_its_traceback(tmp_path: Path) -> None:
    part = make_part(tmp_path, BREAKS)
    part.start()
    while len(part.exits) < 2:  # started again after the first  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await part.stop()
    assert (part.exits[0].status, part.exits[0].expected, part.exits[0].traceback) == (1, False, True)
    assert part.exits[0].last_words == "ValueError: broken"


async def test_a_final_status_is_the_end(tmp_path: Path) -> None:
    part = make_part(tmp_path, ENDS, final=(0,))
    part.start()
    await asyncio.wait_for(part.finished.wait(), 60)
    assert [(end.status, end.traceback) for end in part.exits] == [(0, False)]
    await part.stop()


async def test_a_stopped_part_stands_still_and_goes_on(tmp_path: Path) -> None:
    part = make_part(tmp_path, LIVES)
    part.start()
    await part.ready(0)
    async with part.stopped():
        await until_state(await part.up(), stopped=True)
    await until_state(await part.up(), stopped=False)
    await part.stop()


async def until_state(pid: int, stopped: bool) -> None:
    async with asyncio.timeout(60):
        while (state(pid) == "T") is not stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def make_spec(directory: Path, name: str) -> RunSpec:
    spec = RunSpec(directory / name, f"mark-of-{directory.name}-{name}", name, updates=5, seed=0)
    spec.temporary.mkdir(parents=True)
    return spec


def test_a_process_with_the_mark_is_found_as_long_as_it_lives(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "run")
    process = subprocess.Popen([sys.executable, "-c", LIVES], env={MARK: spec.mark}, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    try:
        assert len(processes_left(spec)) == 1
    finally:
        process.kill()
        process.communicate()
    assert processes_left(spec) == []


def test_half_written_and_temporary_files_are_found_but_for_the_usual_ones(tmp_path: Path) -> None:
    calm, spec = make_spec(tmp_path, "calm"), make_spec(tmp_path, "run")
    for folder in (calm.temporary, spec.temporary):
        (folder / "usual").touch()
    assert files_left(spec, calm) == []
    (spec.temporary / "varl-weights-x").mkdir()
    (spec.out / "runs" / "weights").mkdir(parents=True)
    (spec.out / "runs" / "weights" / "v000001.safetensors.part").touch()
    (spec.out / "runs" / ".000002.part").mkdir()
    assert files_left(spec, calm) == [
        "runs/.000002.part",
        "runs/weights/v000001.safetensors.part",
        "tmp/varl-weights-x",
    ]


def test_flipped_bytes_change_the_middle_of_a_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    flip(file)
    assert file.read_bytes() == bytes(500) + b"\xff" * 64 + bytes(436)
