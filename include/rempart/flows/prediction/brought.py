"""Bring scorings of a champion into the user's table, and remember which of them it has got.

A run whose upsert fails leaves its scoring in the lake. The next run brings it, whatever its rows. After a change of
the champion, also by a rollback, the table gets every scoring of the new champion that is in the lake. Each comes in a
transaction and a commit of its own, so a backup or a switchover waits for one at most, and a run that was killed goes
on with the next one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rempart.errors import ErasedMeanwhile, ObjectMissing, RempartError
from rempart.flows.ingestion import derived_run
from rempart.flows.prediction import scorings, user_table
from rempart.flows.prediction.made_scoring import Run
from rempart.flows.prediction.scorings import Scoring
from rempart.flows.shared import erasures
from rempart.ingestion import erasing, snapshots
from rempart.ingestion.derived.inputs import is_derived
from rempart.ledger.port import Ledger
from rempart.settings.champions.scoring import Into
from rempart.sites.once import read_named

logger = logging.getLogger(__name__)
_BATCH = 1 << 16


@dataclass(frozen=True)
class UpsertedScoring:
    """Evidence that a table got a scoring of a model's file. `at`: when the scoring was made.

    Without an `id`: rows of another file than before come into the table from now on.
    """

    id: str
    sha256: str
    at: str
    connection: str
    table: str


Committing = Callable[[], AbstractContextManager[bool]]
"""Opens a commit of this run, if no row was erased since it began; tells whether its version is still champion."""


@dataclass(frozen=True)
class TableUpdate:
    """What happened to the table: rows that were inserted or changed, and rows of versions that are not champion.

    `superseded`: another version became champion, so the rest did not come.
    """

    changed: int
    of_others: int
    superseded: bool = False


def bring(
    run: Run,
    into: Into,
    sha256: str,
    scoring: Scoring | None,
    made: Sequence[Path],
    folder: Path,
    committing: Committing,
) -> TableUpdate:
    """Bring a champion's scoring into the table, after those of its model's file that the table has not got.

    They come oldest first, and replace older predictions, and all of other versions. `made`: files with the scoring's
    predictions, if they are on this machine. One that cannot come, since its objects are damaged or do not fit, keeps
    no other from the table: its error is raised at the end. Raises the errors of `user_table.upsert`, `committing` and
    the site.
    """
    ledger, name, changed = run.platform.ledger, run.pipeline.name, 0
    marks = _marks(ledger, name, into)
    known = set(itertools.takewhile(lambda mark: mark.sha256 == sha256, marks))
    connection, keys = run.platform.connections(into.connection), scorings.names_of(run.source.row_key)
    is_other, is_champion, faults = bool(marks) and not known, True, list[RempartError]()
    for each in scorings.all_of(run.site, run.bucket, run.root):
        is_asked = scoring is not None and each.id == scoring.id
        mark = UpsertedScoring(each.id, sha256, each.at.isoformat(), into.connection, into.table)
        if each.asked.sha256 != sha256 or (not is_asked and (mark in known or not _may_go(run, each, keys))):
            continue
        try:
            files = made if made and is_asked else _fetched(run, each, folder)
            with committing() as is_champion:
                if not is_champion:
                    break
                if not (is_asked or _may_go(run, each, keys)):  # an erasure in an input came while it was fetched
                    continue
                if is_other:  # before the first row: a run that is killed after its upsert has told it
                    ledger.append("scoring", name, {"brought": asdict(replace(mark, id=""))})
                    is_other = False
                changed += user_table.upsert(connection, into, name, each.columns, keys, files)
                if mark not in known:
                    ledger.append("scoring", name, {"brought": asdict(mark)})
        except RempartError as fault:
            if fault.transient:
                raise
            logger.warning("scoring %s did not come into %s: %s", each.id, into.table, fault.what)
            faults.append(fault)
        finally:
            for file in folder.glob("again-*.parquet"):
                file.unlink()
    logger.info("%d rows of %s inserted or replaced", changed, into.table)
    if faults:
        raise faults[0]
    of_others = user_table.count_of_others(connection, into, name, sha256)
    return TableUpdate(changed, of_others, superseded=not is_champion)


def _marks(ledger: Ledger, model: str, into: Into) -> list[UpsertedScoring]:
    """Return what a table got, newest first."""
    records = ledger.find("scoring", model)
    found = (UpsertedScoring(**record.body["brought"]) for record in records if "brought" in record.body)
    return [mark for mark in found if (mark.connection, mark.table) == (into.connection, into.table)]


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
