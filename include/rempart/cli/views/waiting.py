"""Look which deliveries wait in the landing bucket: the ledger knows a delivery only after its ingestion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rempart.cli.views import text
from rempart.counts import size
from rempart.deployment.setup.terminal import printable
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform
from rempart.settings.pipeline import Pipeline
from rempart.web.read_models.pipeline_states import NextStep

AT_MOST = 10.0
"""Seconds for the whole look."""
_NAMED = 3


@dataclass(frozen=True)
class WaitingFiles:
    """Files that wait, their bytes, and the names of the first. `silent`: why the look has no result."""

    files: int = 0
    bytes: int = 0
    names: tuple[str, ...] = ()
    silent: str | None = None


def look(open_platform: Callable[[], Platform], pipeline: Pipeline, seconds: float = AT_MOST) -> WaitingFiles:
    """Return what waits under the pipeline's prefix at the active site. No file is read."""
    found = time_limit.answers({"site": lambda: waiting_of(open_platform(), pipeline)}, seconds)["site"]
    if isinstance(found, WaitingFiles):
        return found
    return WaitingFiles(silent=time_limit.reason(found))


def waiting_of(platform: Platform, pipeline: Pipeline) -> WaitingFiles:
    """Look at the active site, however long it takes. Raises SiteError."""
    from rempart.ingestion import landing

    site, prefix = platform.active_site(pipeline.classification), pipeline.source.prefix
    found = landing.waiting(site, platform.config.buckets.landing, prefix)
    names = tuple(printable(info.key.removeprefix(prefix), keep="") for info in found[:_NAMED])
    return WaitingFiles(len(found), sum(info.size for info in found), names)


def step(found: WaitingFiles, pipeline: str, otherwise: NextStep) -> NextStep:
    """Return what a person does next: waiting files come before the next delivery, and after a decision. Pure."""
    if not found.files or not otherwise.command.startswith("rempart pipeline deliver"):
        return otherwise
    return NextStep(f"{_counted(found)} for ingestion.", f"rempart pipeline run {pipeline} --follow")


def line(found: WaitingFiles) -> str:
    """Return what waits, or why it is not known. Pure."""
    if found.silent:
        return f"UNKNOWN: which deliveries wait: {found.silent}"
    if not found.files:
        return "Waiting: no file"
    more = f" and {found.files - len(found.names)} more" if found.files > len(found.names) else ""
    return f"Waiting: {text.counted(found.files, 'file')} ({size(found.bytes)}): {', '.join(found.names)}{more}"


def _counted(found: WaitingFiles) -> str:
    return text.counted(found.files, "delivery waits", "deliveries wait")


def as_json(found: WaitingFiles | None) -> dict[str, Any] | None:
    """Return what waits for a JSON document; None if the pipeline's file is not valid. Pure."""
    if found is None:
        return None
    if found.silent:
        return {"files": None, "bytes": None, "unknown": found.silent}
    return {"files": found.files, "bytes": found.bytes, "unknown": None}
