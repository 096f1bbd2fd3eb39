"""The page to try a service, as a stranger gets it: files that say nothing of the service, and no way out of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from tests.support.compat_rig import ToyScorer
from varl.policy.base import SamplingParams
from varl.services.gateway.gateway import Gateway
from varl.services.gateway.http_app import build_gateway_app
from varl.services.gateway.settings import GatewaySettings
from varl.services.rollout.generation import Limits
from varl.services.rollout.http_app import build_preview_app
from varl.services.rollout.places import Places
from varl.services.rollout.preview import Preview
from varl.services.serving.access import BearerGate, Tokens
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings

LOADED = re.compile(r"""(?:src|href|from)\s*=?\s*["']([^"']+)["']""")
SECRET = "a-name-that-only-the-service-knows"


@pytest.fixture(params=["service", "gateway", "rollout"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[FastAPI]:
    if request.param == "service":
        yield build_app(ScoringService(ServingSettings.model_validate({}), ToyScorer(SECRET)))
    elif request.param == "rollout":
        preview = Preview(SamplingParams(), Limits(1, 1), Places(1), Path(SECRET))
        yield build_preview_app(preview, SECRET)
    else:
        gateway = Gateway(GatewaySettings.model_validate({"reward": {SECRET: "localhost:1"}}))
        yield build_gateway_app(gateway)
        await gateway.close()


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")


async def page_files(http: httpx.AsyncClient) -> dict[str, httpx.Response]:
    """The page and all that it and its scripts load, by path."""
    found, ahead = dict[str, httpx.Response](), ["/"]
    while ahead:
        path = ahead.pop()
        found[path] = answer = await http.get(path)
        if answer.headers.get("content-type", "").startswith(("text/html", "text/javascript")):
            urls = [url for url in LOADED.findall(answer.text) if not url.startswith("data:")]
            ahead += [url for url in (urljoin(path, url) for url in urls) if url not in found]
    return found


async def test_a_stranger_gets_the_page_and_nothing_else(app: FastAPI) -> None:
    refusals: list[None] = []
    async with client(BearerGate(app, Tokens(("sesame",)), lambda: refusals.append(None))) as http:
        files = await page_files(http)
        assert len(files) == 4 and all(answer.status_code == 200 for answer in files.values())
        assert not any(SECRET in answer.text for answer in files.values())
        assert not refusals
        others = ["/v1/info", "/docs", "/try", "/try/", "/try/none.js", "/try/page.css/", "/try/../v1/info"]
        assert [(await http.get(path)).status_code for path in others] == [401] * len(others)
        assert (await http.post("/", content=b"x")).status_code == 405


async def test_the_browser_may_run_load_and_ask_nothing_but_the_service(app: FastAPI) -> None:
    async with client(app) as http:
        files = await page_files(http)
    for path, answer in files.items():
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy.pop("default-src") == "'none'"
        assert policy.pop("require-trusted-types-for") == "'script'"
        assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}
        assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text) is None, path
        assert re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", answer.text) is None, path


async def test_its_urls_are_relative_so_that_a_proxy_may_put_it_under_a_path(app: FastAPI) -> None:
    async with client(app) as http:
        page = (await http.get("/")).text
        script = await http.get("/try/page.js")
    assert all(not url.startswith("/") for url in LOADED.findall(page))
    assert script.headers["content-type"].startswith("text/javascript")
    assert "document.baseURI" in script.text


async def test_probes_may_ask_for_its_head_alone(app: FastAPI) -> None:
    async with client(app) as http:
        answer = await http.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
