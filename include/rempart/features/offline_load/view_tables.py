"""Make the table of a view from the stored rows: of all entities, or of what changed rows can reach."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from rempart.features import tables
from rempart.features.databases import Session
from rempart.features.offline_load import copying, replacing
from rempart.features.plan import ViewTable, rows_table
from rempart.features.versions import version_of
from rempart.features.views import definition, select_touched, select_view
from rempart.settings.pipeline import ModelPipeline

_TOUCHED = "touched"


@dataclass(frozen=True)
class MadeView:
    """Number of rows that were written or deleted, and whether definition and table were those of the load before."""

    changed: int
    is_known: bool


def load_view(opened: Session, pipeline: ModelPipeline, view: ViewTable, at: datetime, *, is_part: bool) -> MadeView:
    """Make a view's table that of the stored rows.

    If only a part of the rows changed (`is_part`), only what holds from the first changed row of an entity on is made
    anew. All is if the view's query is another one than the last time, or its table is not the one that was left.
    """
    columns, made_by = tables.view_columns(view), definition(opened, pipeline, view)
    of_view = {"pipeline": pipeline.name, "view": view.view, "made_by": made_by, "at": at}
    if tables.ensure(opened, view.table, columns, view.primary_key):
        tables.index_changes(opened, view)
        opened.execute(
            "UPDATE feature_views SET watermark = NULL WHERE pipeline = %(pipeline)s AND view = %(view)s", of_view
        )
    is_watched = tables.watch(opened, view.table, pipeline)
    is_other = opened.execute(
        "UPDATE feature_views SET made_by = %(made_by)s WHERE pipeline = %(pipeline)s AND view = %(view)s"
        " AND made_by IS DISTINCT FROM %(made_by)s",
        of_view,
    ).rowcount
    is_known = is_watched and not is_other
    touched = _touched(opened, pipeline, view) if is_part and is_known else None
    copying.create(opened, view.fresh, columns)
    opened.execute(sql.SQL("INSERT INTO {} ").format(tables.name(view.fresh)) + select_view(pipeline, view, touched))
    held = tables.holds(view, at)
    replaced = replacing.replace_rows(opened, view.table, columns, view.primary_key, view.fresh, at, touched, held)
    if replaced.vanished:
        opened.execute(
            "UPDATE feature_views SET vanished_at = %(at)s WHERE pipeline = %(pipeline)s AND view = %(view)s", of_view
        )
    return MadeView(replaced.changed, is_known)


def changed_rows(pipeline: ModelPipeline) -> sql.Composed:
    """Return the relation of rows that changed, as they were and as they are.

    A new version of a row ends the one before it, which may belong to another entity: all versions of its key count.
    """
    changed = sql.SQL("SELECT * FROM {} UNION ALL SELECT * FROM {}").format(
        tables.name(replacing.FORMER), tables.name(replacing.DIFFERING)
    )
    if version_of(pipeline) is not None:
        changed += sql.SQL(" UNION ALL SELECT {} FROM {} WHERE ({keys}) IN (SELECT {keys} FROM ({}) c)").format(
            tables.names(column for column, _ in tables.rows_columns(pipeline)),
            tables.name(rows_table(pipeline)),
            changed,
            keys=tables.names(pipeline.key),
        )
    return sql.SQL("({})").format(changed)


def _touched(opened: Session, pipeline: ModelPipeline, view: ViewTable) -> sql.Composable:
    """Create the relation of the entities of rows that changed, and return its name."""
    name = tables.name(_TOUCHED)
    opened.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(name))
    opened.execute(
        sql.SQL(
            "CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT * FROM ({}) t WHERE entity IS NOT NULL; ANALYZE {}"
        ).format(name, select_touched(pipeline, view, changed_rows(pipeline)), name)
    )
    return name
