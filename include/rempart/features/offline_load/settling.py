"""Settle tables after a large load, so that the next reader finds statistics, and rows that are known to be valid."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from psycopg import sql

from rempart.errors import DatabaseUnavailable, FeatureError
from rempart.features import tables
from rempart.features.databases import FeatureDatabases, session
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)


def settle(databases: FeatureDatabases, pipeline: ModelPipeline, written: Sequence[str]) -> str:
    """Do for tables at once what PostgreSQL does later by itself. Return a caution if it failed, else "".

    Without it the next load, of however few rows, would read and write all of them once more. The load itself is
    committed before.
    """
    try:
        with session(databases.offline, f"settle the tables of '{pipeline.name}'", autocommit=True) as opened:
            opened.execute(sql.SQL("VACUUM (ANALYZE) {}").format(tables.names(written)))
    except (DatabaseUnavailable, FeatureError) as fault:
        logger.warning("the load of '%s' is complete, but its tables are not settled: %s", pipeline.name, fault.what)
        return (
            f"The load is complete, but VACUUM of its tables failed ({fault.what}): the next load may be slow. "
            "PostgreSQL does it later by itself."
        )
    return ""
