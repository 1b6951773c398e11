"""Plan a pipeline's feature store, and what to write to the online store. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from rempart import canonical_json
from rempart.errors import FeatureError
from rempart.models import definitions
from rempart.settings.learning import SINCE_LAST, Aggregate
from rempart.settings.pipeline import ModelPipeline, Pipeline, TrailingView, UsedView

SqlType = Literal["bigint", "double precision", "boolean", "text", "date", "timestamptz"]

SQL_TYPES: Mapping[str, SqlType] = {
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "string": "text",
    "category": "text",
    "date": "date",
    "decimal": "double precision",
    "timestamp": "timestamptz",
}
"""PostgreSQL's type of each column type. The feature store has no arrays, and its decimals are numbers of 15 digits."""

DAY = 24 * 3600 * 1_000_000
"""Microseconds of a day."""

LAST_ROW_AT = "last_row_at"
"""Field from which `days_since_last` is made when a row is read: microseconds since 1970 of an entity's last row."""

DEFINITION = "definition"
"""Tag of a field in Feast's registry, with the digest of its definition."""

RESERVED = (
    "event_timestamp", "entity_timestamp", "created_timestamp", "loaded_at",
    "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid",
)  # fmt: skip
"""Column names that the feature store needs for itself."""

LONGEST_IDENTIFIER = 63
"""Maximum length of a name. PostgreSQL silently cuts longer names, and two could become equal."""


MOST_COLUMNS, OWN_COLUMNS = 1600, 2
"""Columns of one table that PostgreSQL takes, and those that the feature store adds: `event_timestamp`, `loaded_at`."""


@dataclass(frozen=True)
class Field:
    """One feature in the offline store; dates are text (ISO), since Feast has no date type.

    `definition`: digest of what its value is made of.
    """

    name: str
    type: SqlType
    definition: str


@dataclass(frozen=True)
class OnlineTable:
    """The online table of a view: one row for each entity, with its key, its features and the event time.

    The table's name depends on its columns and on the definitions of its features. So a view of which one changes gets
    a table of its own, and readers of the former features keep theirs.
    """

    pipeline: str
    view: str
    key: str
    key_type: SqlType
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        """Return the table's name: at most 63 ASCII characters, the last 8 a hash of names, types and definitions."""
        fields = sorted([field.name, field.type, field.definition] for field in self.fields)
        told = canonical_json.encode([self.pipeline, self.view, self.key, self.key_type, fields])
        return f"{f'{self.pipeline}_{self.view}'[:54]}_{hashlib.sha256(told).hexdigest()[:8]}"

    @property
    def columns(self) -> tuple[tuple[str, SqlType], ...]:
        """Return the names and types of all columns; the key is the first, the event time the last."""
        features = ((field.name, field.type) for field in self.fields)
        return ((self.key, self.key_type), *features, ("event_timestamp", "timestamptz"))


@dataclass(frozen=True)
class ViewTable:
    """The offline table of one feature view.

    `by` are the columns that identify its entity, stored as one column, `join_key`: Feast's point-in-time join
    concatenates several without a separator and would confuse ("ab", "c") with ("a", "bc").
    `dated`: an entity has a row for each time from which its values hold, which may be in the future. `whole_days`:
    these are midnights (UTC). `has_age`: `days_since_last` is made from the field `last_row_at` when a row is read.
    `asked_by_day`: the moment of the prediction is a day, so that what holds at its begin is read.
    """

    view: str
    table: str
    at: str
    by: tuple[str, ...]
    join_key: str
    join_type: SqlType
    fields: tuple[Field, ...]
    ttl_days: int | None
    online: OnlineTable
    dated: bool = False
    whole_days: bool = False
    has_age: bool = False
    asked_by_day: bool = False

    @property
    def primary_key(self) -> tuple[str, ...]:
        return (self.join_key, "event_timestamp") if self.dated else (self.join_key,)

    @property
    def features(self) -> Mapping[str, SqlType]:
        """Return the features that a reader gets, and their types."""
        ages: dict[str, SqlType] = {SINCE_LAST: "double precision"}
        return {f.name: f.type for f in self.fields if self.feature(f.name) == f.name} | (ages if self.has_age else {})

    def feature(self, field: str) -> str:
        """Return the feature that a field gives."""
        return SINCE_LAST if self.has_age and field == LAST_ROW_AT else field

    def age(self, last_row_at: int | None, at: datetime) -> float | None:
        """Return the days from the last row of an entity to the instant `at`; whole ones if its moment is a day."""
        if last_row_at is None:
            return None
        now = (self.asked_at(at) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        return ((now - now % DAY if self.whole_days else now) - last_row_at) / DAY

    def asked_at(self, at: datetime) -> datetime:
        """Return the moment at which a training set would ask for a row that is to be predicted at `at` (UTC)."""
        return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) if self.asked_by_day else at

    def oldest(self, at: datetime) -> datetime | None:
        """Return the time of the oldest row that may serve a prediction at `at` (UTC); None if a row of any age may."""
        return None if self.ttl_days is None else self.asked_at(at) - timedelta(days=self.ttl_days)

    @property
    def fresh(self) -> str:
        """Return the temporary table with the wanted content of the view."""
        return f"fresh {self.view}"


