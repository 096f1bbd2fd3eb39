"""CVTG-2K and HPSv3's benchmark in their published layouts, with a few prompts."""

from __future__ import annotations

import json
from pathlib import Path

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


def hpsv3_folder(folder: Path) -> Path:
    for category, captions in {"food": ["a pie", "bad"], "arts": ["a mask of wood"]}.items():
        entries = [{"caption": one, "image_file": f"x/{i}.jpg"} for i, one in enumerate(captions)]
        (folder / f"benchmark_{category}.json").write_text(json.dumps(entries))
    return folder
