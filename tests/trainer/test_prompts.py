"""Prompt files as runs load them, and which prompt takes the place of one that fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.support.trainer_rig import METHOD, make_model, make_recipe
from tests.support.trajectory_builders import make_job
from varl.services.serving.settings import ServingSettings
from varl.trainer.recipe.changes import inputs
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.dry_run import check_files
from varl.trainer.recipe.prompts import recipe_prompts
from varl.trainer.recipe.sections import PromptSettings
from varl.trainer.rollouts.jobs import PublishedWeights, replacement_job, training_jobs
from varl.trajectories.prompt_files import load_prompts, save_prompts
from varl.trajectories.prompts import MAX_PROMPT_CHARS, MAX_TARGET_WORDS, PromptSpec

LINES = (Path(__file__).parent / "data" / "prompts_refused.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
GOOD = '{"prompt": "says \'x\'"}'
REFUSED = {
    4: "target_words: empty, and prompt: no text in quotes",
    5: "target_words[0]: is blank",
    6: "target_words: 70 given, at most 64",
    7: "prompt: 5000 characters, at most 4096",
}


def ocr_recipe(folder: Path, reward: str = "ocr") -> Recipe:
    return make_recipe(folder, "run", objective=METHOD, rollout={"rewards": [{"name": reward}]})


@pytest.mark.parametrize("number", range(len(LINES)))
def test_what_the_ocr_reward_refuses_is_refused_on_loading(tmp_path: Path, number: int) -> None:
    recipe, path = ocr_recipe(tmp_path), tmp_path / "given.jsonl"
    path.write_text(f"{GOOD}\n\n{LINES[number]}\n", encoding="utf-8")
    if number not in REFUSED:
        assert recipe_prompts(recipe, path)[1].prompt == json.loads(LINES[number])["prompt"]
        return
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {REFUSED[number]}")):
        recipe_prompts(recipe, path)


def test_a_prompt_without_target_is_one_to_other_rewards(tmp_path: Path) -> None:
    recipe = ocr_recipe(tmp_path, "hpsv3")
    path = tmp_path / "other.jsonl"
    path.write_text(LINES[4], encoding="utf-8")
    assert recipe_prompts(recipe, path) == [PromptSpec("a pink board")]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (r'{"prompt": "half \ud83d"}', "prompt: holds half of a surrogate pair"),
        (r'{"prompt": "x", "target_words": ["a", "\udc00b"]}', "target_words[1]: holds half of a surrogate pair"),
        (r'{"prompt": "x", "metadata": {"a": "\ud83d"}}', "metadata: no JSON"),
        (r'{"prompt": " \u2028\t"}', "prompt: is blank"),
        (r'{"prompt": "x", "target_words": ["a", "\u00a0"]}', "target_words[1]: is blank"),
        (json.dumps({"prompt": "x", "target_words": ["w" * 2049] * 2}), "target_words: more than 4096 characters"),
        ('{"prompt": "a\nb"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path}:2: {fault}")):
        load_prompts(path)


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    specs = [PromptSpec("one\u2028two\x85three\x0b 'x' \U0001f600", ("a\u2029b",)), PromptSpec("four")]
    path = tmp_path / "prompts.jsonl"
    save_prompts(path, specs)
    assert load_prompts(path) == specs
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_prompts(path) == specs
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match=re.escape(f"{path}: no UTF-8")):
        load_prompts(path)


def test_the_bounds_are_those_of_the_reward_services() -> None:
    fields = ServingSettings.model_fields
    assert fields["max_prompt_chars"].default == MAX_PROMPT_CHARS
    assert fields["max_target_words"].default == MAX_TARGET_WORDS


def specs(count: int) -> list[PromptSpec]:
    return [PromptSpec(f"prompt {index}", (f"word{index}",)) for index in range(count)]


@pytest.mark.parametrize("count", [4, 8])
def test_a_prompt_that_failed_in_a_place_never_comes_back_to_it(tmp_path: Path, count: int) -> None:
    recipe, prompts = make_recipe(tmp_path, "run", objective=METHOD), specs(count)
    jobs = training_jobs(recipe, 5, prompts, PublishedWeights(5, tmp_path / "v5.safetensors"))
    in_update = {job.prompt for job in jobs}
    failed, tried = jobs[1], [jobs[1].prompt]
    for number in range(1, count):
        job = replacement_job(recipe, prompts, failed, number)
        assert job is not None
        assert job.prompt not in tried
        assert job == replacement_job(recipe, prompts, failed, number)
        assert (job.prompt in in_update) == (number > count - len(in_update))  # those of the update come last
        assert list(job.target_words) == [f"word{job.prompt.split()[1]}"]
        tried.append(job.prompt)
        failed = job
    assert replacement_job(recipe, prompts, failed, count) is None


def test_a_lone_prompt_is_not_replaced_by_itself(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "run", objective=METHOD)
    job = make_job(update=0, group=0)
    assert replacement_job(recipe, [PromptSpec(job.prompt)], job, 1) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.txt", "says 'a'\n\n  says 'b' \n"),
        ("mine.CSV", "prompt,tone\nsays 'a',\nsays 'b',\n"),
        ("mine.jsonl", '{"prompt": "says \'a\'"}\n{"prompt": "says \'b\'"}\n'),
    ],
)
def test_a_file_is_read_by_its_kind(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert recipe_prompts(ocr_recipe(tmp_path), tmp_path / name) == [PromptSpec("says 'a'"), PromptSpec("says 'b'")]


def test_a_folder_has_a_prompt_a_file_and_a_digest_of_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("says 'b'")
    (folder / "a.txt").write_text("says 'a'\n")
    make_model(tmp_path / "model")
    recipe = ocr_recipe(tmp_path).model_copy(update={"prompts": PromptSettings(train=folder, held_out=folder)})
    assert recipe_prompts(recipe, folder) == [PromptSpec("says 'a'"), PromptSpec("says 'b'")]
    check_files(recipe)
    model = torch.nn.Linear(1, 1)
    before = inputs(recipe, model)["prompts"]
    assert inputs(recipe, model)["prompts"] == before
    (folder / "a.txt").write_text("says 'c'\n")
    assert inputs(recipe, model)["prompts"] != before


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [("x.txt", "says 'a'\nno quotes\n", "x.txt:2: "), ("x.csv", "prompt\nsays 'a'\nno quotes\n", "x.csv:3: ")],
)
def test_what_a_reward_refuses_is_named_by_file_and_line_in_every_kind(
    tmp_path: Path, name: str, text: str, where: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{where}target_words: empty, and prompt: no text in quotes"):
        recipe_prompts(ocr_recipe(tmp_path), tmp_path / name)