def rows_table(pipeline: Pipeline) -> str:
    """Return the table of the snapshot's rows, with the moment of the prediction as `event_timestamp`."""
    return f"{pipeline.name}__rows"


def labels_table(pipeline: Pipeline) -> str:
    """Return the table of the labels that another pipeline delivers for this pipeline's rows."""
    return f"{pipeline.name}__labels"


def view_tables(pipeline: ModelPipeline) -> tuple[ViewTable, ...]:
    """Return the offline table of each view, in the file's order. Raises FeatureError if a store cannot hold one."""
    tables = tuple(view_table(pipeline, name) for name in pipeline.features)
    if faults := [*_faults(pipeline, tables)]:
        raise FeatureError(
            f"create the tables of pipeline '{pipeline.name}': " + "; ".join(faults),
            f"Correct include/pipelines/{pipeline.name}.yaml.",
        )
    return tables


def source_of(view: UsedView) -> ModelPipeline:
    """Return the pipeline whose view is used. Raises PipelineError if its file was not read."""
    source: ModelPipeline = view.source
    return source


def view_table(pipeline: ModelPipeline, name: str) -> ViewTable:
    """Return the offline table of a view, whether or not a store can hold it.

    That of a used view has the values of another pipeline's view, each from the time from which it counts here.
    """
    view, digests = pipeline.features[name], definitions.of_view(pipeline, name)
    if isinstance(view, UsedView):
        of = view_table(source_of(view), view.view)
        by = tuple(view.key[column] for column in of.by)
        fields = tuple(replace(each, definition=digests[_feature(each.name, of.has_age)]) for each in of.fields)
        return replace(
            of,
            view=name,
            table=f"{pipeline.name}__{name}",
            by=by,
            join_key="__".join(by),
            fields=fields,
            online=OnlineTable(pipeline.name, name, "__".join(by), of.join_type, fields),
            dated=True,
            asked_by_day=_asked_by_day(pipeline),
        )
    types: list[tuple[str, SqlType]]
    ttl_days = None
    whole = has_age = False
    if isinstance(view, TrailingView):
        by = tuple(view.by)
        types = [(made.feature, _aggregate_type(pipeline, made)) for made in view.aggregates()]
        types += [(LAST_ROW_AT, "bigint")] if view.since_last else []
        ttl_days = None if view.days is None else max(view.days) + 1
        has_age = view.since_last
        whole = bool(view.days) or pipeline.moments[view.at].is_day(pipeline.columns)
    else:
        by = tuple(pipeline.key)
        types = [(column, _feature_type(pipeline, column)) for column in view.columns]
        types += [(feature, "bigint") for feature in view.calendar_features()]
        types += [(feature, SQL_TYPES[made.type]) for feature, made in view.checked(pipeline.columns).items()]
    fields = tuple(Field(field, declared, digests[_feature(field, has_age)]) for field, declared in types)
    join_key = "__".join(by)
    join_type: SqlType = "bigint" if len(by) == 1 and pipeline.columns[by[0]].type == "integer" else "text"
    return ViewTable(
        view=name,
        table=f"{pipeline.name}__{name}",
        at=view.at,
        by=by,
        join_key=join_key,
        join_type=join_type,
        fields=fields,
        ttl_days=ttl_days,
        online=OnlineTable(pipeline.name, name, join_key, join_type, fields),
        dated=view.kind == "trailing" or pipeline.conflict_rule == "history",
        whole_days=whole,
        has_age=has_age,
        asked_by_day=_asked_by_day(pipeline),
    )


