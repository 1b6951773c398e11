"""The online store: the newest values of each entity, kept up to date with the offline store, and read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import repository, tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.online_store import generations, writing
from rempart.features.online_store.comparison import Content, Mark, Span, ViewState
from rempart.features.online_store.progress import Reporter
from rempart.features.online_store.reading import ViewReader
from rempart.features.plan import OnlineTable, ViewTable, view_tables
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Materialized:
    """Result: entity rows written, entity rows in the online store, and the span of the written rows' event times."""

    written: int
    online: int
    start: datetime | None
    end: datetime | None


def materialize(
    databases: FeatureDatabases, pipeline: ModelPipeline, now: datetime, *, keep_former: bool = True
) -> Materialized:
    """Write to the online store the newest row of every entity that changed since the watermark; then move that.

    What is written is read back and compared with the offline store. All rows of both are compared if the online store
    is not as the last run left it, an entity vanished, or that was not done for a day before `now`. All views are
    written in one transaction, so a reader sees the values of one materialization. If the columns or definitions of a
    view changed, its former table stays until the next materialization, unless `keep_former` is false. Raises
    FeatureError when nothing was loaded, when the online store does not end up with exactly the rows of the offline
    store, and DatabaseUnavailable. In both cases the online store and the watermark stay as they were.
    """
    with session(databases.offline, f"materialize '{pipeline.name}'") as offline, ThreadPoolExecutor(1) as side:
        tables.lock(offline, pipeline)
        load = offline.execute(
            "SELECT loaded_at, registered FROM feature_loads WHERE pipeline = %s", (pipeline.name,)
        ).fetchone()
        if load is None:
            raise FeatureError(
                f"read the feature store of '{pipeline.name}': it contains no snapshot",
                f"Run materialize_features_{pipeline.name}.",
            )
        (at, registered), written = load, list[Span]()
        found = side.submit(repository.fingerprint, databases, pipeline)
        marks: dict[OnlineTable, tuple[Mark, datetime]] = {}
        with session(databases.online, f"write the online store of '{pipeline.name}'") as online:
            generations.ensure_register(online)
            generations.lock(online, pipeline.name)
            former = set(generations.tables_of(online, pipeline.name, former=True))
            for view in view_tables(pipeline):
                content, compared_at, done = _materialize_view(pipeline, view, offline, online, at, now)
                marks[view.online] = (Mark(at, content), compared_at)
                written += done
            generations.switch(online, pipeline.name, marks)
            left = generations.tables_of(online, pipeline.name, former=True)
            generations.drop(online, [table for table in left if table in former or not keep_former])
        # after the tables have their rows: Feast would create them empty
        if found.result() != registered:
            registered = repository.register(databases, pipeline)
            offline.execute("UPDATE feature_loads SET registered = %s WHERE pipeline = %s", (registered, pipeline.name))
        for table, (mark, _) in marks.items():
            offline.execute(
                "UPDATE feature_views SET watermark = %s, entities = %s, hashes = %s WHERE pipeline = %s AND view = %s",
                (mark.at, mark.content.rows, mark.content.hashes, pipeline.name, table.view),
            )
    return Materialized(
        sum(each.entities for each in written),
        sum(mark.content.rows for mark, _ in marks.values()),
        min((each.first for each in written if each.first), default=None),
        max((each.last for each in written if each.last), default=None),
    )


@contextmanager
def reader(databases: FeatureDatabases, pipeline: ModelPipeline, view: str) -> Iterator[ViewReader]:
    """Provide a view's reader on a connection of its own, for many reads. Raises FeatureError, DatabaseUnavailable."""
    with session(databases.online, f"read view '{view[:60]}' of '{pipeline.name}'", autocommit=True) as opened:
        yield ViewReader(opened, pipeline, view)


