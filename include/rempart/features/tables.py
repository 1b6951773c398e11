"""The SQL of the offline store. Every name in it is quoted, and no value of the data passes through it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import LiteralString

from psycopg import sql

from rempart.features.databases import Session
from rempart.features.plan import SQL_TYPES, ViewTable
from rempart.settings.columns import Moment
from rempart.settings.pipeline import ModelPipeline, Pipeline

_STATE = sql.SQL("""
    CREATE TABLE IF NOT EXISTS feature_loads (
        pipeline text PRIMARY KEY,
        snapshot text NOT NULL,
        loaded_at timestamptz NOT NULL,
        label_pipeline text,
        label_snapshot text,
        registered text,
        read_by text,
        left_out text,
        whole_at timestamptz
    );
    CREATE TABLE IF NOT EXISTS feature_views (
        pipeline text NOT NULL,
        view text NOT NULL,
        offline_table text NOT NULL UNIQUE,
        watermark timestamptz,
        entities bigint,
        hashes numeric,
        vanished_at timestamptz,
        made_by text,
        used_snapshot text,
        PRIMARY KEY (pipeline, view)
    );
    COMMENT ON COLUMN feature_views.watermark IS
        'The load up to which the view is in the online store. Kept here since Feast''s apply can reset its own.';
    COMMENT ON COLUMN feature_views.hashes IS
        'With watermark and entities: what the last materialization left in the online store, which keeps the same.';
    COMMENT ON COLUMN feature_views.vanished_at IS
        'The last load that left an entity of the view without a row.';
    COMMENT ON COLUMN feature_views.made_by IS
        'Hash of the query that made the view.';
    COMMENT ON COLUMN feature_views.used_snapshot IS
        'The snapshot of the other pipeline whose view this one has the values of.';
    COMMENT ON COLUMN feature_loads.read_by IS
        'Hash of the definition by which rows were read. Null once another program wrote to a table of rows or views.';
    COMMENT ON COLUMN feature_loads.left_out IS
        'Hash of the erasures whose rows were left out.';
    COMMENT ON COLUMN feature_loads.whole_at IS
        'The last load that read all rows and made all views of them.';
    COMMENT ON COLUMN feature_loads.registered IS
        'Fingerprint of the definitions that were last registered with Feast, and of what its registry then held.';
    CREATE OR REPLACE FUNCTION offline_table_written() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        UPDATE public.feature_loads SET read_by = NULL WHERE pipeline = TG_ARGV[0] AND read_by IS NOT NULL;
        RETURN NULL;
    END $$;
""")
"""State tables in the offline database: loaded snapshot, owners of tables, progress of the online store."""
_TRIGGER = "written"

_ELAPSED: dict[str, LiteralString] = {
    "days": "make_interval(hours => 24 * {}::integer)",
    "hours": "make_interval(hours => {}::integer)",
    "minutes": "make_interval(mins => {}::integer)",
}
Columns = Sequence[tuple[str, str]]


def name(identifier: str) -> sql.Identifier:
    return sql.Identifier(identifier)


def names(identifiers: Iterable[str], prefix: str | None = None) -> sql.Composed:
    """Return quoted, comma-separated names, each after the table alias `prefix` if given."""
    return sql.SQL(", ").join(sql.Identifier(prefix, i) if prefix else sql.Identifier(i) for i in identifiers)


def day(pipeline: ModelPipeline, moment: str) -> sql.Composed:
    """Return the date (in UTC) of a moment of the row's life."""
    spec = pipeline.moments[moment]
    if not spec.is_day(pipeline.columns):
        return sql.SQL("({} AT TIME ZONE 'UTC')::date").format(instant(pipeline, moment))
    return _calendar_day(spec)