def _asked_by_day(pipeline: ModelPipeline) -> bool:
    return pipeline.moments[pipeline.prediction.at].is_day(pipeline.columns)


def _feature(field: str, has_age: bool) -> str:
    """Return the feature that is made of a field when a row is read."""
    return SINCE_LAST if has_age and field == LAST_ROW_AT else field


def _aggregate_type(pipeline: ModelPipeline, made: Aggregate) -> SqlType:
    if made.function in ("rows", "count", "distinct"):
        return "bigint"
    if made.function in ("min", "max", "last") and made.column:
        return SQL_TYPES[pipeline.columns[made.column].type]
    return "double precision"


def _feature_type(pipeline: ModelPipeline, column: str) -> SqlType:
    declared = SQL_TYPES[pipeline.columns[column].type]
    return "text" if declared == "date" else declared


def _faults(pipeline: ModelPipeline, tables: tuple[ViewTable, ...]) -> Iterator[str]:
    for column in pipeline.columns:
        if column in RESERVED:
            yield f"schema.{column}: the name is reserved; rename the column"
    stored = sum(column.type != "array" for column in pipeline.columns.values())
    sizes = {"schema": stored} | {f"features.{table.view}": len(table.fields) + 1 for table in tables}
    for where, columns in sizes.items():
        if columns + OWN_COLUMNS > MOST_COLUMNS:
            yield (
                f"{where}: {columns} columns and {OWN_COLUMNS} of the feature store are more than the "
                f"{MOST_COLUMNS} of a table of PostgreSQL; remove columns, or split it"
            )
    for table in tables:
        where = f"features.{table.view}"
        if table.view == "rows" or (table.view == "labels" and pipeline.prediction.from_):
            yield f"{where}: the name is reserved; rename the view"
        for column in table.by:
            if (declared := pipeline.columns[column].type) in ("number", "decimal", "array"):
                kind = "an array" if declared == "array" else f"a {declared}"
                yield f"{where}: '{column}' is {kind}, and {kind} cannot identify an entity"
        if clash := {field.name for field in table.fields} & {table.join_key, *RESERVED}:
            yield f"{where}: {', '.join(sorted(clash))} cannot be a feature of this view"
        longest = max(
            table.table,
            table.join_key,
            f"{table.view}__entity_row_unique_id",  # a column of Feast's point-in-time join
            *(f"{table.view}__{name}" for name in (*table.features, *(field.name for field in table.fields))),
            key=len,
        )
        if len(longest) > LONGEST_IDENTIFIER:
            yield f"{where}: '{longest}' has more than {LONGEST_IDENTIFIER} characters; shorten the names"


def entity_key(table: ViewTable, pipeline: ModelPipeline, key: Mapping[str, Any]) -> int | str:
    """Return the value of `join_key` for the columns in `key`, equal to the text that `tables.join_key` makes in SQL.

    Raises FeatureError if a column is missing; never quotes a value.
    """
    if missing := [column for column in table.by if key.get(column) is None]:
        raise FeatureError(
            f"look up view '{table.view}': a key lacks {', '.join(missing)}",
            f"Pass {', '.join(table.by)} for each row.",
        )
    if table.join_type == "bigint":
        return int(key[table.by[0]])
    texts = [_text(key[column], pipeline.columns[column].type) for column in table.by]
    if len(texts) == 1:
        return texts[0]
    return "|".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts)


def _text(value: Any, declared: str) -> str:
    if declared == "boolean":
        return "true" if value else "false"
    if declared == "timestamp":
        return _instant_text(value)
    return value.isoformat() if declared == "date" and not isinstance(value, str) else str(value)


def _instant_text(value: Any) -> str:
    """Return a timestamp in UTC with microseconds, as `tables.join_key` writes it. Raises FeatureError."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        instant = None
    if not isinstance(instant, datetime) or instant.tzinfo is None:
        raise FeatureError(
            "look up a row: a timestamp in its key has no offset from UTC",
            "Write it with its offset, such as 2025-03-30T01:30:00+00:00.",
        )
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
