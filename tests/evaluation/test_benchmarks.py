"""CVTG-2K from its published layout, read by the real OCR engine and a CLIP in the real format."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from tests.support.levenshtein import levenshtein
from tests.support.ocr_builders import render
from tests.support.tiny_clip import make_clip
from varl.cli.benchmark import main
from varl.evaluation.benchmarks.clip_score import MEAN, PREFIX, STD, ClipScorer, preprocess
from varl.evaluation.benchmarks.figures import results, summary
from varl.evaluation.benchmarks.items import Item, cvtg_2k, hpsv3, prompt_file
from varl.evaluation.benchmarks.judge import Judge, Picture, Verdict, pictures_of
from varl.evaluation.benchmarks.published import CVTG_2K, HPSV3, beside_published
from varl.evaluation.benchmarks.scorers import Scored
from varl.services.ocr.engines.base import EngineFailure, EngineModel, OcrEngine, Reading, ReadWord

PROMPTS = {
    ("CVTG", 2): ["A street with 'OPEN' above a door and 'BAKERY' on a van", "A cup with 'TEA' and 'HOT'"],
    ("CVTG", 3): ["The dog's bowl says 'MILK', 'WATER' and 'FOOD'"],  # the apostrophe begins a span
    ("CVTG", 4): [],
    ("CVTG", 5): [],
    ("CVTG-Style", 2): ["'RED' in red and 'BLUE' in blue"],
    ("CVTG-Style", 3): [],
    ("CVTG-Style", 4): [],
    ("CVTG-Style", 5): [],
}


def publish(folder: Path) -> Path:
    for (name, area), prompts in PROMPTS.items():
        path = folder / name / f"{area}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [{"index": index, "prompt": prompt} for index, prompt in enumerate(prompts)]
        path.write_text(json.dumps({"data_list": entries}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return publish(tmp_path / "CVTG-2K")


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    """An image for each prompt that shows its first capital word alone."""
    for item in cvtg_2k(data):
        path = tmp_path / "images" / item.image
        path.parent.mkdir(parents=True, exist_ok=True)
        word = re.findall("[A-Z]{3,}", item.prompt)[0]
        Image.fromarray(render([word], (160, 80), 30)).save(path)
    return tmp_path / "images"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("models") / "clip")


def test_the_published_folder_is_read_with_the_target_rule_of_its_script(data: Path) -> None:
    items = cvtg_2k(data)
    assert [item.image for item in items] == ["CVTG/2/0.png", "CVTG/2/1.png", "CVTG/3/0.png", "CVTG-Style/2/0.png"]
    assert [item.group for item in items] == ["2", "2", "3", "2"]
    assert items[0].targets == ("open", "bakery")
    assert items[2].targets == ("s", "bowl", "says", ",", "and")  # as the script has it, not as a reader would


def test_a_folder_that_is_not_as_published_is_named(data: Path, tmp_path: Path) -> None:
    (data / "CVTG-Style").rename(data / "CVTG-style")  # its other spelling
    assert len(cvtg_2k(data)) == 4
    (data / "CVTG" / "3.json").write_text('{"data_list": [{"index": 1}]}')
    with pytest.raises(ValueError, match=r"3.json: want data_list of entries with index and prompt"):
        cvtg_2k(data)
    (data / "CVTG" / "3.json").unlink()
    with pytest.raises(ValueError, match=r"3.json: No such file"):
        cvtg_2k(data)
    with pytest.raises(ValueError, match="there is no folder CVTG in it"):
        cvtg_2k(tmp_path / "nothing")


def test_files_of_prompts_alone_and_images_of_other_endings_will_do(data: Path, images: Path, tmp_path: Path) -> None:
    whole = cvtg_2k(data)
    for path in data.rglob("*.json"):
        entries = json.loads(path.read_text())["data_list"]
        plain = {str(entry["index"]): entry["prompt"] for entry in entries}
        path.with_stem(f"{path.stem}_combined").write_text(json.dumps(plain))
        path.unlink()
    assert cvtg_2k(data) == whole
    (data / "CVTG" / "2_combined.json").write_text('{"first": "A cup"}')
    with pytest.raises(ValueError, match=r"2_combined.json: want data_list of entries"):
        cvtg_2k(data)
    path = images / "CVTG/2/0.png"
    path.rename(path.with_suffix(".jpeg"))
    assert pictures_of(whole, [images])[0].path == path.with_suffix(".jpeg")
    assert pictures_of(whole, [tmp_path / "none"])[0].path.suffix == ".png"


def test_a_prompt_file_has_an_image_for_each_line(tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text('a sign that says "New York"\n\n')
    (item,) = prompt_file(path)
    assert (item.image, item.targets, item.group) == ("00000.png", ("new", "york"), "")
    (same,) = prompt_file(path.rename(tmp_path / "prompts"))  # without an ending
    assert same == item
    assert prompt_file(Path("recipes/prompts/signs_heldout.jsonl"))[0].targets == ("pasta", "song", "flour")
    with pytest.raises(ValueError, match="No such file"):
        prompt_file(tmp_path / "none.txt")


class Reader:
    """An engine that reads what it is told to, image by image."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._left = list(readings)
        self.model = EngineModel("reader", "test", "1")

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


