"""The online store: the newest values of each entity, kept up to date with the offline store, read through Feast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import quick_feast, repository, tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.plan import LAST_ROW_AT, Span, Step, ViewState, ViewTable, entity_key, next_step, view_tables
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 20_000


@dataclass(frozen=True)
class Materialized:
    """Result: entity rows written, entity rows in the online store, and the span of the written rows' event times."""

    written: int
    online: int
    start: datetime | None
    end: datetime | None


def materialize(
    databases: FeatureDatabases, pipeline: ModelPipeline, *, online_store: str = repository.ONLINE_STORE
) -> Materialized:
    """Write to the online store the newest row of every entity that changed since the watermark; then move that.

    Raises FeatureError when nothing was loaded, when the online store does not end up with exactly the entities of the
    offline store, and DatabaseUnavailable. The watermark stays where it was unless the check passed.
    """
    with (
        session(databases.offline, f"materialize '{pipeline.name}'") as offline,
        repository.feature_store(databases, pipeline, online_store) as store,
    ):
        tables.lock(offline, pipeline)
        load = offline.execute("SELECT loaded_at FROM feature_loads WHERE pipeline = %s", (pipeline.name,)).fetchone()
        if load is None:
            raise FeatureError(
                f"read the feature store of '{pipeline.name}': it contains no snapshot",
                f"Run materialize_features_{pipeline.name}.",
            )
        repository.apply(store, pipeline)
        online, steps = 0, []
        for table in view_tables(pipeline):
            counted, done = _materialize_view(databases, pipeline, table, offline, store, load[0])
            online += counted
            steps += done
            offline.execute(
                "UPDATE feature_views SET watermark = %s WHERE pipeline = %s AND view = %s",
                (load[0], pipeline.name, table.view),
            )
    return Materialized(
        sum(step.entities for step in steps),
        online,
        min((step.start for step in steps), default=None),
        max((step.end for step in steps), default=None),
    )


def online_rows(
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    view: str,
    keys: Sequence[Mapping[str, Any]],
    at: datetime | None = None,
) -> list[dict[str, Any]]:
    """Return the newest features of entities, one dict per key in order: the key's columns and the view's features.

    `at` is the moment of the prediction, until which `days_since_last` counts; default: now. Features of an unknown
    entity are None. Raises FeatureError and DatabaseUnavailable.
    """
    table, rows = stored_rows(databases, pipeline, view, keys)
    if table.has_age:
        moment = at or datetime.now(UTC)
        for row in rows:
            row[SINCE_LAST] = table.age(row.pop(LAST_ROW_AT), moment)
    return rows


def stored_rows(
    databases: FeatureDatabases, pipeline: ModelPipeline, view: str, keys: Sequence[Mapping[str, Any]]
) -> tuple[ViewTable, list[dict[str, Any]]]:
    """Return the view's table, and `online_rows` with the fields of the store. Raises the errors of `online_rows`."""
    table = next((table for table in view_tables(pipeline) if table.view == view), None)
    if table is None:
        raise FeatureError(
            f"'{pipeline.name}' has no view '{view[:60]}'", f"Use one of {', '.join(pipeline.features)}."
        )
    entities = [{table.join_key: entity_key(table, pipeline, key)} for key in keys]
    if not entities:
        return table, []
    with repository.feature_store(databases, pipeline) as store:
        answer = store.get_online_features(
            features=[f"{view}:{field.name}" for field in table.fields], entity_rows=entities
        ).to_dict()
    features = [field.name for field in table.fields]
    return table, [
        {column: key[column] for column in table.by} | {feature: answer[feature][i] for feature in features}
        for i, key in enumerate(keys)
    ]


def _materialize_view(
    databases: FeatureDatabases, pipeline: ModelPipeline, table: ViewTable, offline: Session, store: Any, at: datetime
) -> tuple[int, list[Step]]:
    """Write changed entities; if the online store then lacks some (it was restored or emptied), write all.

    `at` is the time of the load: values that hold only later are not written.
    """
    state = _state(offline, pipeline, table, at)
    done: list[Step] = []
    for everything in (False, True):
        step = next_step(state, everything=everything)
        if step is not None:
            written = sum(_write(store, table, batch) for batch in _newest(offline, table, step.since, at))
            if written != step.entities:
                raise FeatureError(
                    f"materialize view '{table.view}' of '{pipeline.name}': {written} of {step.entities} entities "
                    "were written to the online store",
                    "The watermark did not move. Run the materialization again.",
                )
            done.append(step)
        online = _online(databases, pipeline, table)
        if online > state.all.entities or (step is not None and step.since is None):
            _prune(databases, pipeline, table, offline, at)
            online = _online(databases, pipeline, table)
        if online == state.all.entities:
            return online, done
    raise FeatureError(
        f"materialize view '{table.view}' of '{pipeline.name}': the online store has {online} entities, the "
        f"offline store {state.all.entities}",
        "The watermark did not move. Run the materialization again. If it fails again, look for another program "
        "that writes to the online store.",
    )


