"""Removes a pipeline's tables from the feature store: online values, Feast's project, offline history."""

from __future__ import annotations

from psycopg import sql

from rempart.features import tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.online_store import generations
from rempart.settings.pipeline import Pipeline


def tables_of(databases: FeatureDatabases, pipeline: str) -> tuple[list[str], list[str]]:
    """Return the names of a pipeline's tables in the offline and in the online store, with those of former columns.

    Raises the errors of `load`.
    """
    with session(databases.offline, f"list the offline tables of '{pipeline}'") as opened:
        offline = _offline_tables(opened, pipeline)
    with session(databases.online, f"list the online tables of '{pipeline}'") as opened:
        return offline, generations.tables_of(opened, pipeline)


def forget_deleted(databases: FeatureDatabases, pipeline: str) -> None:
    """Have PostgreSQL forget the deleted rows of a pipeline's tables: their values in its statistics, and dead rows.

    It does so by itself only after many changes: the value of one erased row would stay readable in `pg_stats`. Raises
    FeatureError, DatabaseUnavailable.
    """
    for connection, names in zip((databases.offline, databases.online), tables_of(databases, pipeline), strict=True):
        if names:
            with session(connection, f"forget deleted rows of '{pipeline}'", autocommit=True) as opened:
                opened.execute(sql.SQL("VACUUM (ANALYZE) {}").format(tables.names(names)))


def remove(databases: FeatureDatabases, pipeline: Pipeline) -> int:
    """Drop a pipeline's tables in both stores and its project in Feast's registry. Return the number of tables.

    An interrupted removal can be repeated: each store lists its own tables. Raises FeatureError, DatabaseUnavailable.
    """
    name = pipeline.name
    with session(databases.online, f"remove the online tables of '{name}'") as opened:
        online = generations.tables_of(opened, name)
        generations.drop(opened, online)
    with session(databases.registry, f"remove the Feast project '{name}'") as opened:
        for (table,) in opened.execute(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND column_name = 'project_id' ORDER BY table_name"
        ).fetchall():
            opened.execute(sql.SQL("DELETE FROM {} WHERE project_id = %s").format(tables.name(table)), (name,))
    with session(databases.offline, f"remove the offline tables of '{name}'") as opened:
        if not _has_state(opened):
            return len(online)
        tables.lock(opened, pipeline)
        offline = _offline_tables(opened, name)
        for table in offline:
            opened.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(tables.name(table)))
        opened.execute("DELETE FROM feature_views WHERE pipeline = %s", (name,))
        opened.execute("DELETE FROM feature_loads WHERE pipeline = %s", (name,))
    return len(offline) + len(online)


def _has_state(opened: Session) -> bool:
    return opened.execute("SELECT to_regclass('feature_views')").fetchone() != (None,)


def _offline_tables(opened: Session, pipeline: str) -> list[str]:
    if not _has_state(opened):
        return []
    found = opened.execute(
        "SELECT offline_table FROM feature_views WHERE pipeline = %s ORDER BY view", (pipeline,)
    ).fetchall()
    return [str(table) for (table,) in found]
