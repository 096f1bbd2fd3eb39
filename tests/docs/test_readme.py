"""The first page: short, with pictures, without dead links, and with commands that work as they are printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.support.ocr_builders import OCRProcess
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^ *```sh\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
COMMANDS: list[str] = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def the_command(beginning: str) -> str:
    (found,) = (line for line in COMMANDS if line.startswith(beginning))
    return found


def run(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_short_and_has_pictures() -> None:
    assert len(README.split()) <= 900
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) >= 2
    for picture in pictures:
        with Image.open(ROOT / picture) as image:
            image.verify()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert "demo" in targets
    assert not [target for target in targets if f"\n{target}:" not in makefile]


def test_a_picture_is_drawn_and_scored_as_printed(ocr_service: OCRProcess, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    drawing = the_command(".venv/bin/varl generate").replace(
        "runs/demo/weights/final.safetensors", str(ROOT / "checkpoints/tiny_signs/policy.safetensors")
    )
    assert run(drawing, tmp_path).strip() == "sign.png"

    scoring = the_command("curl").replace("localhost:8080", ocr_service.http.removeprefix("http://"))
    (result,) = json.loads(run(scoring, tmp_path))["results"]
    assert result["words"]
    assert result["value"] != 0
