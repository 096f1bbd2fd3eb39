"""The figures of a benchmark: those of CVTG-2K's script, by region or category, with what could not be judged."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.levenshtein import levenshtein
from tests.support.published_benchmarks import hpsv3_folder
from varl.evaluation.benchmarks.figures import results, summary
from varl.evaluation.benchmarks.items import Item, cvtg_2k, hpsv3
from varl.evaluation.benchmarks.judge import Judge, Picture, Verdict, pictures_of
from varl.evaluation.benchmarks.published import CVTG_2K, HPSV3, beside_published
from varl.evaluation.benchmarks.scorers import Scored
from varl.services.ocr.engines.base import EngineFailure, EngineModel, OcrEngine, Reading, ReadWord


class Reader:
    """An engine that reads what it is told to, image by image."""

    def __init__(self, readings: Sequence[Reading], revision: str = "1") -> None:
        self._left = list(readings)
        self.model = EngineModel("reader", "test", revision)

    def read(self, images: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]) -> list[Reading]:
        return [self._left.pop(0) for _ in images]


def words(*texts: str, confidence: float = 0.9) -> list[ReadWord]:
    return [ReadWord(text, confidence, ((0, 0), (1, 0), (1, 1))) for text in texts]


def script(prompt: str, lines: Sequence[str]) -> tuple[int, int, list[float]]:
    """CVTG-2K's rules in plain Python: words in all, words right, and the closeness of each."""
    wanted = [word for span in re.findall(r"'(.*?)'", prompt) for word in span.lower().split()]
    seen = [word for line in lines for word in line.lower().split()] or [""]
    nearest = [difflib.get_close_matches(word, seen, n=1, cutoff=0)[0] for word in wanted]
    close = [1 - levenshtein(a, b) / (max(len(a), len(b)) + 1e-5) for a, b in zip(wanted, nearest, strict=True)]
    return len(wanted), sum(word in seen for word in wanted), close


def judged(data: Path, images: Path, engine: OcrEngine, log: Path, min_confidence: float = 0.5) -> list[Verdict]:
    told = list[int]()
    found = Judge(engine, [], min_confidence).judge(pictures_of(cvtg_2k(data), [images]), log, told.append)
    assert told[-1] == len(found)
    return found


