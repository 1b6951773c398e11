"""Store deliveries as received, without the rows of erased people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rempart.errors import IngestError
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.ingestion import erasing, landing
from rempart.ingestion.erasing import Cut
from rempart.ingestion.landing import Arrival
from rempart.sites.digests import file_sha256


def cut(run: IngestionRun, file: Path) -> Cut:
    """Return which lines of a delivery hold erased rows, and a file beside it with the others; nothing without any.

    A delivery that cannot be searched has a fault.
    """
    if not run.erased:
        return Cut()
    return erasing.cut_delivery(file, run.pipeline, run.erased.has, file.with_name(f"{file.name}.cut"))


def keep(run: IngestionRun, arrival: Arrival, file: Path, found: Cut, fault: str | None) -> frozenset[int]:
    """Store a delivery without its erased rows, and delete its file here. Return the lines of these rows.

    An unreadable delivery (`fault`) is stored unchanged, as long as quarantine is: it may be ingested again. Raises
    IngestError for a readable one that could not be searched for erased rows.
    """
    until = max(run.retain_until("raw"), run.retain_until("quarantine")) if fault else run.retain_until("raw")
    kept, stored = {"retain-until": until.isoformat()}, arrival
    if not fault and found.fault:
        raise IngestError(
            f"Delivery {arrival.name} ({arrival.sha256[:12]}) of '{run.pipeline.name}' cannot be searched for erased "
            f"rows: {found.fault}. Nothing was ingested",
            "Take it out of the landing bucket, or deliver its rows in smaller files, and run again.",
        )
    is_cut = not fault and found.file is not None
    if is_cut and found.file is not None:
        kept["delivery"] = arrival.sha256
        stored = replace(arrival, sha256=file_sha256(found.file))
        found.file.replace(file)
    landing.keep(run.site, run.lake, run.pipeline.name, stored, file, kept)
    file.unlink()
    return found.lines if is_cut else frozenset()