def test_clip_score_is_that_of_the_model_on_the_transform_of_openai(clip_folder: Path) -> None:
    images = [Image.fromarray(render(["TEA"], size)) for size in ((64, 64), (90, 40), (33, 70))]
    prompts = ["the tea", "a wall " * 60, "the owner’s &amp; his"]
    cleaned = [*prompts[:2], "the owner's & his"]  # as OpenAI's tokenizer begins
    model: Any = CLIPModel.from_pretrained(clip_folder)
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    expected = []
    for image, prompt in zip(images, cleaned, strict=True):
        ids = tokenizer(PREFIX + prompt)["input_ids"]
        ids = [*ids[:76], ids[-1]]
        values = np.asarray(resized(image, 32), np.float32) / 255
        pixels = torch.from_numpy(((values - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            found = model(pixel_values=pixels, input_ids=torch.tensor([ids]))
        one, other = found.image_embeds[0].numpy(), found.text_embeds[0].numpy()
        expected.append(2.5 * max(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)), 0.0))
    assert ClipScorer(str(clip_folder)).score(images, prompts) == pytest.approx(
        expected, abs=5e-6
    )  # float32, summed in another order
    assert max(expected) > 0


def resized(image: Image.Image, size: int) -> Image.Image:
    """torchvision's Resize and CenterCrop, written out."""
    width, height = image.size
    new = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    large = image.convert("RGB").resize(new, Image.Resampling.BICUBIC)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    return large.crop((left, top, left + size, top + size))


def test_the_transform_gives_squares_in_clips_range() -> None:
    white = preprocess(Image.new("RGB", (50, 200), "white"), 32)
    assert white.shape == (3, 32, 32)
    assert white[:, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)], abs=1e-5)


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

    names = ("length",)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Scored]:
        return ["no such prompt" if prompt == "bad" else {"length": float(len(prompt))} for prompt in prompts]


def hpsv3_folder(folder: Path) -> Path:
    for category, captions in {"food": ["a pie", "bad"], "arts": ["a mask of wood"]}.items():
        entries = [{"caption": one, "image_file": f"x/{i}.jpg"} for i, one in enumerate(captions)]
        (folder / f"benchmark_{category}.json").write_text(json.dumps(entries))
    return folder


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


def test_a_benchmark_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no benchmark_CATEGORY\.json"):
        hpsv3(tmp_path)
    (tmp_path / "benchmark_food.json").write_text('[{"caption": "a pie"}]')
    with pytest.raises(ValueError, match=r"benchmark_food.json: want a list of entries with caption and image_file"):
        hpsv3(tmp_path)


