"""Properties of a base: the whole table of the committed one."""

from __future__ import annotations

import subprocess
import sys


def test_the_table_of_the_committed_base() -> None:
    flags = ["--task", "words", "--model", "checkpoints/tiny", "--prompts", "4", "--split", "4", "2"]
    command = [sys.executable, "-m", "varl.tiny.properties", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = dict(line.strip("| ").split(" | ", 1) for line in done.stdout.splitlines() if line.startswith("| "))
    assert rows["scales; of them in the suffix"] == "5; 1"
    assert len(rows["entropy by scale, nats a token"].split()) == 5
    masks = list(map(float, rows["mask fraction in the finest 3 scales"].split()))
    assert len(masks) == 3
    assert 0 < float(rows["area of the picture within boxes of words"]) < min(masks)  # cells that are touched in part
    assert float(rows["mean colours of two images of one prompt, CIELAB apart"]) > 0
    assert 0 <= float(rows["word accuracy at temperature 1"]) <= 1
    for split in (4, 2):
        assert 0 <= float(rows[f"share of reward variance decided by the prefix (m = {split})"]) <= 1
