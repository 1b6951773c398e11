"""Reads how new the feature store's rows, load and labels are: three numbers, and no row."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from psycopg import sql

from rempart.features import labels, tables
from rempart.features.databases import FeatureDatabases, session
from rempart.features.plan import labels_table, rows_table
from rempart.settings.pipeline import ModelPipeline


class Newest(NamedTuple):
    """Moment of the newest row, time of the load, and when the newest label became known (UTC); None: there is none."""

    rows: datetime | None
    loaded: datetime | None
    labels: datetime | None


def read(databases: FeatureDatabases, pipeline: ModelPipeline, now: datetime) -> Newest:
    """Return the newest times that are not after `now`; rows without a label count. Nothing loaded: all None.

    Raises FeatureError, DatabaseUnavailable.
    """
    with session(databases.offline, f"read how new the rows of '{pipeline.name}' are") as opened:
        if opened.execute("SELECT to_regclass('feature_loads')").fetchone() == (None,):
            return Newest(None, None, None)
        load = opened.execute("SELECT loaded_at FROM feature_loads WHERE pipeline = %s", (pipeline.name,)).fetchone()
        if load is None:
            return Newest(None, None, None)
        rows: sql.Composable = tables.name(rows_table(pipeline))
        target, moment = tables.name(pipeline.prediction.target), tables.name("event_timestamp")
        known, source = moment, rows  # a target of the own rows is known at their moment
        if pipeline.prediction.from_ is not None:
            known, source = tables.name(labels.KNOWN_AT), tables.name(labels_table(pipeline))
        elif labels.tells_known_at(pipeline):
            known, source = tables.name(labels.KNOWN_AT), sql.SQL("{} examples").format(labels.examples(pipeline))
        at = sql.Literal(now)
        newest = sql.SQL("SELECT max({moment}) FROM {rows} WHERE {moment} <= {now}")
        of_rows = opened.execute(newest.format(moment=moment, rows=rows, now=at)).fetchone()
        labelled = sql.SQL("SELECT max({known}) FROM {source} WHERE {known} <= {now} AND {target} IS NOT NULL")
        of_labels = opened.execute(labelled.format(known=known, source=source, now=at, target=target)).fetchone()
    return Newest(of_rows[0] if of_rows else None, load[0], of_labels[0] if of_labels else None)
