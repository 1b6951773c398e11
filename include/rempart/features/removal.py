"""Removes a pipeline's tables from the feature store: online values, Feast's project, offline history."""

from __future__ import annotations

from psycopg import sql

from rempart.features import tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.settings.pipeline import Pipeline


def tables_of(databases: FeatureDatabases, pipeline: str) -> tuple[list[str], list[str]]:
    """Return the names of a pipeline's tables in the offline and in the online store. Raises the errors of `load`."""
    with session(databases.offline, f"list the tables of '{pipeline}'") as opened:
        return _tables(opened, pipeline)


def remove(databases: FeatureDatabases, pipeline: Pipeline) -> int:
    """Drop a pipeline's tables in both stores and its project in Feast's registry. Return the number of tables.

    The offline store, which knows the names of all tables, is last, so an interrupted removal can be repeated. Raises
    FeatureError, DatabaseUnavailable.
    """
    name = pipeline.name
    offline, online = tables_of(databases, name)
    with session(databases.online, f"remove the online tables of '{name}'") as opened:
        _drop(opened, online)
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
        _drop(opened, offline)
        opened.execute("DELETE FROM feature_views WHERE pipeline = %s", (name,))
        opened.execute("DELETE FROM feature_loads WHERE pipeline = %s", (name,))
    return len(offline) + len(online)


def _has_state(opened: Session) -> bool:
    return opened.execute("SELECT to_regclass('feature_views')").fetchone() != (None,)


def _tables(opened: Session, pipeline: str) -> tuple[list[str], list[str]]:
    if not _has_state(opened):
        return [], []
    found = opened.execute(
        "SELECT offline_table, online_table FROM feature_views WHERE pipeline = %s ORDER BY view", (pipeline,)
    ).fetchall()
    return [offline for offline, _ in found], [online for _, online in found if online]


def _drop(opened: Session, names: list[str]) -> None:
    for table in names:
        opened.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(tables.name(table)))
