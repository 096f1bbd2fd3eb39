"""The API page at /docs, whole from here.

FastAPI's own loads its script from elsewhere, which a closed network does not let through.
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

_ASSETS = "docs/assets"
# The browser sees to it that nothing is asked of another host, whatever the script would like to.
_POLICY = (
    "default-src 'none'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "script-src 'self' 'unsafe-inline'",
    "style-src 'self' 'unsafe-inline'",
    "frame-ancestors 'none'",
)


def add_api_page(app: FastAPI) -> None:
    """Serve Swagger UI, out of the fastapi-offline package, over the app's OpenAPI document."""
    page = get_swagger_ui_html(  # relative URLs: a proxy may put the service under a path
        title=app.title,
        openapi_url="openapi.json",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    )
    page.headers["content-security-policy"] = "; ".join(_POLICY)
    app.mount(f"/{_ASSETS}", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return page
