"""Take new deliveries in on this machine, with DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rempart.errors import IngestError
from rempart.flows.ingestion import derived_run, ingest_run
from rempart.flows.ingestion.engines.result import EngineResult
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion import erasing, landing
from rempart.ingestion.deliveries import Refused
from rempart.ingestion.engine.deliveries import HeldRows, StagedDelivery
from rempart.ingestion.landing import Arrival
from rempart.ingestion.snapshots import Snapshot
from rempart.sites.s3.site import file_sha256


def take_in(
    run: IngestionRun, before: Snapshot | None, new: Sequence[Arrival], folder: Path, *, changed: bool
) -> EngineResult:
    """Store the deliveries as received (`folder` has them by their SHA-256), judge their rows, and draw a snapshot up.

    `changed`: the schema changed, which makes a snapshot without new rows too.
    """

    def land(arrival: Arrival) -> tuple[StagedDelivery, frozenset[int]]:
        return _land(run, arrival, folder / arrival.sha256)

    landed = list(bounded_map(new, land, WORKERS))  # one delivery is read while others are stored
    ingest_run.end_reading(sum(rows.delivered for rows, _ in landed))
    read = ingest_run.judged(run, [rows for rows, _ in landed], folder, [struck for _, struck in landed])
    known = derived_run.known_rows(run, before, folder)
    taken = ingest_run.decide(run, read, known, folder)
    refused: list[Refused] = [delivery.refused for delivery in taken.deliveries]
    for i in taken.held:
        refused[i] = HeldRows.on_disk(taken.deliveries[i], ingest_run.resources(run.config, folder))
    found, delivered = taken.deliveries, [delivery.delivered for delivery in taken.deliveries]
    if not taken.accepted and not changed:
        return EngineResult(found, delivered, refused, taken.held, before)
    snapshot, added = ingest_run.draw_up(run, before, known, taken, folder)
    return EngineResult(found, delivered, refused, taken.held, snapshot, added)


def _land(run: IngestionRun, arrival: Arrival, file: Path) -> tuple[StagedDelivery, frozenset[int]]:
    """Store a delivery as received, without erased rows. Return its typed rows, and the lines of erased ones.

    An unreadable file is stored unchanged, as long as quarantine is: it may be ingested again. Raises IngestError for
    a readable one that cannot be searched for erased rows.
    """
    pipeline = run.pipeline
    rows = ingest_run.read(run, file, arrival.name, file.parent)
    until = max(run.retain_until("raw"), run.retain_until("quarantine")) if rows.fault else run.retain_until("raw")
    kept, stored, struck = {"retain-until": until.isoformat()}, arrival, frozenset[int]()
    if run.erased and not rows.fault:
        cut = erasing.cut_delivery(file, pipeline, run.erased.has, file.with_name(f"{file.name}.cut"))
        if cut.fault:
            raise IngestError(
                f"Delivery {arrival.name} ({arrival.sha256[:12]}) of '{pipeline.name}' cannot be searched for erased "
                f"rows: {cut.fault}. Nothing was ingested",
                "Take it out of the landing bucket, or deliver its rows in smaller files, and run again.",
            )
        if cut.file is not None:
            kept["delivery"], struck = arrival.sha256, cut.lines
            stored = replace(arrival, sha256=file_sha256(cut.file))
            cut.file.replace(file)
    landing.keep(run.site, run.lake, pipeline.name, stored, file, kept)
    file.unlink()
    return rows, struck
