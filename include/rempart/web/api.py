"""Serve the pages' content as JSON (the read models, with an OpenAPI document), and figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from rempart.errors import ObjectMissing
from rempart.web import metrics, sources
from rempart.web.read_models import data, evidence, models, overview, points, sites
from rempart.web.security.access import requires

READ, EVIDENCE = Depends(requires("read")), Depends(requires("read_evidence"))
Sequence = Annotated[int, Path(ge=1, le=2**53, description="A record's number.")]
PointId = Annotated[str, Path(pattern=r"^\d{8}T\d{6}Z-[0-9a-f]{6,16}$", description="A restore point's id.")]
Before = Annotated[int | None, Query(ge=1, le=2**53, description="Records with a smaller number than this.")]
Kind = Annotated[str | None, Query(max_length=60, description="A kind of evidence, such as `drill`.")]
Subject = Annotated[str | None, Query(max_length=300, description="A subject, exactly as it is written.")]
PageNumber = Annotated[int, Query(ge=0, le=100_000, description="Pages count from 0.")]

router = APIRouter(prefix="/api")


@router.get("/overview", dependencies=[READ])
def read_overview() -> overview.Overview:
    """Return the verdict, all places, figures against objectives, open denials, champions."""
    return overview.overview(sources.newest(), sources.now())


@router.get("/sites", dependencies=[READ])
def read_sites() -> sites.Sites:
    """Return each site's proven capabilities, and each pair's lag over time."""
    return sites.sites(sources.newest(), sources.now())


@router.get("/restore-points", dependencies=[READ])
def read_points() -> points.Points:
    """Return the existing restore points, newest first."""
    return points.points(sources.newest(), sources.now())


@router.get("/restore-points/{point}", dependencies=[READ])
def read_point(point: PointId) -> points.Explained:
    """Return one restore point, its drills, and the decision that allowed its place."""
    try:
        return sources.point(point)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


@router.get("/models", dependencies=[READ])
def read_models() -> models.Models:
    """Return champions, the gate's verdict on each version, and lineage."""
    return models.models(sources.newest(), sources.now())


@router.get("/data", dependencies=[READ])
def read_data(page: PageNumber = 0) -> data.Data:
    """Return pipelines, and snapshots with their counts, newest first."""
    return data.data(sources.newest(), sources.now(), page)


@router.get("/ledger", dependencies=[EVIDENCE])
def read_ledger(kind: Kind = None, subject: Subject = None, before: Before = None) -> evidence.EvidencePage:
    """Return a page of the ledger, newest first."""
    return sources.page(kind or None, subject or None, before)


@router.get("/ledger/export", dependencies=[EVIDENCE], response_class=PlainTextResponse)
def export_ledger(after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> StreamingResponse:
    """Return the chain after record `after`, one line for each record, in the format of `rempart ledger export`."""
    entries = sources.ledger().entries(after)

    def lines() -> Iterator[str]:
        for entry in entries:
            yield f"{entry.line}\n"

    name = f"ledger-from-{after + 1}.jsonl"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(lines(), media_type="application/jsonl", headers=headers)


@router.get("/ledger/{seq}", dependencies=[EVIDENCE])
def read_record(seq: Sequence) -> evidence.Examined:
    """Return one record with findings about it in its place."""
    try:
        return sources.record(seq)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


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