def instant(pipeline: ModelPipeline, moment: str) -> sql.Composed:
    """Return the instant of a moment of the row's life; of a whole day its midnight in UTC."""
    spec = pipeline.moments[moment]
    if spec.is_day(pipeline.columns):
        return midnight(_calendar_day(spec))
    fixed = spec.earlier
    elapsed = [(unit, column) for unit, column in zip(_ELAPSED, spec.offsets, strict=True) if column]
    if pipeline.columns[spec.column].type == "date":
        zone = pipeline.source.time_zone if spec.at else None
        start = sql.SQL("(({}::timestamp + {}::interval) AT TIME ZONE {})").format(
            _calendar_day(spec), sql.Literal(f"{spec.at or '00:00'}:00"), sql.Literal(zone or "UTC")
        )
        fixed = abs(fixed) % timedelta(days=1)
        elapsed = [(unit, column) for unit, column in elapsed if unit != "days"]
    else:
        start = sql.SQL("{}").format(name(spec.column))
    # a day is 24 hours: an interval of days would follow the clocks of the session's time zone
    for unit, column in elapsed:
        start = sql.SQL("({} - {})").format(start, sql.SQL(_ELAPSED[unit]).format(name(column)))
    if fixed:
        start = _moved(start, spec, sql.SQL("make_interval(secs => {})"), int(abs(fixed).total_seconds()))
    return start


def _calendar_day(spec: Moment) -> sql.Composed:
    """Return the date of a moment of a date column, without its clock time."""
    start = sql.SQL("{}").format(name(spec.column))
    if spec.minus_days is not None:
        start = sql.SQL("({} - {}::integer)").format(start, name(spec.minus_days))
    if days := abs(spec.earlier).days:
        start = _moved(start, spec, sql.SQL("{}"), days)
    return start


def _moved(start: sql.Composed, spec: Moment, span: sql.SQL, number: int) -> sql.Composed:
    """Return a time that is earlier by a span, or later if the moment is later than its column."""
    sign = sql.SQL("-" if spec.earlier > timedelta() else "+")
    return sql.SQL("({} {} {})").format(start, sign, span.format(sql.Literal(number)))


def midnight(date: sql.Composable) -> sql.Composed:
    """Return a date as its midnight in UTC."""
    return sql.SQL("({}::timestamp AT TIME ZONE 'UTC')").format(date)


def join_key(pipeline: ModelPipeline, table: ViewTable) -> sql.Composed:
    """Return the view's entity key, equal to the text of `plan.entity_key`. NULL if a part is NULL."""
    if table.join_type == "bigint":
        return sql.SQL("{}").format(name(table.by[0]))
    texts = [_text(pipeline, column) for column in table.by]
    if len(texts) == 1:
        return texts[0]
    escaped = [
        sql.SQL("replace(replace({}, {}, {}), '|', {})").format(
            text, sql.Literal("\\"), sql.Literal("\\\\"), sql.Literal("\\|")
        )
        for text in texts
    ]
    return sql.SQL(" || '|' || ").join(escaped)


def _text(pipeline: ModelPipeline, column: str) -> sql.Composed:
    if pipeline.columns[column].type == "timestamp":
        return sql.SQL("""to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""").format(name(column))
    return sql.SQL("{}::text").format(name(column))


def rows_columns(pipeline: ModelPipeline) -> Columns:
    """Return the stored columns of the snapshot's rows, without arrays, and their types."""
    stored = ((c, SQL_TYPES[spec.type]) for c, spec in pipeline.columns.items() if spec.type != "array")
    return [*stored, ("event_timestamp", "timestamptz")]


def view_columns(table: ViewTable) -> Columns:
    return [
        (table.join_key, table.join_type),
        *((field.name, field.type) for field in table.fields),
        ("event_timestamp", "timestamptz"),
    ]


def holds(table: ViewTable, at: datetime) -> sql.Composable:
    """Return the condition of rows that hold at the prediction's moment `at`; all, if an entity has only one."""
    return sql.SQL("event_timestamp <= {}").format(sql.Literal(table.asked_at(at))) if table.dated else sql.SQL("true")


def shown(table: ViewTable, at: datetime) -> sql.Composable:
    """Return the condition of rows that hold at the prediction's moment `at`, and are not too old for the view then."""
    if (oldest := table.oldest(at)) is None:
        return holds(table, at)
    return sql.SQL("{} AND event_timestamp >= {}").format(holds(table, at), sql.Literal(oldest))


