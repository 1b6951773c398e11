"""Empty prediction logs: an erasure in a pipeline reaches the logs of those that are derived from it or use its views.

An entry there has another key than the erased row, and features that may be a sum over many rows. So nobody can tell
which entries hold its values. Each entry from before the features were clean loses its inputs and features. Who asked,
when, which version answered, and what, stays.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rempart.errors import RempartError
from rempart.flows.erasure import erase_listing, erase_objects, erase_versions
from rempart.flows.erasure.erase_objects import Search
from rempart.flows.erasure.erase_report import DescendantResult
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.ingestion import derived_run
from rempart.flows.shared import erasures, used_views
from rempart.ingestion.derived.inputs import ancestors
from rempart.ledger.port import Ledger
from rempart.serving import hour_files
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import named_or_removed
from rempart.sites.spool import spool_folder

BARRIER_SECONDS = 300.0
"""Seconds for which the record waits for running commits."""
STATE = "log emptied"


def emptied_before(ledger: Ledger, pipeline: str) -> datetime | None:
    """Return the time up to which a pipeline's entries have no inputs and features; None if all have theirs."""
    records = ledger.find("erasure", pipeline)
    times = [datetime.fromisoformat(record.body["before"]) for record in records if record.body["state"] == STATE]
    return max(times, default=None)


def emptied(body: bytes, before: datetime) -> tuple[bytes | None, int]:
    """Return a file of the log whose entries from before a time have no inputs and features, and how many lost them.

    None if no entry loses any.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = hour_files.read(body)
    private = [name for name in hour_files.PRIVATE if name in table.column_names]
    is_old = pc.less_equal(table["at"], pa.scalar(before, table.schema.field("at").type))
    struck = pa.chunked_array([pa.repeat(False, table.num_rows)])
    for name in private:
        struck = pc.or_(struck, pc.and_(is_old, pc.is_valid(table[name])))
    if not (count := pc.sum(struck).as_py()):
        return None, 0
    for name in private:
        kind = table.schema.field(name).type
        table = table.set_column(
            table.column_names.index(name), name, pc.if_else(struck, pa.scalar(None, kind), table[name])
        )
    return hour_files.encode(table), int(count)


def follow(stores: ErasureStores, done: DescendantResult) -> DescendantResult:
    """Empty the log of a pipeline in which an erasure was followed; return the result with that. Safe to repeat.

    Entries that were logged after the same erasures had been followed stay as they are. What cannot be emptied is
    pending, by name.
    """
    name, ledger = done.pipeline, stores.ledger
    try:
        file = named_or_removed(name)
        if not isinstance(file, ModelPipeline) and not ledger.find("prediction-log", name, limit=1):
            return done
        before = _recorded(stores, done)
        with spool_folder() as folder:
            return _emptied(stores, file, done, before, folder)
    except RempartError as error:
        return replace(done, pending={**done.pending, f"prediction log of '{name}'": error.what})


def _recorded(stores: ErasureStores, done: DescendantResult) -> datetime:
    """Return the time before which entries may hold erased values, and record it: shipments empty later ones by it."""
    ledger, name = stores.ledger, done.pipeline
    wanted = {entry.id for source in _sources(ledger, name) for entry in erasures.on_record(ledger, source)}
    for record in ledger.find("erasure", name):
        if record.body["state"] == STATE and wanted <= set(record.body["erasures"]):
            return datetime.fromisoformat(record.body["before"])
    before = stores.clock()
    followed = sorted(wanted) if _is_clean(done) else []  # else the next run empties what is logged until then
    with stores.active_sites.barrier(BARRIER_SECONDS):
        ledger.append("erasure", name, {"state": STATE, "before": before.isoformat(), "erasures": followed})
    return before


def _is_clean(done: DescendantResult) -> bool:
    """Return whether the feature stores of a pipeline have no erased values any more."""
    left = [place for place in done.pending if place.startswith(("pipeline '", "feature store of '"))]
    return done.withdrawn or not left


def _sources(ledger: Ledger, name: str) -> set[str]:
    """Return every pipeline of which this one is derived or uses views, or ever did, and theirs."""
    inputs = derived_run.recorded_inputs(ledger)
    used = used_views.sources(ledger, [name, *ancestors(name, inputs)])
    return {name, *ancestors(name, inputs), *used, *(each for source in used for each in ancestors(source, inputs))}


def _emptied(
    stores: ErasureStores, file: Pipeline, done: DescendantResult, before: datetime, folder: Path
) -> DescendantResult:
    name, bucket = file.name, stores.lake
    known = partial(erase_listing.known, stores.config, stores.continuity, name)
    search = Search(
        file,
        bucket,
        lambda key: False,
        stores.home,
        known,
        folder,
        only="prediction log",
        cut_log=lambda body: (*emptied(body, before), 0),
    )
    scan = search.all(stores.sites)
    if news := erase_objects.store(stores.sites[stores.home], bucket, scan.held):
        stores.ledger.append("erasure", name, {"state": "rewritten", "successors": news})
    condemned = erase_versions.condemn(stores, name, scan.held, None)
    deleted = erase_versions.delete_versions(stores, scan.held, condemned=condemned)
    return replace(
        done,
        emptied=sum(held.rows for held in scan.held if held.site == stores.home and held.current),
        locked={**done.locked, **deleted.locked},
        pending={**done.pending, **scan.silent, **deleted.failed},
    )