def region_results(data: Path, images: Path, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return results(pictures_of(cvtg_2k(data), [images]), verdicts, "region_results")


def test_figures_are_those_of_the_script(data: Path, images: Path, tmp_path: Path) -> None:
    lines = [["Open"], [], ["s bowl", "say"], ["RED BLUE"]]
    verdicts = judged(data, images, Reader([words(*one) for one in lines]), tmp_path / "log.jsonl")
    items = cvtg_2k(data)
    expected = [script(item.prompt, read) for item, read in zip(items, lines, strict=True)]
    found = region_results(data, images, verdicts)
    total, correct = sum(one[0] for one in expected), sum(one[1] for one in expected)
    assert found["overall_results"]["word_accuracy"] == pytest.approx(correct / total, abs=1e-9)
    assert found["overall_results"]["ned"] == pytest.approx(sum(sum(one[2]) for one in expected) / total, abs=1e-9)
    assert (found["overall_results"]["total_words"], found["overall_results"]["correct_words"]) == (total, correct)
    area = [one for item, one in zip(items, expected, strict=True) if item.group == "2"]
    assert found["region_results"]["2"]["word_accuracy"] == pytest.approx(
        sum(one[1] for one in area) / sum(one[0] for one in area)
    )
    assert found["region_results"].keys() == {"2", "3"}


def test_lines_of_little_confidence_are_dropped(data: Path, images: Path, tmp_path: Path) -> None:
    faint = [words("open", "bakery", confidence=0.4), *([words()] * 3)]
    first = judged(data, images, Reader(faint), tmp_path / "a.jsonl")[0]
    assert (first.read, first.correct) == ((), 0)
    assert judged(data, images, Reader(faint), tmp_path / "b.jsonl", min_confidence=0.4)[0].correct == 2


def test_what_cannot_be_judged_is_an_error_and_in_no_figure(data: Path, images: Path, tmp_path: Path) -> None:
    (images / "CVTG/2/0.png").unlink()
    (images / "CVTG/2/1.png").write_bytes(b"no image")
    log = tmp_path / "log.jsonl"
    verdicts = judged(data, images, Reader([EngineFailure("out of memory"), words("red", "blue")]), log)
    found = region_results(data, images, verdicts)
    assert found["failed"][str(images / "CVTG/2/0.png")] == "there is no such image"
    assert found["failed"][str(images / "CVTG/2/1.png")].startswith("UnidentifiedImageError")
    assert found["failed"][str(images / "CVTG/3/0.png")] == "out of memory"
    assert found["overall_results"]["total_images"] == 1 and found["overall_results"]["word_accuracy"] == 1.0
    assert found["region_results"]["3"]["word_accuracy"] is None


def test_a_run_that_was_cut_off_asks_for_the_rest_alone(data: Path, images: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = judged(data, images, Reader([words("open"), EngineFailure("gone"), words("milk"), words("red")]), log)
    text = log.read_text()
    log.write_text(text[: text.rindex('{"image"') + 20])  # the last line was being written
    again = judged(data, images, Reader([words("tea", "hot"), words("red", "blue")]), log)
    assert [one.correct for one in again] == [first[0].correct, 2, first[2].correct, 2]


def test_verdicts_are_made_again_where_image_or_judge_have_changed(data: Path, images: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    read = [words("open"), words("red"), words("milk"), words("red")]
    before = judged(data, images, Reader(read), log)
    assert judged(data, images, Reader([]), log) == before
    Image.new("RGB", (8, 8)).save(images / "CVTG/2/0.png")
    assert judged(data, images, Reader([words("bakery")]), log)[0].read == ("bakery",)
    other = judged(data, images, Reader([words("dog")] * 4, revision="2"), log)
    assert {one.read for one in other} == {("dog",)}
    strict = judged(data, images, Reader([words("dog")] * 4, revision="2"), log, min_confidence=0.95)
    assert {one.read for one in strict} == {()}


def test_published_models_stand_around_ones_own() -> None:
    own = {"word_accuracy": 0.6, "ned": 0.8, "clipscore": None}
    lines = beside_published(CVTG_2K, own, {"2": {"word_accuracy": 0.7}}, "mine").splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith("mine"))
    assert lines[index].split() == ["mine", "0.6000", "0.8000", "-"]
    assert lines[index - 1].startswith("Seedream") and lines[index + 1].startswith("SD3.5 Large")


def test_categories_stand_under_the_published_ones_however_they_are_spelt() -> None:
    groups = {"natural_scenery": {"hpsv3": 9.0}, "Food": {"hpsv3": 8.0}, "more": {"hpsv3": 1.0}}
    lines = beside_published(HPSV3, {"hpsv3": 10.0}, groups, "mine").splitlines()
    own = next(line for line in lines if line.startswith("mine"))
    heads = [re.search(rf"\b{name}\b", lines[0]) for name in ("Natural Scenery", "Food", "Arts")]
    assert [own[: head.end()].split()[-1] for head in heads if head] == ["9.0000", "8.0000", "-"]
    assert all(len(row) == len(HPSV3.columns) for row in HPSV3.rows.values())


class Length:
    """Scores a prompt by its letters; one of "bad" cannot be scored."""

    names, identity = ("length",), "length"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Scored]:
        return ["no such prompt" if prompt == "bad" else {"length": float(len(prompt))} for prompt in prompts]


def test_hpsv3_is_scored_by_category_and_nothing_is_read(tmp_path: Path) -> None:
    items = hpsv3(hpsv3_folder(tmp_path))
    assert [item.image for item in items] == ["arts/0.png", "food/0.png", "food/1.png"]
    pictures = pictures_of(items, [tmp_path / "a", tmp_path / "b"])
    for picture in pictures:
        picture.path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(picture.path)
    verdicts = Judge(None, [Length()], 0.5).judge(pictures, tmp_path / "log.jsonl", lambda done: None)
    found = results(pictures, verdicts, "category_results")
    assert found["overall_results"]["length"] == (14 + 5) / 2
    assert found["overall_results"]["word_accuracy"] is None and found["overall_results"]["total_images"] == 4
    assert found["category_results"]["food"]["length"] == 5 and found["category_results"]["food"]["length_se"] is None
    assert found["seed_results"][str(tmp_path / "b")]["total_images"] == 2
    assert set(found["failed"].values()) == {"no such prompt"}


def test_several_seeds_of_a_prompt_are_one_draw_of_it() -> None:
    pictures = [Picture(Item("0.png", "p", ("w",), ""), Path(folder), index) for index in (0, 1) for folder in "ab"]
    verdicts = [Verdict(image="x", words=2, correct=correct) for correct in (0, 1, 2, 2)]
    found = summary(list(zip(pictures, verdicts, strict=True)))
    once = summary(
        [(pictures[0], Verdict(image="x", words=4, correct=1)), (pictures[2], Verdict(image="x", words=4, correct=4))]
    )
    assert found["word_accuracy"] == 5 / 8
    assert found["word_accuracy_se"] == pytest.approx(once["word_accuracy_se"])


def test_no_images_have_no_figures() -> None:
    assert summary([])["word_accuracy"] is None and summary([])["total_images"] == 0
