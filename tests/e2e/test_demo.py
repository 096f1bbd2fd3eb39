"""The demo as a user runs it.

A real subprocess with real Redis, OCR service and rollout worker, on a small random model.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

import varl.policy.nextflow
from tests.support.paths import PYTHONPATH
from tests.support.trainer_rig import make_model
from varl.studies.demo_stages import TRAIN
from varl.studies.report.readings import load_evaluation
from varl.trainer.local_services import local_services
from varl.trainer.recipe.config import load_recipe

WORDS = ("BREAD", "STONE", "RIVER", "LIGHT")
MARK = "VARL_TEST_MARK"

RECIPE = """
[run]
updates = {updates}
seed = 3
threads = 1
[model]
dir = "{directory}/model"
[prompts]
train = "{directory}/train.jsonl"
held_out = "{directory}/held.jsonl"
[rollout]
prompts_per_update = 1
group_size = 2
[evaluation]
every = 2
prompts = 2
samplers = ["greedy"]
[metrics]
samples_every = 0
"""


@dataclass
class Workplace:
    """A directory with a model, prompts and recipes, and a mark by which its processes are known."""

    directory: Path
    mark: str

    def start(self, *flags: str, updates: int = 2, extra: str = "", redis_url: str = "") -> subprocess.Popen[str]:
        run = ["--run-dir", str(self.run), "--prompts", "6"]
        return self.start_module("varl.studies.demo", *run, *flags, updates=updates, extra=extra, redis_url=redis_url)

    def start_module(
        self, module: str, *flags: str, updates: int = 2, extra: str = "", redis_url: str = ""
    ) -> subprocess.Popen[str]:
        recipe = self.directory / f"recipe{updates}.toml"
        recipe.write_text(RECIPE.format(directory=self.directory, updates=updates) + extra)
        environment = os.environ | {"REDIS_URL": redis_url, MARK: self.mark, "PYTHONPATH": PYTHONPATH}
        named = ["--recipe", str(recipe)] if module == "varl.studies.demo" else [str(recipe)]
        return subprocess.Popen(
            [
                "env",
                "--default-signal=INT",
                sys.executable,
                "-u",
                "-m",
                module,
                *named,
                *flags,
            ],  # a shell's background job ignores Ctrl-C
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=True,
        )

    @property
    def run(self) -> Path:
        return self.directory / "runs" / "small"

    def processes(self) -> dict[int, str]:
        """Command lines of everything that the demo left running, by process id."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                marked = (
                    f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes()
                )  # Redis writes its title over it
                if marked or (process / "cwd").readlink().is_relative_to(self.directory):
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile
        return found


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    make_model(tmp_path / "model")
    for name, suffix in (("train", ""), ("held", "S")):
        lines = [
            json.dumps({"prompt": f"sign {n} says '{word}{suffix}'", "target_words": [word + suffix]})
            for n in "12"
            for word in WORDS
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    place = Workplace(tmp_path, uuid.uuid4().hex)
    yield place
    for pid in place.processes():
        os.kill(pid, signal.SIGKILL)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Stdout up to the line that contains ``text``."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"no {text!r} in:\n{seen}\n{process.stderr.read() if process.stderr else ''}")


def test_the_whole_demo(workplace: Workplace) -> None:
    workplace.run.mkdir(parents=True)
    (workplace.run / "old.txt").write_text("an earlier run")
    process = workplace.start("--seed", "8", "--pictures", "3")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert workplace.processes() == {}

    found = json.loads((workplace.run / "eval.json").read_text())
    before, after = load_evaluation(workplace.run, "before"), load_evaluation(workplace.run, "after")
    assert set(found) == {"before", "after", "difference", "samplers"}
    assert list(found["samplers"]) == ["T=1", "greedy"]
    greedy = load_evaluation(workplace.run, "after-greedy")
    assert found["samplers"]["greedy"]["after"] == greedy.summary()
    assert "each with its best sampler: base" in out
    assert (found["before"], found["after"]) == (before.summary(), after.summary())
    assert found["difference"]["word_accuracy"] == found["after"]["word_accuracy"] - found["before"]["word_accuracy"]
    assert (len(before.prompts), len(after.prompts), after.weight_version) == (6, 6, 2)
    assert [result.picture is not None for result in after.prompts] == [True] * 6

    final = workplace.run / "weights" / "final.safetensors"
    varl.policy.nextflow.build_random(0).load_weights(str(final))
    assert set(load_file(final)) == set(load_file(workplace.directory / "model" / "policy.safetensors"))
    assert "seed = 8" in (workplace.run / "config.toml").read_text()
    rows = [json.loads(line) for line in (workplace.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [0, 1, 2]
    assert "eval/word_accuracy" in rows[0]
    assert "sign 1 says &#39;BREADS&#39;" in (workplace.run / "report.html").read_text()

    [aside] = workplace.run.parent.glob("small-*")
    assert (aside / "old.txt").read_text() == "an earlier run"
    assert f"moved to {aside}" in out
    assert [f"[{stage}/6]" in out for stage in range(1, 7)] == [True] * 6
    assert out.count("left in all") == 6
    assert f"report: {workplace.run / 'report.html'}" in out
    progress = re.findall(r"(\d) of 2 updates: reward .*held-out word accuracy \S+; about (\d+) s left", err)
    assert [done for done, _ in progress] == ["1", "2"]


@pytest.mark.parametrize(
    ("number", "status", "stage"), [(signal.SIGINT, 130, "ocr reward service: "), (signal.SIGTERM, 143, f"] {TRAIN}")]
)
def test_a_signal_stops_everything(workplace: Workplace, number: signal.Signals, status: int, stage: str) -> None:
    process = workplace.start(updates=100_000)
    read_until(process, stage)
    assert any("varl.services.ocr" in command for command in workplace.processes().values())
    os.kill(process.pid, number)
    _, err = process.communicate()
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert workplace.processes() == {}


def test_ctrl_c_again_and_again_leaves_nothing_behind(workplace: Workplace) -> None:
    process = workplace.start(updates=100_000)
    read_until(process, f"] {TRAIN}")
    while process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.02)
    process.communicate()
    assert workplace.processes() == {}


def test_a_service_that_dies_ends_the_demo_with_its_log(workplace: Workplace) -> None:
    process = workplace.start(updates=100_000)
    read_until(process, f"] {TRAIN}")
    [victim] = [pid for pid, command in workplace.processes().items() if "varl.services.ocr" in command]
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "ocr was killed by SIGKILL; the end of " in err
    assert "Traceback" not in err
    assert workplace.processes() == {}


def test_a_guard_that_stops_the_demo_is_its_exit_status(workplace: Workplace) -> None:
    demo = workplace.start(extra='[guards]\nzero_spread = "stop"\n')  # nothing to read in noise
    output, problem = demo.communicate(timeout=240)
    assert demo.returncode == 3, output + problem
    assert "guards.zero_spread: none of 1 groups" in problem and "Traceback" not in problem


def test_a_run_that_was_broken_off_goes_on(workplace: Workplace) -> None:
    process = workplace.start("--resume", updates=6)
    read_until(process, "Training")
    metrics = workplace.run / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 2):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    while workplace.processes():  # they end once their trainer is gone
        time.sleep(0.1)
    before = (workplace.run / "evaluations" / "before.json").read_bytes()
    out, err = workplace.start("--resume", updates=6).communicate()
    assert "report:" in out, err
    assert (workplace.run / "evaluations" / "before.json").read_bytes() == before
    assert [json.loads(line)["update"] for line in metrics.read_text().splitlines()] == list(range(7))
    out, _ = workplace.start("--resume", updates=6).communicate()
    assert "finished run" in out
    assert not list(workplace.run.parent.glob("small-*"))  # nothing was moved aside


def test_services_that_run_elsewhere_are_used(workplace: Workplace) -> None:
    (workplace.directory / "recipe2.toml").write_text(RECIPE.format(directory=workplace.directory, updates=2))
    recipe = load_recipe(
        workplace.directory / "recipe2.toml",
        ["--run.dir", str(workplace.directory / "elsewhere"), "--run.name", "small"],
    )
    with local_services(recipe) as services:
        process = workplace.start("--no-local-services", redis_url=services.redis_url)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "report:" in out
        assert "gRPC" not in out
        assert not (workplace.run / "logs").exists()


def test_without_services_a_redis_must_be_named(workplace: Workplace) -> None:
    _, err = workplace.start("--no-local-services").communicate()
    assert "REDIS_URL" in err


def test_the_trainer_itself_can_start_the_services(workplace: Workplace) -> None:
    run = ["--run.dir", str(workplace.run.parent), "--run.name", workplace.run.name]
    process = workplace.start_module("trainer", *run, "--local-services")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert (workplace.run / "weights" / "final.safetensors").exists()
    assert (workplace.run / "logs" / "rollout.log").exists()
    assert workplace.processes() == {}


def test_too_few_held_out_prompts_are_said_before_anything_starts(workplace: Workplace) -> None:
    process = workplace.start("--prompts", "9")
    _, err = process.communicate()
    assert process.returncode == 1
    assert "9 held-out prompts are asked for" in err
    assert not workplace.run.exists()


BOTH = """
[objective]
combination = "normalised_sum"
[[rollout.rewards]]
name = "ocr"
[[rollout.rewards]]
name = "hpsv3"
weight = 0.5
"""


def test_both_rewards_are_served_trained_on_and_reported_by_name(workplace: Workplace) -> None:
    process = workplace.start("--prompts", "2", extra=BOTH)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "hpsv3 reward service: " in out
    metrics = [json.loads(line) for line in (workplace.run / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in metrics if "reward/hpsv3" in row]
    assert len(trained) == 2
    assert all(row["reward/total"] == pytest.approx(row["reward/ocr"] + 0.5 * row["reward/hpsv3"]) for row in trained)
    found = json.loads((workplace.run / "eval.json").read_text())
    for side in ("before", "after"):
        rewards = found[side]["rewards"]
        assert found[side]["reward"] == pytest.approx(rewards["ocr"] + 0.5 * rewards["hpsv3"])
    assert workplace.processes() == {}
