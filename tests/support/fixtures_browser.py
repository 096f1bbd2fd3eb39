"""Debian's Chromium, headless, one for a file of tests; what a page complains about fails its test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PATIENCE_MS = 240_000  # that any one wait may take on a busy machine; no test asserts a duration
SHOTS = os.environ.get("VARL_SCREENSHOTS")  # a folder to write the pictures of docs/images into


@pytest.fixture(scope="module")  # while it is open no other event loop runs on this thread
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium here: make browser, as root on Debian")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


class Visit:
    """A browser context whose pages may ask one service alone, and what they complained about."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.complaints: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", lambda message: self._heard(message.type, message.text))
        context.on("request", lambda request: self._asked(request.url))

    def _heard(self, kind: str, text: str) -> None:
        # Refusals are on purpose, and it is a test that reads a canvas more than once.
        expected = text.startswith("Failed to load resource") or "getImageData" in text
        if kind in ("error", "warning") and not expected:
            self.complaints.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.complaints.append(f"asks {url}")

    def open(self) -> Page:
        page = self.context.new_page()
        page.goto(self.url)
        return page


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:  # noqa: ANN401
    """Options are those of a browser context: colour scheme, viewport."""
    context = browser.new_context(**options)
    here = Visit(context, url)
    yield here
    context.close()
    assert not here.complaints


def shot(page: Page, name: str) -> None:
    """Write the picture of a page for the docs, where a folder is named."""
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True, animations="disabled")
