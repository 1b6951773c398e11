"""Serve what only programs read: the export of the ledger, the OpenAPI document, and figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from rempart.web import metrics, sources
from rempart.web.security.access import requires

READ, EVIDENCE = Depends(requires("read")), Depends(requires("read_evidence"))

router = APIRouter(prefix="/api")


@router.get("/ledger/export", dependencies=[EVIDENCE], response_class=PlainTextResponse)
def export_ledger(after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> StreamingResponse:
    """Return the records after number `after`, one line for each, in the format of `rempart ledger export`."""
    entries = sources.ledger().entries(after)

    def lines() -> Iterator[str]:
        for entry in entries:
            yield f"{entry.line}\n"

    name = f"ledger-from-{after + 1}.jsonl"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(lines(), media_type="application/jsonl", headers=headers)


@router.get("/openapi.json", dependencies=[READ], include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI document of these routes."""
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document | {"servers": [{"url": request.scope.get("root_path", "")}]})


figures = APIRouter()


@figures.get("/metrics", dependencies=[READ], response_class=PlainTextResponse)
def read_metrics() -> PlainTextResponse:
    """Return lag, restore points, drills, denials and quarantine in the text format of Prometheus."""
    text = metrics.exposition(sources.newest(), sources.now())
    return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE, headers={"Cache-Control": "no-store"})