def test_several_seeds_of_a_prompt_are_one_draw_of_it() -> None:
    pictures = [Picture(Item("0.png", "p", ("w",), ""), Path(folder), index) for index in (0, 1) for folder in "ab"]
    verdicts = [Verdict(image="x", words=2, correct=correct) for correct in (0, 1, 2, 2)]
    found = summary(list(zip(pictures, verdicts, strict=True)))
    once = summary(
        [(pictures[0], Verdict(image="x", words=4, correct=1)), (pictures[2], Verdict(image="x", words=4, correct=4))]
    )
    assert found["word_accuracy"] == 5 / 8
    assert found["word_accuracy_se"] == pytest.approx(once["word_accuracy_se"])


def test_the_command_reads_a_folder_and_writes_the_keys_of_the_script(
    data: Path, images: Path, clip_folder: Path, tmp_path: Path
) -> None:
    code = "import sys; from varl.cli import main; sys.exit(main())"
    flags = ["cvtg-2k", "--data", data, "--images", images, "--out", tmp_path / "out.json", "--clip", clip_folder]
    command = [sys.executable, "-c", code, "benchmark", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "out.json").read_text())
    overall = record["overall_results"]
    keys = {"word_accuracy", "ned", "clipscore", "total_images", "total_words", "correct_words"}
    assert keys <= overall.keys() and record["region_results"].keys() == {"2", "3"}
    areas = [(one["area"], one["benchmark_type"], one["total_images"]) for one in record["area_results"]]
    assert areas == [(2, "CVTG", 2), (3, "CVTG", 1), (2, "CVTG-Style", 1)]
    assert (overall["correct_words"], overall["total_words"]) == (
        3,
        11,
    )  # one an image, none by the apostrophe
    assert 0 <= overall["clipscore"] <= 2.5
    assert "NextFlow-RL" in done.stdout and "PP-OCRv6" in record["ocr"]


def test_the_command_draws_with_a_model_and_asks_a_reward_that_it_starts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red sign that says 'CAT'\na blue board that says 'DOG'\n")
    code = "import sys; from varl.cli import main; sys.exit(main())"
    flags = ["prompts", "--data", prompts, "--images", tmp_path / "drawn", "--out", tmp_path / "out.json"]
    more = ["--model", "checkpoints/tiny", "--seeds", "2", "--reward", "examples/brightness.py:Brightness"]
    command = [sys.executable, "-c", code, "benchmark", *map(str, [*flags, *more])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == [
        f"drawn/seed-{seed}/0000{index}.png" for seed in (0, 1) for index in (0, 1)
    ]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["overall_results"]["total_images"] == 4 and len(record["seed_results"]) == 2
    assert 0 < record["overall_results"]["brightness"] < 1
    assert record["sampling"]["temperature"] == 1.0


def test_a_wrong_flag_or_file_is_said(
    data: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["cvtg-2k", "--data", str(data), "--images", str(images), "--out", str(tmp_path / "o.json")]
    for flags, message in (
        ([*given[:2], str(tmp_path / "none"), *given[3:]], "argument --data"),
        ([*given[:4], str(tmp_path / "none"), *given[5:]], "argument --images"),
        ([*given, "--min-confidence", "2"], "argument --min-confidence"),
        (["cvtg", *given[1:]], "invalid choice: 'cvtg'"),
        ([*given, "--model", str(tmp_path / "none")], "argument --model"),
        ([*given[:5], str(images), *given[5:], "--model", "checkpoints/tiny"], "it is one folder"),
        (["hpsv3", "--data", str(hpsv3_folder(tmp_path)), *given[3:]], "hpsv3 needs --url"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(flags)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert main([*given, "--clip", str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_no_images_have_no_figures() -> None:
    assert summary([])["word_accuracy"] is None and summary([])["total_images"] == 0