def _state(offline: Session, pipeline: ModelPipeline, table: ViewTable, at: datetime) -> ViewState:
    loaded = offline.execute(
        "SELECT watermark FROM feature_views WHERE pipeline = %s AND view = %s", (pipeline.name, table.view)
    ).fetchone()
    watermark = loaded[0] if loaded else None
    row = offline.execute(
        sql.SQL(
            "WITH entities AS (SELECT max(event_timestamp) FILTER (WHERE {holds}) AS newest, max(loaded_at) AS loaded"
            " FROM {table} GROUP BY {key}), told AS (SELECT newest, {changed} AS changed FROM entities"
            " WHERE newest IS NOT NULL)"
            " SELECT count(*), min(newest), max(newest), count(*) FILTER (WHERE changed),"
            " min(newest) FILTER (WHERE changed), max(newest) FILTER (WHERE changed) FROM told"
        ).format(
            holds=tables.holds(table, at),
            table=tables.name(table.table),
            key=tables.name(table.join_key),
            changed=_changed(table, watermark, sql.SQL("loaded"), sql.SQL("newest")),
        )
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return ViewState(watermark, Span(*row[:3]), Span(*row[3:]))


def _changed(
    table: ViewTable, since: datetime | None, loaded: sql.Composable, newest: sql.Composable
) -> sql.Composable:
    """Return the condition that an entity differs from what was written at `since`: by a load, or as time passed."""
    conditions = sql.SQL("{} > {}").format(loaded, sql.Literal(since))
    if not table.passing:
        return conditions
    return sql.SQL("({} OR {} > {})").format(conditions, newest, sql.Literal(since))


def _newest(offline: Session, table: ViewTable, since: datetime | None, at: datetime) -> Iterator[pd.DataFrame]:
    """Yield data frames with the row that holds at `at` of each entity that changed after `since`."""
    import pandas as pd
    import pyarrow as pa

    arrow = {"bigint": pa.int64(), "double precision": pa.float64(), "boolean": pa.bool_(), "text": pa.string()}
    columns = [(c, arrow.get(t, pa.timestamp("us", "UTC"))) for c, t in tables.view_columns(table)]
    holds = tables.holds(table, at)
    changed: sql.Composable = sql.SQL("")
    if since is not None:
        later = _changed(
            table, since, sql.SQL("max(loaded_at)"), sql.SQL("max(event_timestamp) FILTER (WHERE {})").format(holds)
        )
        changed = sql.SQL("AND {key} IN (SELECT {key} FROM {table} GROUP BY {key} HAVING {later})").format(
            key=tables.name(table.join_key), table=tables.name(table.table), later=later
        )
    query = sql.SQL(
        "SELECT DISTINCT ON ({key}) {columns} FROM {table} WHERE {holds} {changed} ORDER BY {key}, event_timestamp DESC"
    ).format(
        key=tables.name(table.join_key),
        columns=tables.names(column for column, _ in columns),
        table=tables.name(table.table),
        holds=holds,
        changed=changed,
    )
    with offline.cursor(name="newest") as cursor:
        cursor.execute(query)
        while rows := cursor.fetchmany(_BATCH):
            values = zip(columns, zip(*rows, strict=True), strict=True)
            batch = pa.table({column: pa.array(cells, kind) for (column, kind), cells in values})
            # Arrow-backed columns: pandas' own would turn an integer column with a NULL into floats
            yield batch.to_pandas(types_mapper=pd.ArrowDtype)


def _write(store: Any, table: ViewTable, batch: pd.DataFrame) -> int:
    # not store.write_to_online_store: it drops a batch whose features are all NULL with a mere warning
    store._get_provider().ingest_df(store.get_feature_view(table.view), batch)
    return len(batch)


def _online(databases: FeatureDatabases, pipeline: ModelPipeline, table: ViewTable) -> int:
    """Count the entities in the online store.

    All features of an entity are written in one transaction, so counting one feature is enough.
    """
    with session(databases.online, f"count view '{table.view}' of '{pipeline.name}'") as online:
        row = online.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE feature_name = %s").format(tables.name(table.online_table)),
            (table.fields[-1].name,),
        ).fetchone()
    return int(row[0]) if row else 0


def _prune(
    databases: FeatureDatabases, pipeline: ModelPipeline, table: ViewTable, offline: Session, at: datetime
) -> None:
    """Delete entities that left the offline store, and features that left the view."""
    quick_feast.load()
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    kind = "int64_val" if table.join_type == "bigint" else "string_val"
    entities = offline.execute(
        sql.SQL("SELECT DISTINCT {} FROM {} WHERE {}").format(
            tables.name(table.join_key), tables.name(table.table), tables.holds(table, at)
        )
    )
    with session(databases.online, f"prune view '{table.view}' of '{pipeline.name}'") as online:
        online.execute("CREATE TEMP TABLE kept (entity_key bytea PRIMARY KEY) ON COMMIT DROP")
        with online.cursor() as cursor, cursor.copy("COPY kept FROM STDIN (FORMAT binary)") as stream:
            stream.set_types(["bytea"])
            for (value,) in entities:
                key = EntityKey(join_keys=[table.join_key], entity_values=[Value(**{kind: value})])
                stream.write_row((serialize_entity_key(key, entity_key_serialization_version=3),))
        online.execute(
            sql.SQL(
                "DELETE FROM {} o WHERE feature_name <> ALL(%s)"
                " OR NOT EXISTS (SELECT FROM kept k WHERE k.entity_key = o.entity_key)"
            ).format(tables.name(table.online_table)),
            ([field.name for field in table.fields],),
        )
