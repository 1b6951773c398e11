"""Bring scorings of a champion into the user's table, and remember which of them it has got.

A run whose upsert fails leaves its scoring in the lake. The next run that predicts rows brings it, whatever its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rempart.errors import ErasedMeanwhile, ObjectMissing
from rempart.flows.ingestion import derived_run
from rempart.flows.prediction import scorings, user_table
from rempart.flows.prediction.made_scoring import Run
from rempart.flows.prediction.scorings import Scoring
from rempart.flows.shared import erasures
from rempart.ingestion import erasing, snapshots
from rempart.ingestion.derived.inputs import is_derived
from rempart.settings.champions.scoring import Into
from rempart.sites.once import read_named

logger = logging.getLogger(__name__)
_BATCH = 1 << 16
_ALL = 100_000
"""More records than a ledger holds of scorings."""


@dataclass(frozen=True)
class UpsertedScoring:
    """Evidence that a table got a scoring. `at`: when the scoring was made."""

    id: str
    at: str
    connection: str
    table: str


def bring(run: Run, into: Into, scoring: Scoring, made: Sequence[Path], folder: Path) -> int:
    """Bring a scoring into the table, after those of its model's file that the table has not got, oldest first.

    `made`: files with its predictions, if they are on this machine. Return the number of inserted or changed rows. Call
    it inside `Platform.committing`. Raises the errors of `user_table.upsert` and the site.
    """
    ledger, changed = run.platform.ledger, 0
    records = ledger.find("scoring", run.pipeline.name, limit=_ALL)
    known = {UpsertedScoring(**record.body["brought"]) for record in records if "brought" in record.body}
    connection, keys = run.platform.connections(into.connection), scorings.names_of(run.source.row_key)
    for each in scorings.all_of(run.site, run.bucket, run.root):
        if each.asked.sha256 != scoring.asked.sha256:
            continue
        mark = UpsertedScoring(each.id, each.at.isoformat(), into.connection, into.table)
        if each.id != scoring.id and (mark in known or not _may_go(run, each, keys)):
            continue
        files = made if made and each.id == scoring.id else _fetched(run, each, folder)
        changed += user_table.upsert(connection, into, run.pipeline.name, each.columns, keys, files)
        for file in files:
            file.unlink()
        if mark not in known:
            ledger.append("scoring", run.pipeline.name, {"brought": asdict(mark)})
    logger.info("%d rows of %s inserted or replaced", changed, into.table)
    return changed


def _may_go(run: Run, scoring: Scoring, keys: list[str]) -> bool:
    """Return whether a former scoring has the key of today's rows, and respects every erasure in inputs."""
    if not set(keys) <= set(scoring.columns):
        return False
    if not is_derived(run.source):
        return True
    try:
        snapshot = snapshots.read(run.site, run.bucket, run.source.name, scoring.asked.snapshot)
        derived_run.check_clean(run.platform.ledger, snapshot)
    except (ObjectMissing, ErasedMeanwhile):
        return False
    return True


def _fetched(run: Run, scoring: Scoring, folder: Path) -> list[Path]:
    """Return files with a scoring's predictions, without erased rows, fetched from the site."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    who = erasures.erased(run.platform.ledger, run.source.name, erasures.secrets_of(run.platform))
    files = list[Path]()
    for number, part in enumerate(scoring.parts):
        file = folder / f"again-{number:06d}.parquet"
        file.write_bytes(read_named(run.site, run.bucket, part.key, part.sha256))
        if who:
            kept = folder / f"kept-{number:06d}.parquet"
            with pq.ParquetFile(file) as opened, pq.ParquetWriter(kept, opened.schema_arrow) as writer:
                for batch in opened.iter_batches(_BATCH):
                    rows = pa.Table.from_batches([batch])
                    writer.write_table(erasing.split(rows, scorings.names_of(run.source.key), who.has)[0])
            kept.replace(file)
        files.append(file)
    return files
