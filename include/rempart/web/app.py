"""Routes under /rempart of Airflow's API server. Airflow mounts plugin apps without authentication: each route asks."""

from __future__ import annotations

import logging
import secrets
from dataclasses import asdict
from typing import Any, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from rempart.errors import RempartError
from rempart.ledger.port import Kind
from rempart.web import api, sources
from rempart.web.pages import pages, quarantine_pages, rollback_pages, run_pages
from rempart.web.rendering import render
from rempart.web.security.access import requires

logger = logging.getLogger(__name__)
KINDS: tuple[Kind, ...] = get_args(Kind)
PLAIN = ("/api/", "/metrics", "/evidence")
"""Paths below the prefix that programs read: their errors are JSON."""

app = FastAPI(title="Rempart", version="1", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/evidence", dependencies=[Depends(requires("read_evidence"))])
def newest_evidence() -> dict[str, Any]:
    """Return the newest record of each kind."""
    ledger = sources.ledger()
    found = {kind: ledger.find(kind, limit=1) for kind in KINDS}
    return {kind: asdict(records[0]) for kind, records in found.items() if records}


app.include_router(api.router)
app.include_router(api.figures)
app.include_router(pages.router)
for part in (quarantine_pages, rollback_pages, run_pages):
    app.include_router(part.api)
    app.include_router(part.router)


@app.exception_handler(HTTPException)
async def refuse(request: Request, error: HTTPException) -> Response:
    """Answer a refused or unknown request in the format of the request."""
    if _is_plain(request):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
    return render(request, "error", status=error.status_code, number="", detail=str(error.detail))


@app.exception_handler(RempartError)
async def tell(request: Request, error: RempartError) -> Response:
    """Answer with a platform error and its remedy, for example if a database does not answer."""
    logger.warning("A page under /rempart: %s", error)
    if _is_plain(request):
        return JSONResponse({"detail": error.what, "hint": error.hint}, 503)
    return render(request, "error", status=503, number="", detail=str(error))


@app.exception_handler(Exception)
async def stumble(request: Request, error: Exception) -> Response:
    """Answer an internal error with a number; the log has the cause under that number."""
    number = secrets.token_hex(4)
    logger.error("Incident %s on %s", number, request.url.path, exc_info=error)
    if _is_plain(request):
        return JSONResponse({"detail": f"The API server's log has the cause under {number}."}, 500)
    return render(request, "error", status=500, number=number, detail="")


def _is_plain(request: Request) -> bool:
    path = str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))
    return path.startswith(PLAIN)
