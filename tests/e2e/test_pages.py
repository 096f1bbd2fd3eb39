"""The pages to try, in a real browser on real services.

VARL_SCREENSHOTS=docs/images writes the pictures of the docs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.support.fixtures_browser import shot, visit
from tests.support.ocr_builders import ENVIRONMENT, OCRProcess, png, render
from tests.support.paths import ROOT
from varl.policy.base import SamplingParams
from varl.policy.generate import generate_by_scale
from varl.policy.nextflow import load

PROMPT = "a sign that says 'FRESH BREAD'"
SIGN = "it's a sign; fresh.png"  # a name that shells and curl read in their own ways
PHONE = {"width": 390, "height": 844}
CANVAS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
MODEL = ROOT / "checkpoints" / "tiny"


@contextmanager
def running(module: str, *flags: str) -> Iterator[str]:
    """A service of this repository that is ready: the URL of its HTTP port."""
    command = [sys.executable, "-m", module, "--http-port", "0", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['http_port']}/"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    (folder / SIGN).write_bytes(png(render(["FRESH", "BREAD"], (320, 240), 56)))
    (folder / "notes.png").write_text("no picture")
    (folder / "token").write_text("sesame")
    return folder


def score(page: Page, file: Path, prompt: str = PROMPT, words: str = "") -> None:
    page.get_by_label("Picture", exact=True).set_input_files(file)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Target words").fill(words)
    page.get_by_role("button", name="Score", exact=True).click()


def shown_code(page: Page, name: str) -> str:
    return page.locator(".code", has=page.get_by_role("heading", name=name)).locator("pre").inner_text()


def answer_of(command: list[str], folder: Path) -> Any:  # noqa: ANN401
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"VARL_TOKEN": "sesame"}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_picture_is_scored_and_the_code_that_is_shown_does_the_same(
    chromium: Browser, ocr_service: OCRProcess, folder: Path
) -> None:
    with visit(chromium, f"{ocr_service.http}/", viewport={"width": 1120, "height": 800}) as here:
        page = here.open()
        expect(page.get_by_role("heading", level=1)).to_have_text("Score a picture: ocr")
        score(page, folder / SIGN)
        value = page.locator(".value")
        expect(value).to_be_visible()
        assert 1.5 < float(value.inner_text()) <= 2
        assert [line.split()[0] for line in page.locator("dt").all_inner_texts()] == ["comp", "sim", "pen"]
        words = page.locator(".words button")
        assert [text.split()[0].upper() for text in words.all_inner_texts()] == ["FRESH", "BREAD"]
        picture = page.locator(".picture img").bounding_box()
        box = page.locator("polygon.over").first.bounding_box()
        assert picture and box and picture["x"] < box["x"] and picture["y"] < box["y"]
        assert box["width"] > picture["width"] / 3 and box["y"] < picture["y"] + picture["height"] / 2  # the upper word
        words.first.focus()
        expect(page.locator("polygon.lit")).to_have_count(1)
        shot(page, "page-score")
        by_curl = json.loads(answer_of(["sh", "-c", shown_code(page, "curl").replace("curl", "curl -s", 1)], folder))
        assert f"{by_curl['results'][0]['value']:.3f}" == value.inner_text()
        by_python = answer_of([sys.executable, "-c", shown_code(page, "Python")], folder)
        assert f"'value': {by_curl['results'][0]['value']}" in by_python


def test_what_is_wrong_is_said_in_words(chromium: Browser, ocr_service: OCRProcess, folder: Path) -> None:
    with visit(chromium, f"{ocr_service.http}/") as here:
        page = here.open()
        fault = page.locator("#results .fault")
        page.get_by_role("button", name="Score", exact=True).click()
        expect(fault).to_contain_text("There is no picture yet")
        score(page, folder / "notes.png")
        expect(fault).to_contain_text("This file is not a picture that can be scored")
        score(page, folder / SIGN, "a sign")
        expect(fault).to_contain_text("There are no words to look for")
        page.get_by_text("Metadata").click()
        page.get_by_label("JSON object").fill("[1]")
        score(page, folder / SIGN)
        expect(fault).to_contain_text("The metadata is no JSON object")
        page.get_by_label("JSON object").fill("")
        here.context.set_offline(True)
        page.get_by_label("Prompt", exact=True).press("Enter")  # the keyboard's way to send
        expect(fault).to_contain_text("The service does not answer")
        here.context.set_offline(False)
        page.get_by_label("Prompt", exact=True).press("Enter")
        expect(page.locator(".value")).to_be_visible()


def test_a_gateway_asks_for_its_token_and_the_tab_alone_keeps_it(
    chromium: Browser, ocr_service: OCRProcess, folder: Path
) -> None:
    rewards = ["--reward", f"ocr={ocr_service.grpc}", "--reward", "absent=127.0.0.1:1"]
    with (
        running("varl.services.gateway", *rewards, "--token-file", str(folder / "token")) as url,
        visit(chromium, url, color_scheme="dark", viewport=PHONE) as here,
    ):
        page = here.open()
        expect(page.get_by_label("Token")).to_be_focused()
        assert "ocr" not in page.content() and not page.locator("#page").is_visible()
        shot(page, "page-token")
        page.keyboard.type("wrong\n")
        expect(page.get_by_text("The service did not accept that token.")).to_be_visible()
        page.keyboard.type("sesame\n")
        expect(page.get_by_text("absent (")).to_be_visible()
        score(page, folder / SIGN, "a sign", "fresh bread")
        expect(page.locator(".value")).to_be_visible()
        expect(page.locator("#results .fault")).to_contain_text("absent: The service is not ready")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
        red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(red, green, blue) < 60
        shot(page, "page-score-phone-dark")
        assert "sesame" not in shown_code(page, "curl") + shown_code(page, "Python") + page.url
        code = shown_code(page, "curl").replace("curl", "curl -s", 1)
        assert json.loads(answer_of(["sh", "-c", code], folder))["rewards"]["ocr"]["results"][0]["value"] > 1
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
        expect(here.open().get_by_label("Token")).to_be_visible()  # another tab


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are the same but for rounding, which another number of threads changes."""
    return int(np.abs(one.astype(int) - other.astype(int)).max()) <= 2


