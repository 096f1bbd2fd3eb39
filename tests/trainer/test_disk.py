"""A disk without room while a run goes on.

Waited for, then a typed end, and the resumed run equals an undisturbed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.full_disks import Filled, Limited, Scarce, largest_file, small_disk
from tests.support.rollout_helpers import WAIT_S, RunningReward, rollout_process, running_reward
from tests.support.same_runs import assert_same_final_weights, measured, write_recipe
from tests.support.trainer_process import trainer_process
from tests.support.trainer_rig import make_model, make_updater, read_metrics
from varl.trainer.checkpoints.checkpoint import checkpoints
from varl.trainer.disk.metrics_log import METRICS_FILE, RunLog
from varl.trainer.disk.retry import Storage, StorageError
from varl.trainer.recipe.config import Recipe
from varl.trainer.rollouts.publish import Publisher
from varl.trainer.step.update import Updater

UPDATES, PATIENCE_S, MEBIBYTES = 9, 12.0, 24
REFUSED = r"could not be written, trying again"
COUNTS = ("checkpoint/failures", "disk/refusals")  # what the disk did, told by the disturbed run alone


@pytest.fixture(scope="module")
def reward() -> Iterator[RunningReward]:
    with running_reward() as running:
        yield running


def recipe_of(directory: Path, name: str, runs: Path) -> tuple[Path, Recipe]:
    checkpoint = {
        "every": 2,
        "keep": 1,
        "keep_weights": UPDATES + 1,
        "disk_patience_s": PATIENCE_S,
    }  # none makes room for another
    run = {"updates": UPDATES, "dir": runs}
    return write_recipe(directory, name, run=run, checkpoint=checkpoint, evaluation={"every": 0})


@pytest.fixture(scope="module")
def whole(redis_server: str, tmp_path_factory: pytest.TempPathFactory, reward: RunningReward) -> Path:
    """The run directory of a run that nobody disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    model = make_model(directory / "model")
    file, recipe = recipe_of(directory, "disk-whole", directory / "runs")
    with (
        rollout_process(redis_server, "disk-whole", model, {"bright": reward.target}),
        trainer_process(file, redis_server, directory / "log") as run,
    ):
        assert run.process.wait(WAIT_S) == 0, run.log.read_text()[-2000:]
    return recipe.run.dir / recipe.run.name


@pytest.fixture(params=["full", "limited"])
def scarce(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Scarce]]:
    """Where runs go, and the way to take their room."""
    if request.param == "limited":
        yield tmp_path / "runs", Limited()
        return
    with small_disk(tmp_path / "disk", MEBIBYTES) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a disk; the limit on files is tested")
        yield tmp_path / "disk", Filled(tmp_path / "disk")


@pytest.mark.timeout(900)
def test_a_run_waits_for_room_then_ends_with_a_message_and_goes_on_where_it_was(
    redis_server: str, run_id: str, tmp_path: Path, reward: RunningReward, whole: Path, scarce: tuple[Path, Scarce]
) -> None:
    runs, room = scarce
    model = make_model(tmp_path / "model")
    file, _ = recipe_of(tmp_path, run_id, runs)
    directory = runs / run_id
    with rollout_process(redis_server, run_id, model, {"bright": reward.target}):
        with trainer_process(file, redis_server, tmp_path / "first.log") as first:
            first.says("update 2: updating on")
            room.fill(first.process.pid)
            place = first.says(REFUSED)
            room.clear(first.process.pid)
            place = first.says(r"update \d+: stepped", place)
            place = first.says(r"checkpoint \d+: acknowledged", place)
            place = first.says("updating on", place)
            room.fill(first.process.pid)
            assert first.process.wait(WAIT_S) == 1
            told = first.log.read_text()[place:]
        kept = checkpoints(directory / "checkpoints")[-1].name
        ending = (
            rf"python -m trainer: StorageError: .* could not be written for {PATIENCE_S:g} s: .*; "
            r"once it can, --resume goes on\n$"
        )
        assert re.search(ending, told), told
        assert max(row.get("disk/refusals", 0) for row in read_metrics(directory)) >= 1
        if isinstance(room, Filled):
            room.clear(first.process.pid)
        with trainer_process(file, redis_server, tmp_path / "second.log") as second:
            second.says(f"checkpoint {int(kept)}: restored")
            second.finishes()
    disturbed = [{name: value for name, value in row.items() if name not in COUNTS} for row in measured(directory)]
    assert disturbed == measured(whole)
    assert_same_final_weights(whole, directory)


@pytest.fixture
def updater() -> Updater:
    return make_updater()


@pytest.mark.parametrize(("keep", "published"), [(2, True), (3, False)])
def test_a_version_takes_the_room_of_the_oldest_that_goes_for_it(
    tmp_path: Path, updater: Updater, keep: int, published: bool
) -> None:
    with small_disk(tmp_path / "disk", 2) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a disk")
        publisher = Publisher(tmp_path / "disk" / "weights", updater, None, keep)
        publisher.publish(0)
        publisher.publish(1)
        Filled(tmp_path / "disk").fill(0)
        if published:
            publisher.publish(2)
        else:
            with pytest.raises(StorageError, match=r"weights 2 could not be written for 0 s: .*No space left"):
                publisher.publish(2)
        names = sorted(path.name for path in (tmp_path / "disk" / "weights").iterdir())
        versions = (1, 2) if published else (0, 1)
        assert names == [f"v00000{version}.{kind}" for version in versions for kind in ("json", "safetensors")]


def test_a_line_of_metrics_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.write(0, {"loss": 1.0})
        with (
            largest_file((tmp_path / METRICS_FILE).stat().st_size + 5),
            pytest.raises(StorageError, match="metrics of update 1"),
        ):
            log.write(1, {"loss": 2.0})
        log.write(1, {"loss": 3.0})
    assert read_metrics(tmp_path) == [{"update": 0, "loss": 1.0}, {"update": 1, "loss": 3.0}]


def test_what_is_shown_is_published_once(tmp_path: Path, updater: Updater) -> None:
    publisher = Publisher(tmp_path, updater, None, 2)
    shown = publisher.publish_average(0)
    before = shown.path.stat()
    assert publisher.current(0) is shown and shown.path.stat().st_ino == before.st_ino
    assert publisher.publish(0).path.stat().st_ino != before.st_ino  # asked for again: a worker could not read it
    assert publisher.current(1).version == 1


def test_only_an_os_error_is_waited_for_and_each_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    storage, answers = Storage(60.0), iter([OSError("no room"), OSError("no room"), None])

    def write() -> str:
        answer = next(answers)
        if answer is not None:
            raise answer
        return "written"

    assert storage.keep_trying("it", write) == "written" and storage.refusals == 2
    assert caplog.text.count("it could not be written, trying again") == 2
    with pytest.raises(ZeroDivisionError):
        storage.keep_trying("it", lambda: 1 // 0)
    assert storage.refusals == 2
