"""The API page of a service and of the gateway: every byte of it comes from the process itself."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.compat_rig import ToyScorer
from varl.services.gateway.gateway import Gateway
from varl.services.gateway.http_app import build_gateway_app
from varl.services.gateway.settings import GatewaySettings
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings

HOST = re.compile(r"(https?:)?//[\w.]+", re.IGNORECASE)
BASE = "http://here"


@pytest.fixture(params=["service", "gateway"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[FastAPI]:
    if request.param == "service":
        yield build_app(ScoringService(ServingSettings.model_validate({}), ToyScorer("toy")))
    else:
        gateway = Gateway(GatewaySettings.model_validate({"reward": {"toy": "localhost:1"}}))
        yield build_gateway_app(gateway)
        await gateway.close()


class Loads(HTMLParser):
    """What a browser loads for a page: scripts, styles, pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value for name, value in attrs if value and (name == "src" or (tag == "link" and name == "href"))]


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


async def test_the_page_names_no_other_host_and_the_browser_may_ask_none(app: FastAPI) -> None:
    async with client(app) as http:
        answer = await http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert HOST.search(answer.text) is None
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} <= {
        "'self'",
        "'none'",
        "'unsafe-inline'",
        "data:",
    }


def behind_proxy(app: FastAPI, path: str) -> ASGIApp:
    """The app under a path that it knows nothing of."""

    async def stripped(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith(path)
        await app({**scope, "path": scope["path"].removeprefix(path)}, receive, send)

    return stripped


@pytest.mark.parametrize("under", ["", "/rewards/a"])
async def test_all_that_it_loads_is_there_also_behind_a_proxy_that_puts_it_under_a_path(
    app: FastAPI, under: str
) -> None:
    async with client(behind_proxy(app, under)) as http:
        page = await http.get(f"{under}/docs")
        found = [await http.get(urljoin(str(page.url), url)) for url in Loads(page.text).urls]
        (document,) = re.findall(r"url: '([^']+)'", page.text)
        assert (await http.get(urljoin(str(page.url), document))).json() == app.openapi()
    assert [answer.status_code for answer in found] == [200] * 3
    style, icon, script = found
    assert style.headers["content-type"].startswith("text/css")
    assert ".swagger-ui" in style.text
    assert HOST.search(re.sub(r"url\([\"']?data:[^)]*\)", "", style.text)) is None
    assert icon.content.startswith(b"\x89PNG")
    assert script.headers["content-type"].startswith("text/javascript")
    assert re.search(r'PACKAGE_VERSION:"5\.', script.text), "an older Swagger UI cannot read OpenAPI 3.1"
    assert app.openapi()["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    "path", ["/redoc", "/docs/assets/none.js", "/docs/assets/../__init__.py", "/docs/assets/%2e%2e/core.py"]
)
async def test_nothing_else_is_there(app: FastAPI, path: str) -> None:
    async with client(app) as http:
        assert (await http.get(path)).status_code == 404