def test_a_picture_grows_scale_by_scale_beside_that_of_the_tuned_weights(chromium: Browser, tmp_path: Path) -> None:
    tuned = load(MODEL)
    with torch.no_grad():
        for parameter in tuned.module.parameters():
            parameter.mul_(0.9)
    tuned.save_weights(str(tmp_path / "final.safetensors"))
    flags = ["--model-dir", str(MODEL), "--grpc-port", "0", "--metrics-port", "0", "--tuned-weights", str(tmp_path)]
    with (
        running("varl.services.rollout", *flags) as url,
        visit(chromium, url, viewport={"width": 1120, "height": 800}) as here,
    ):
        page = here.open()
        page.get_by_label("Seed").fill("5")
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.get_by_role("slider")).to_be_enabled()
        captions = [text.split() for text in page.locator("figcaption").all_inner_texts()]
        assert captions == [["base", "5", "of", "5"], ["final", "5", "of", "5"]]
        shot(page, "page-draw")
        for scale in (5, 3):
            page.get_by_role("slider").fill(str(scale))
            for canvas, policy in zip(page.locator("canvas").all(), (load(MODEL), tuned), strict=True):
                drawn = np.array(canvas.evaluate(CANVAS), np.uint8).reshape(64, 64, 4)[..., :3]
                assert alike(drawn, expected(policy, 5)[scale - 1])
        page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
        code = shown_code(page, "curl")
        answer_of(["sh", "-c", code], tmp_path)
        assert alike(opened(tmp_path / "picture.png"), expected(load(MODEL), 5)[-1])
        page.get_by_label("Temperature").fill("0.5")
        page.evaluate("document.getElementById('prompt').value = 'x'.repeat(5000)")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#results .fault")).to_contain_text("The service cannot take this request")


def expected(policy: Any, seed: int) -> list[Any]:  # noqa: ANN401
    prompt, params = "a red sign that says 'CAT'", SamplingParams(temperature=0.5)
    return [step.pixels[0] for step in generate_by_scale(policy, prompt, 1, seed, params)]


def opened(path: Path) -> Any:  # noqa: ANN401
    return np.asarray(Image.open(path))
