"""Routes under /rempart of Airflow's API server. Airflow mounts plugin apps without authentication: each route asks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import get_user, requires_access_view
from fastapi import Depends, FastAPI

from rempart.ledger.port import Kind
from rempart.orchestration import runtime
from rempart.web.access import requires

app = FastAPI(
    title="Rempart",
    dependencies=[Depends(get_user), Depends(requires_access_view(AccessView.WEBSITE))],
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
)

KINDS: tuple[Kind, ...] = get_args(Kind)


@app.get("/evidence", dependencies=[Depends(requires("read_evidence"))])
def newest_evidence() -> dict[str, Any]:
    """The newest record of each kind: what was last ingested, promoted, denied, backed up, proved and so on."""
    ledger = runtime.platform().ledger
    found = {kind: ledger.find(kind, limit=1) for kind in KINDS}
    return {kind: asdict(records[0]) for kind, records in found.items() if records}
