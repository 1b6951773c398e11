"""Take new deliveries in on this machine, with DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rempart.flows.ingestion import derived_run, ingest_run
from rempart.flows.ingestion.engines import received
from rempart.flows.ingestion.engines.result import EngineResult
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion.engine.deliveries import HeldRows, StagedDelivery
from rempart.ingestion.erasing import Cut
from rempart.ingestion.landing import Arrival
from rempart.ingestion.refused import Refused
from rempart.ingestion.snapshots import Snapshot


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

    Raises IngestError for a readable one that cannot be searched for erased rows.
    """
    rows = ingest_run.read(run, file, arrival.name, file.parent)
    found = Cut() if rows.fault else received.cut(run, file)
    return rows, received.keep(run, arrival, file, found, rows.fault)
