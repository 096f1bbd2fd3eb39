"""Evaluations through a real Redis and a real rollout worker, whose reader is known to the test."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import varl.policy.nextflow
from tests.support.levenshtein import levenshtein
from tests.support.trainer_rig import MODEL, BrightnessReward, make_model, rollout_workers
from varl.evaluation.evaluate import EvalSettings, EvaluationError, evaluate, evaluation_jobs, prompt_result
from varl.evaluation.results import Evaluation, PromptResult, difference
from varl.policy.base import Layout, SamplingParams
from varl.trajectories.collect import Patience, RolloutTimeoutError
from varl.trajectories.prompts import PromptSpec
from varl.trajectories.queue import RunQueue
from varl.v1 import reward_pb2, rollout_pb2, trajectory_pb2

PROMPTS = [
    PromptSpec("a red sign that says 'BREAD'", ("BREAD",)),
    PromptSpec("a wall with 'OPEN DOOR'", ("OPEN DOOR",)),
    PromptSpec("a blue flag that says 'MILK'", ()),
    PromptSpec("a board with 'EXIT'", ("EXIT",)),
]
LAYOUT = Layout(((1, 1), (2, 2), (4, 4), (6, 6), (8, 8)), 64, 64, 5, 32)


class Reader(BrightnessReward):
    """Reads the target words or one wrong letter, by a checksum of the file; remembers each answer.

    ``forced`` decides by the prompt instead.
    """

    def __init__(self, refused: Sequence[str] = (), forced: Mapping[str, bool] | None = None) -> None:
        super().__init__(refused)
        self.forced = forced or {}
        self.answers: dict[str, list[tuple[list[str], list[str], float]]] = {}
        self.images: list[bytes] = []

    def _result(self, sample: reward_pb2.Sample) -> reward_pb2.Result:
        if sample.prompt in self.refused:
            return super()._result(sample)
        targets = [word.lower() for text in sample.target_words for word in text.split()]
        right = self.forced.get(sample.prompt, zlib.crc32(sample.image) % 2 == 0)
        read = targets if right else ["?" + targets[0][1:]]
        value = 1.0 if right else -0.25
        self.answers.setdefault(sample.prompt, []).append((targets, read, value))
        self.images.append(sample.image)
        words = [reward_pb2.Word(text=word.upper(), confidence=0.5, polygon=[0, 0, 8, 0, 8, 8]) for word in read]
        return reward_pb2.Result(id=sample.id, score=reward_pb2.Score(value=value, words=words))


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def queue(redis_client: redis.Redis, run_id: str) -> RunQueue:
    return RunQueue(redis_client, run_id, "trainer")


def settings(run_id: str, **fields: Any) -> EvalSettings:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "layout": LAYOUT,
        "seed": 11,
        "group_size": 3,
        "sampling": SamplingParams(temperature=0.9, top_k=16),
        "rewards": {"ocr": 2.0},
        "patience": Patience(timeout_s=60, max_attempts=2),
        "pictures": 2,
    }
    return EvalSettings(run_id=run_id, **(defaults | fields))


Run = Callable[..., Evaluation]


@pytest.fixture
def run(queue: RunQueue, redis_server: str, run_id: str, model_dir: Path) -> Iterator[Run]:
    """Evaluate by a worker that lives for one evaluation."""

    def go(reader: Reader, weights: Path | None = None, tag: str = "before", **fields: Any) -> Evaluation:  # noqa: ANN401
        with rollout_workers(redis_server, run_id, model_dir, reader, name="ocr"):
            path = str(weights or model_dir / "policy.safetensors")
            return evaluate(
                queue,
                PROMPTS,
                settings(run_id, **fields),
                path,
                0 if weights is None else 5,
                tag,
                lambda done, asked: None,
            )

    yield go


def test_figures_are_pooled_over_every_image(run: Run) -> None:
    reader = Reader()
    found = run(reader)
    answers = [answer for prompt in reader.answers.values() for answer in prompt]
    assert len(answers) == 12
    words = [(target, read) for targets, read, _ in answers for target in targets]
    closeness = [
        1 - min(levenshtein(target, word) / (max(len(target), len(word)) + 1e-5) for word in read)
        for target, read in words
    ]
    assert (
        0 < sum(target in read for target, read in words) < len(words) == 15
    )  # both kinds of image occur, or nothing is tested
    assert found.estimate("word_accuracy").value == pytest.approx(sum(target in read for target, read in words) / 15)
    assert found.estimate("ned").value == pytest.approx(sum(closeness) / 15)
    assert found.estimate("reward").value == pytest.approx(2.0 * sum(value for *_, value in answers) / 12)
    assert found.models == {"ocr": f"{MODEL.engine} {MODEL.name} ({MODEL.revision})"}
    assert [result.target_words for result in found.prompts] == [("bread",), ("open", "door"), ("milk",), ("exit",)]


def test_summary_has_the_promised_keys_and_is_json(run: Run) -> None:
    summary = run(Reader()).summary()
    words = ["word_accuracy", "word_accuracy_se", "ned", "ned_se"]
    named = ["rewards", "rewards_se", "appearance", "appearance_se"]
    assert list(summary) == [*words, "reward", "reward_se", *named, "prompts", "images", "failures"]
    assert (summary["prompts"], summary["images"], summary["failures"]) == (4, 12, 0)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_same_weights_give_the_same_images_and_others_do_not(run: Run, tmp_path: Path) -> None:
    first, again, other = Reader(), Reader(), Reader()
    before = run(first)
    repeated = run(again, tag="after")
    other_weights = tmp_path / "other.safetensors"
    varl.policy.nextflow.build_random(1).save_weights(str(other_weights))
    run(other, weights=other_weights, tag="after")
    assert sorted(first.images) == sorted(again.images) != sorted(other.images)
    assert len(set(first.images)) == 12
    assert repeated.prompts == before.prompts
    change = difference(before, repeated)
    assert (change.changes["word_accuracy"].value, change.changes["word_accuracy"].error, change.prompts) == (
        0.0,
        0.0,
        4,
    )


def test_pictures_are_kept_for_the_first_prompts_alone(run: Run) -> None:
    reader = Reader()
    found = run(reader)
    kept = [result.picture for result in found.prompts]
    assert [picture is not None for picture in kept] == [True, True, False, False]
    assert kept[0] is not None
    assert kept[0].image in reader.images
    assert {word.text.lower() for word in kept[0].words} <= {"bread", "?read"}
    assert kept[0].words[0].polygon == (0, 0, 8, 0, 8, 8)
    assert kept[0].reward in (2.0, -0.5)


def test_a_failed_group_is_listed_and_is_in_no_figure(run: Run) -> None:
    reader = Reader(refused=[PROMPTS[1].prompt])
    found = run(reader)
    assert [result.index for result in found.prompts] == [0, 2, 3]
    [failed] = found.failed
    assert (failed.index, failed.prompt, failed.code) == (1, PROMPTS[1].prompt, "score_failed")
    assert "refused by the test" in failed.detail
    assert found.summary()["failures"] == 1
    assert found.summary()["images"] == 9
    assert reader.asked.count(PROMPTS[1].prompt) == 6  # two attempts


def test_nothing_but_failures_is_an_error_not_a_number(run: Run) -> None:
    with pytest.raises(
        EvaluationError, match=r"all 4 groups failed, the first with score_failed: .*refused by the test"
    ):
        run(Reader(refused=[spec.prompt for spec in PROMPTS]))


def test_a_worker_with_another_model_is_a_failure(run: Run) -> None:
    with pytest.raises(EvaluationError, match="bad_job: grids"):
        run(Reader(), layout=replace(LAYOUT, grids=((1, 1), (2, 2))))


def test_silence_is_an_error(queue: RunQueue, run_id: str, model_dir: Path) -> None:
    patience = Patience(timeout_s=0.2, max_attempts=1)
    with pytest.raises(RolloutTimeoutError, match="4 of run"):
        evaluate(
            queue, PROMPTS, settings(run_id, patience=patience), str(model_dir), 0, "before", lambda done, asked: None
        )


def test_nothing_is_left_in_the_queue_and_progress_is_told(
    queue: RunQueue, redis_client: redis.Redis, redis_server: str, run_id: str, model_dir: Path
) -> None:
    told: list[tuple[int, int]] = []
    weights = str(model_dir / "policy.safetensors")
    with rollout_workers(redis_server, run_id, model_dir, Reader(), name="ocr"):
        evaluate(queue, PROMPTS, settings(run_id), weights, 0, "before", lambda done, asked: told.append((done, asked)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [redis_client.xlen(f"varl:{run_id}:{stream}") for stream in ("jobs", "trajectories", "dead")] == [0, 0, 0]


def test_only_weights_and_names_differ_between_two_evaluations() -> None:
    before = evaluation_jobs(PROMPTS, settings("run"), "base.safetensors", 0, "before")
    after = evaluation_jobs(PROMPTS, settings("run"), "new.safetensors", 9, "after")
    assert len({job.seed for job in before}) == len(PROMPTS)
    assert not {job.job_id for job in before} & {job.job_id for job in after}
    for old, new in zip(before, after, strict=True):
        for field in ("job_id", "update", "weight_version", "weight_path"):
            old.ClearField(field)
            new.ClearField(field)
        assert old == new


def test_a_prompt_without_target_words_is_refused() -> None:
    with pytest.raises(ValueError, match="'an empty wall' has no target word"):
        evaluation_jobs([PromptSpec("an empty wall", ())], settings("run"), "w", 0, "before")


def test_prompts_without_target_words_do_where_nothing_is_read() -> None:
    [job] = evaluation_jobs(
        [PromptSpec("an empty wall", metadata={"tone": "dark"})], settings("run", rewards={"bright": 1.0}), "w", 0, "b"
    )
    assert (list(job.target_words), dict(job.metadata)) == ([], {"tone": "dark"})


def test_another_reward_is_measured_by_its_mean_with_an_error_over_prompts() -> None:
    values = [[0.0, 0.5], [1.0, 0.5], [0.25, 0.25]]
    results = []
    for index, row in enumerate(values):
        scored = [trajectory_pb2.Continuation(rewards={"bright": value}) for value in row]
        candidates = [trajectory_pb2.Candidate(continuations=[image]) for image in scored]
        group = trajectory_pb2.Group(job=rollout_pb2.RolloutJob(group=index, prompt="p"), candidates=candidates)
        results.append(prompt_result(group, {"bright": 2.0}))
    found = Evaluation(tag="b", weight_version=0, seed=1, group_size=2, models={}, prompts=tuple(results), failed=())
    assert found.measures() == ("reward", "reward/bright")
    means = np.mean(values, axis=1)
    assert found.estimate("reward/bright").value == pytest.approx(means.mean())
    assert found.estimate("reward/bright").error == pytest.approx(means.std(ddof=1) / np.sqrt(3))
    summary = found.summary()
    assert "word_accuracy" not in summary
    assert summary["reward"] == pytest.approx(2 * means.mean())
    assert summary["rewards"] == pytest.approx({"bright": means.mean()})


def test_results_of_an_older_run_are_read() -> None:
    old = {
        "index": 0,
        "prompt": "p",
        "target_words": ["x"],
        "images": 2,
        "hits": 1,
        "words": 2,
        "ned_sum": 1.5,
        "reward_sum": 3.0,
    }
    found = PromptResult.model_validate(old | {"reward_sums": {"ocr": 1.5}})
    assert found.shares == {"word_accuracy": (1, 2), "ned": (1.5, 2), "reward": (3.0, 2), "reward/ocr": (1.5, 2)}


def test_hand_worked_prompt() -> None:
    """Targets cat, dog; one image reads CAT and dig, the other nothing."""
    job = rollout_pb2.RolloutJob(group=3, prompt="p", target_words=["cat", "dog"])
    read = [trajectory_pb2.LocatedRegion(reward="ocr", text=text, confidence=1) for text in ("CAT", "dig")]
    images = [
        trajectory_pb2.Continuation(rewards={"ocr": 1.5}, regions=read),
        trajectory_pb2.Continuation(rewards={"ocr": -0.5}),
    ]
    group = trajectory_pb2.Group(
        job=job, candidates=[trajectory_pb2.Candidate(continuations=[image]) for image in images]
    )
    found = prompt_result(group, {"ocr": 2.0})
    assert (found.index, found.images, found.picture) == (3, 2, None)
    assert (found.shares["word_accuracy"], found.shares["reward"], found.shares["reward/ocr"]) == (
        (1, 4),
        (2.0, 2),
        (1.0, 2),
    )
    # cat/cat 1, dog/dig 1 - 1/(3 + 1e-5), twice against the empty word 1 - 3/(3 + 1e-5)
    assert found.shares["ned"] == pytest.approx((1 + (1 - 1 / 3.00001) + 2 * (1 - 3 / 3.00001), 4), abs=1e-12)


def test_difference_pairs_the_prompts_that_both_sides_have(run: Run) -> None:
    first, *_, last = (spec.prompt for spec in PROMPTS)
    before = run(Reader(refused=[first], forced={last: False}))
    after = run(Reader(refused=[last], forced={first: True}), tag="after")
    change = difference(before, after)
    assert change.prompts == 2
    assert change.changes["word_accuracy"].value == 0.0  # the common prompts have the same images
    assert after.estimate("word_accuracy").value > before.estimate("word_accuracy").value
    words = ["word_accuracy", "word_accuracy_se", "ned", "ned_se"]
    assert list(change.summary()) == [
        *words, "reward", "reward_se", "rewards", "rewards_se", "appearance", "appearance_se", "prompts"
    ]  # fmt: skip


def test_evaluations_that_cannot_be_compared_are_refused(run: Run) -> None:
    before = run(Reader())
    with pytest.raises(ValueError, match="seed or images"):
        difference(before, before.model_copy(update={"seed": 12}))
    changed = before.prompts[0].model_copy(update={"prompt": "another"})
    with pytest.raises(ValueError, match="different prompts"):
        difference(before, before.model_copy(update={"prompts": (changed, *before.prompts[1:])}))
    with pytest.raises(ValueError, match="share no prompt"):
        difference(before, before.model_copy(update={"prompts": ()}))


def test_an_evaluation_survives_json(run: Run) -> None:
    found = run(Reader(refused=[PROMPTS[1].prompt]))
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
