"""What the pages show, as JSON: the read models as they are, with an OpenAPI document; and figures for Prometheus."""

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
    """The verdict, where everything lives, figures against objectives, open denials, champions."""
    return overview.overview(sources.newest(), sources.now())


@router.get("/sites", dependencies=[READ])
def read_sites() -> sites.Sites:
    """Each site's proven capabilities, and each pair's lag over time."""
    return sites.sites(sources.newest(), sources.now())


@router.get("/restore-points", dependencies=[READ])
def read_points() -> points.Points:
    """The restore points that stand, newest first."""
    return points.points(sources.newest(), sources.now())


@router.get("/restore-points/{point}", dependencies=[READ])
def read_point(point: PointId) -> points.Explained:
    """One restore point, its drills, and the decision that allowed its place."""
    try:
        return sources.point(point)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


@router.get("/models", dependencies=[READ])
def read_models() -> models.Models:
    """Champions, what the gate said of each version, and lineage."""
    return models.models(sources.newest(), sources.now())


@router.get("/data", dependencies=[READ])
def read_data(page: PageNumber = 0) -> data.Data:
    """Pipelines, and snapshots with their counts, newest first."""
    return data.data(sources.newest(), sources.now(), page)


@router.get("/ledger", dependencies=[EVIDENCE])
def read_ledger(kind: Kind = None, subject: Subject = None, before: Before = None) -> evidence.EvidencePage:
    """A page of the ledger, newest first."""
    return sources.page(kind or None, subject or None, before)


@router.get("/ledger/export", dependencies=[EVIDENCE], response_class=PlainTextResponse)
def export_ledger(after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> StreamingResponse:
    """The chain from the record after `after` on, one line for each, as `rempart ledger export` writes them."""
    entries = sources.ledger().entries(after)

    def lines() -> Iterator[str]:
        for entry in entries:
            yield f"{entry.line}\n"

    name = f"ledger-from-{after + 1}.jsonl"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(lines(), media_type="application/jsonl", headers=headers)


@router.get("/ledger/{seq}", dependencies=[EVIDENCE])
def read_record(seq: Sequence) -> evidence.Examined:
    """One record, and what is found when it is looked at in its place."""
    try:
        return sources.record(seq)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


@router.get("/openapi.json", dependencies=[READ], include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document of these routes."""
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document | {"servers": [{"url": request.scope.get("root_path", "")}]})


figures = APIRouter()


@figures.get("/metrics", dependencies=[READ], response_class=PlainTextResponse)
def read_metrics() -> PlainTextResponse:
    """Lag, restore points, drills, denials and quarantine in the text format of Prometheus."""
    text = metrics.exposition(sources.newest(), sources.now())
    return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE, headers={"Cache-Control": "no-store"})