def _materialize_view(
    pipeline: ModelPipeline, view: ViewTable, offline: Session, online: Session, at: datetime, now: datetime
) -> tuple[Content, datetime, list[Span]]:
    """Write changed entities and compare them; compare all entities where the state asks for it at `now`.

    `at` is the time of the load: values that hold only later are not written. Return the content of the table, when all
    of it was last compared, and what was written.
    """
    state, what = _state(offline, online, pipeline, view), f"view '{view.view}' of '{pipeline.name}'"
    if state.in_future(now):
        dated = f"the last full comparison is dated {state.compared_at}, after the present"
        logger.warning("%s: %s: all rows are compared", what, dated)
    baseline = state.baseline(now)
    if baseline is not None:
        wanted, changed = writing.digest(offline, view.online, writing.newest(view, at, baseline.since))
        if not changed.entities:
            return baseline.content, baseline.compared_at, []
        if baseline.is_part(changed.entities):
            report = Reporter(f"copied to the online store, {what}:", changed.entities)
            before, after = writing.update(offline, online, view, at, baseline.since, report)
            if after == wanted:
                logger.info("%s: wrote %s rows in %.1f s", what, f"{wanted.rows:,}", report.seconds)
                return baseline.content.replaced(before, after), baseline.compared_at, [changed]
            logger.warning("%s: what was written differs from the offline store: all rows are compared", what)
    content, written = _compare_all(what, view, offline, online, at, state.since)
    return content, now, written


def _compare_all(
    what: str, view: ViewTable, offline: Session, online: Session, at: datetime, since: datetime | None
) -> tuple[Content, list[Span]]:
    """Write entities that changed after `since`; if the online table then differs, write all.

    Return the content of the table and what was written. Raises FeatureError if the table differs after that.
    """
    written: list[Span] = []
    while True:
        changed = Span(_entities(offline, view))
        if since is not None:
            _, changed = writing.digest(offline, view.online, writing.newest(view, at, since))
        report = Reporter(f"copied to the online store, {what}:", changed.entities)
        done = writing.write(offline, online, view, at, since, report)
        found = done.found
        written.append(done.span if since is None else changed)
        if found.rows > done.wanted.rows or (since is None and found != done.wanted):
            writing.prune(offline, online, view, at)
            found, _ = writing.digest(online, view.online, writing.stored(view.online))
        logger.info("%s: wrote %s rows in %.1f s, %s online", what, f"{done.sent:,}", report.seconds, f"{found.rows:,}")
        if found == done.wanted:
            return found, written
        if since is None:
            raise FeatureError(
                f"materialize {what}: the online store has {found.rows} entities, the offline store "
                f"{done.wanted.rows}, and their rows differ",
                "The online store and the watermark stayed as they were. Run the materialization again. If it fails "
                "again, look for another program that writes to the online store.",
            )
        logger.warning("%s: the online table is not as it was left: all rows are written", what)
        since = None


def _state(offline: Session, online: Session, pipeline: ModelPipeline, view: ViewTable) -> ViewState:
    """Return the state of a view, by what both databases hold of it."""
    listed = generations.entry(online, view.online)
    found = offline.execute(
        "SELECT watermark, entities, hashes, vanished_at FROM feature_views WHERE pipeline = %s AND view = %s",
        (pipeline.name, view.view),
    ).fetchone()
    watermark, entities, hashes, vanished_at = found or (None, None, None, None)
    left = None if watermark is None or hashes is None else Mark(watermark, Content(entities, int(hashes)))
    return ViewState(listed.is_current, left, listed.mark, listed.compared_at, vanished_at)


def _entities(offline: Session, view: ViewTable) -> int:
    """Return the number of entities that have a row, for the progress of a copy of all."""
    counted = sql.SQL("count(DISTINCT {})" if view.dated else "count(*)").format(tables.name(view.join_key))
    row = offline.execute(sql.SQL("SELECT {} FROM {}").format(counted, tables.name(view.table))).fetchone()
    return int(row[0]) if row else 0
