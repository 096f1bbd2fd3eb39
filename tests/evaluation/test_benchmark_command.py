"""``varl benchmark`` as a command: with the real OCR engine, a CLIP in the real format, and a model that draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.published_benchmarks import hpsv3_folder
from varl.cli.benchmark import main


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


def test_the_command_draws_with_a_model_and_asks_a_reward_that_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert record["sampling"]["temperature"] == 1.0 and record["seeds"] == [0, 1]

    again = list(map(str, [*flags, *more[:-2]]))
    assert main(again) == 0  # the same images
    for changed, name in ((["--temperature", "0.3"], "temperature"), (["--guidance", "2"], "cfg")):
        with pytest.raises(SystemExit) as refused:
            main([*again, *changed])
        assert refused.value.code == 2
        assert f"drawn with another {name}: name another folder" in capsys.readouterr().err
    (tmp_path / "drawn/seed-1/drawn.json").unlink()
    with pytest.raises(SystemExit):
        main(again)
    assert "holds images and no drawn.json" in capsys.readouterr().err


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
