"""The page at / on which a person tries a service: files of the package, the same for everybody.

It holds nothing of the service. What it shows, its script asks of the routes beside it, with the token where one is
wanted; so the page itself is open, and a caller without a token gets these files and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response

SHARED = Path(__file__).with_name("static")
SCORE_PAGE = SHARED / "score.html"
_ASSETS = "/try"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# No inline script or style, no other host, no frame around it, and no string that the script could run as code.
_POLICY = (
    "default-src 'none'",
    "connect-src 'self'",
    "img-src 'self' blob: data:",
    "script-src 'self'",
    "style-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
)
_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
# Open without a token, whichever page a service has.
PAGE_PATHS = frozenset({"/", *(f"{_ASSETS}/{name}" for name in ("page.css", "page.js", "score.js", "generate.js"))})


def add_try_page(app: FastAPI, page: Path) -> None:
    """Serve an HTML file at /, and under /try its script of the same name and what all pages share.

    The page's URLs are relative: a proxy may put the service under a path.
    """
    files = {"/": page}
    files |= {f"{_ASSETS}/{file.name}": file for file in (page.with_suffix(".js"), SHARED / "page.js")}
    files[f"{_ASSETS}/page.css"] = SHARED / "page.css"
    for path, file in files.items():
        app.add_api_route(path, _answer(file), methods=["GET", "HEAD"], include_in_schema=False)


def _answer(file: Path) -> Callable[[], Coroutine[Any, Any, Response]]:
    content = file.read_bytes()  # once: a stranger's request reads no file

    async def answer() -> Response:
        return Response(content, media_type=_TYPES[file.suffix], headers=_HEADERS)

    return answer
