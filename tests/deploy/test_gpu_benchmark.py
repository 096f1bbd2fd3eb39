"""``make bench-gpu`` at a tiny size on the CPU: every part gives its figures before there is a GPU."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import document, hpsv3, models, reward_path, setting, wheels

TINY = setting.Setting(torch.device("cpu"), False, 1e9)


@pytest.mark.parametrize("part", list(models.MEASURES))
def test_models_give_times_and_shares(part: str) -> None:
    found: setting.Figures = {}
    for figures in models.MEASURES[part](TINY):
        found |= figures
    shares = [name for name in found if name.endswith("_share")]
    assert shares and all(found[name] > 0 for name in shares)
    assert all(value > 0 for name, value in found.items() if name.endswith("_s"))


def test_updates_are_measured_of_adapters_and_of_both_stages() -> None:
    found: setting.Figures = {}
    for figures in models.MEASURES["update_nextflow"](TINY):
        found |= figures
    assert found["trained"] == f"adapters of rank {models.RANK}"
    assert found["prefix_tokens"] == 2 * (1 + 4 + 16) and found["suffix_tokens"] > found["prefix_tokens"]


def test_hpsv3_is_measured_alone_and_through_its_service() -> None:
    found: setting.Figures = {}
    for figures in hpsv3.measure(TINY):
        found |= figures
    assert found["service_failed"] == 0 and found["engine_share"] > 0
    rates = ("engine_images_s_2", "files_images_s", "service_images_s", "compiled_images_s")
    assert min(found[name] for name in rates) > 0
    assert 0 < sum(found["profile"].values()) <= 1.01 and any("mm" in name for name in found["profile"])


def test_the_reward_path_scores_every_image() -> None:
    found: setting.Figures = {}
    for figures in reward_path.measure(TINY):
        found |= figures
    assert found["failed_batches"] == 0 and found["images_s"] > 0 and 0 <= found["sampler_waits_share"] < 1


def test_the_command_writes_each_part_before_the_next_and_fills_the_table(tmp_path: Path) -> None:
    page, out = tmp_path / "gpu.md", tmp_path / "gpu.json"
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    flags = ["--device", "cpu", "--size", "tiny", "--out", str(out), "--table", str(page), "--wheels", str(tmp_path)]
    assert command.main([*flags, "--parts", "matrix_rate,hpsv3", "--minutes", "0.0001"]) == 1
    assert "minutes" in json.loads(out.read_text())["parts"]["hpsv3"]["failed"]
    assert command.main([*flags, "--parts", "matrix_rate"]) == 0
    assert json.loads(out.read_text())["parts"]["matrix_rate"]["matrix_tflops"] > 0
    text = page.read_text()
    assert "matrix_tflops" in text and "old" not in text and text.startswith("before") and text.endswith("after\n")


def test_a_part_that_dies_keeps_what_it_had_measured() -> None:
    assert command._figures('noise\n{"a": 1}\n{"b": 2}\nTraceback') == {"a": 1, "b": 2}


def test_a_package_is_read_out_of_its_wheel_and_others_pythons_are_left(tmp_path: Path) -> None:
    for name in ("one-1.0-py3-none-any.whl", "two-1.0-cp27-cp27m-manylinux1_x86_64.whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr(f"{name[:3]}.py", "VALUE = 1\n")
    (folder,) = wheels.unpacked(tmp_path)
    assert [path.name for path in Path(folder).iterdir()] == ["one.py"]
    assert wheels.unpacked(tmp_path / "absent") == []
