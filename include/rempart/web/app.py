"""Build the routes under /rempart of Airflow's API server.

Airflow mounts plugin apps without authentication, so each route checks the user itself.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import asdict
from typing import Any, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from rempart.errors import RempartError
from rempart.ledger.port import Kind
from rempart.web import api, sources
from rempart.web.details import model_card, profile, quarantine, record, restore_point, rollback, runs
from rempart.web.page import Page
from rempart.web.page_routes import routes
from rempart.web.pages import collect
from rempart.web.rendering import FOLDER, base, navigation, render
from rempart.web.security.access import Reader, requires

logger = logging.getLogger(__name__)
KINDS: tuple[Kind, ...] = get_args(Kind)
PLAIN = ("/api/", "/metrics", "/evidence")
"""Paths below the prefix that programs read: their errors are JSON."""

STATIC = {
    "cockpit.css": "text/css",
    "theme.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "icon-dark.svg": "image/svg+xml",
}


def build(pages: tuple[Page, ...]) -> FastAPI:
    """Return the application with these pages in its navigation; the first one opens first."""
    app = FastAPI(title="Rempart", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.pages = pages
    app.add_api_route("/evidence", newest_evidence, dependencies=[Depends(requires("read_evidence"))])
    app.add_api_route("/", home, include_in_schema=False)
    app.add_api_route("/static/{name}", static, include_in_schema=False)
    app.include_router(api.router)
    app.include_router(api.figures)
    for page in pages:
        app.include_router(routes(page))
    for part in (restore_point, record, quarantine, profile, rollback, model_card, runs):
        app.include_router(part.api)
        app.include_router(part.router)
    app.exception_handler(HTTPException)(refuse)
    app.exception_handler(RequestValidationError)(refuse_parameters)
    app.exception_handler(RempartError)(tell)
    app.exception_handler(Exception)(stumble)
    return app


def newest_evidence() -> dict[str, Any]:
    """Return the newest record of each kind."""
    ledger = sources.ledger()
    found = {kind: ledger.find(kind, limit=1) for kind in KINDS}
    return {kind: asdict(records[0]) for kind, records in found.items() if records}


def home(request: Request, user: Reader) -> Response:
    return RedirectResponse(f"{base(request)}/{navigation(request)[0].name}")


def static(name: str, user: Reader) -> Response:
    if name not in STATIC:
        raise HTTPException(404, "No such file")
    headers = {"Cache-Control": "private, max-age=300", "X-Content-Type-Options": "nosniff"}
    return FileResponse(FOLDER / "static" / name, media_type=STATIC[name], headers=headers)


async def refuse(request: Request, error: HTTPException) -> Response:
    """Answer a refused or unknown request in the requested format."""
    if _is_plain(request):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
    return render(request, "error", status=error.status_code, number="", detail=str(error.detail), refused=())


async def refuse_parameters(request: Request, error: RequestValidationError) -> Response:
    """Answer a request whose path or query has values that the route does not take, in the requested format."""
    if _is_plain(request):
        return await request_validation_exception_handler(request, error)
    found = error.errors()
    refused = [(each["loc"][-1], f"parameter.{each['type']}", each["msg"], each.get("ctx", {})) for each in found]
    needed = any(each["loc"][0] == "path" or each["type"] == "missing" for each in found)
    page = "" if needed else request.url.path
    return render(request, "error", status=422, number="", detail="", refused=refused, page=page)


async def tell(request: Request, error: RempartError) -> Response:
    """Answer with a platform error and its remedy, for example if a database does not answer."""
    logger.warning("A page under /rempart: %s", error)
    if _is_plain(request):
        return JSONResponse({"detail": error.what, "hint": error.hint}, 503)
    return render(request, "error", status=503, number="", detail=str(error), refused=())


async def stumble(request: Request, error: Exception) -> Response:
    """Answer an internal error with a number; the log has the cause under that number."""
    number = secrets.token_hex(4)
    logger.error("Incident %s on %s", number, request.url.path, exc_info=error)
    if _is_plain(request):
        return JSONResponse({"detail": f"The API server's log has the cause under {number}."}, 500)
    return render(request, "error", status=500, number=number, detail="", refused=())


def _is_plain(request: Request) -> bool:
    path = str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))
    return path.startswith(PLAIN)


app = build(collect())