def lock(session: Session, pipeline: Pipeline, *, shared: bool = False) -> None:
    """Lock the pipeline against other loads and materializations until the transaction ends; `shared`: to read it.

    Create the state tables.
    """
    if session.execute("SELECT to_regclass('feature_views')").fetchone() == (None,):
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('rempart features', 0))")
        session.execute(_STATE)
    take: LiteralString = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    session.execute(
        sql.SQL("SELECT {}(hashtextextended(%s, 0))").format(sql.SQL(take)), (f"rempart features of {pipeline.name}",)
    )


def ensure(session: Session, table: str, columns: Columns, key: Sequence[str]) -> bool:
    """Create the table, again if the pipeline changed its columns or key. Return True if the table is new and empty."""
    expected = [*columns, ("loaded_at", "timestamptz")]
    existing = session.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (f'public."{table}"',),
    ).fetchall()
    keyed = session.execute(
        "SELECT attname FROM pg_index CROSS JOIN unnest(indkey::smallint[]) WITH ORDINALITY AS k(number, place)"
        " JOIN pg_attribute ON attrelid = indrelid AND attnum = number"
        " WHERE indrelid = to_regclass(%s) AND indisprimary ORDER BY place",
        (f'public."{table}"',),
    ).fetchall()
    is_same = existing == [(c, "timestamp with time zone" if t == "timestamptz" else t) for c, t in expected]
    if is_same and [column for (column,) in keyed] == list(key):
        return False
    session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name(table)))
    session.execute(
        sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
            name(table),
            sql.SQL(", ").join(
                sql.SQL("{} {} {}").format(
                    name(column),
                    sql.SQL(declared),  # one of SQL_TYPES' values
                    sql.SQL("NOT NULL" if column in ("event_timestamp", "loaded_at") else ""),
                )
                for column, declared in expected
            ),
            names(key),
        )
    )
    return True


def watch(session: Session, table: str, pipeline: Pipeline) -> bool:
    """Have every later write to the table take `read_by` away, whoever writes. Return True if that was so before.

    The trigger names the table's identifier: a table that was restored or made again has another one.
    """
    row = session.execute("SELECT to_regclass(%s)::oid", (f'public."{table}"',)).fetchone()
    oid = row[0] if row else None
    watched = session.execute(
        "SELECT 1 FROM pg_trigger WHERE tgrelid = %s AND tgname = %s AND tgenabled = 'A' AND tgargs = %s",
        (oid, _TRIGGER, f"{pipeline.name}\0{oid}\0".encode()),
    ).fetchone()
    if watched is None:
        session.execute(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION offline_table_written({pipeline}, {oid});"
                " ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"
            ).format(
                trigger=name(_TRIGGER),
                table=name(table),
                pipeline=sql.Literal(pipeline.name),
                oid=sql.Literal(str(oid)),
            )
        )
    return watched is not None


def in_periods(pipeline: Pipeline, periods: Sequence[str]) -> sql.Composed:
    """Return the condition of rows in some partitions of a snapshot, by their names (periods in UTC).

    An index finds those between the first and the last; the period of each decides.
    """
    column, every = pipeline.partition_by, pipeline.partition_every
    is_date = pipeline.columns[column].type == "date"
    begins = sorted(period + {"month": "-01", "day": "", "hour": ":00"}[every] for period in periods)
    instant = sql.SQL("({}::timestamp + {}::interval)" + ("" if is_date else " AT TIME ZONE 'UTC'"))
    return sql.SQL(
        "({c} >= {first} AND {c} < {end} AND date_trunc({every}, {utc}) = ANY({begins}::timestamp[]))"
    ).format(
        c=name(column),
        first=instant.format(sql.Literal(min(begins, default="infinity")), sql.Literal("0")),
        end=instant.format(sql.Literal(max(begins, default="infinity")), sql.Literal(f"1 {every}")),
        every=sql.Literal(every),
        utc=sql.SQL("{}::timestamp" if is_date else "({} AT TIME ZONE 'UTC')").format(name(column)),
        begins=sql.Literal(begins),
    )


def index_changes(session: Session, view: ViewTable) -> None:
    """Have the rows of a new view table found by their load, and by time where their values wait to hold."""
    for column in ("loaded_at", *(["event_timestamp"] if view.dated else [])):
        session.execute(sql.SQL("CREATE INDEX ON {} ({})").format(name(view.table), name(column)))
