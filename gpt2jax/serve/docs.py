"""The OpenAPI document as a page at ``/docs``, with nothing fetched from elsewhere."""

import fastapi
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

# Where Swagger UI's files are served; the guard lets them pass without a key.
ASSETS = "/docs-assets"


def add_docs(app: fastapi.FastAPI) -> None:
    """``/docs`` with Swagger UI, whose files are those of the package fastapi-offline."""
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-assets")
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
        # A request can be sent at once; its answer shows how long it took.
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page
