"""The prompts of a benchmark, from its published folder or a file, and their images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from varl.evaluation.benchmarks.items import cvtg_2k, hpsv3, prompt_file
from varl.evaluation.benchmarks.judge import pictures_of


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


def test_a_prompt_may_name_its_image_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("prompt,image,group\na sign 'CAT',signs/cat.jpg,animals\na sign 'TEA',,\n")
    named, plain = prompt_file(path)
    assert (named.image, named.group, named.targets) == ("signs/cat.jpg", "animals", ("cat",))
    assert (plain.image, plain.group) == ("00001.png", "")
    for outside in ("/etc/cat.png", "../cat.png"):
        path.write_text(f"prompt,image\na sign,{outside}\n")
        with pytest.raises(ValueError, match=r"metadata\.image: '.*cat.png' is not below the folder of images"):
            prompt_file(path)


def test_a_benchmark_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no benchmark_CATEGORY\.json"):
        hpsv3(tmp_path)
    (tmp_path / "benchmark_food.json").write_text('[{"caption": "a pie"}]')
    with pytest.raises(ValueError, match=r"benchmark_food.json: want a list of entries with caption and image_file"):
        hpsv3(tmp_path)
