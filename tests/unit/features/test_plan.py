"""The plan of the feature store: table shapes, entity keys, and the rows for the online store."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import FeatureError
from rempart.features import plan
from rempart.features.plan import (
    LONGEST_IDENTIFIER,
    Field,
    OnlineTable,
    SqlType,
    entity_key,
    view_tables,
)
from rempart.settings.pipeline import Pipeline
from tests.unit.features.stays import stays

START = datetime(2020, 1, 1, tzinfo=UTC)


def view(pipeline: Pipeline, name: str) -> Any:
    return next(table for table in view_tables(pipeline) if table.view == name)


def test_tables_of_a_pipeline() -> None:
    stay, trend, rooms = view_tables(stays())
    assert (stay.table, stay.join_key, stay.join_type, stay.primary_key) == ("stays__stay", "stay", "bigint", ("stay",))
    assert {f.name: f.type for f in stay.fields} == {
        "nights": "bigint",
        "returning": "boolean",
        "room": "text",
        "arrival_month": "bigint",
        "arrival_day_of_week": "bigint",
    }
    assert (trend.join_type, trend.ttl_days) == ("text", 11)
    assert rooms.primary_key == (rooms.join_key, "event_timestamp")
    assert {f.name: f.type for f in trend.fields}["rows_3d"] == "bigint"
    assert {f.name: f.type for f in trend.fields}["nights_mean_10d"] == "double precision"


def test_more_columns_than_a_table_of_postgresql_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feature store adds two columns to each table, and a view has its key."""
    assert plan.MOST_COLUMNS == 1600
    stored = len(stays().columns)
    monkeypatch.setattr(plan, "MOST_COLUMNS", stored + 2)
    assert view_tables(stays())
    wide = {"wide": {"kind": "row", "at": "booking", "expressions": {f"e{n}": f"lead + {n}" for n in range(stored)}}}
    with pytest.raises(FeatureError, match=f"features.wide: {stored + 1} columns and 2 of the feature store are more"):
        view_tables(stays(features=wide))
    monkeypatch.setattr(plan, "MOST_COLUMNS", stored + 1)
    with pytest.raises(FeatureError, match=f"schema: {stored} columns and 2 .* more than the {stored + 1} .*; remove"):
        view_tables(stays())


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"rows": {"kind": "row", "at": "booking", "columns": ["lead"]}}, "features.rows: the name is reserved"),
        ({"x" * 36: {"kind": "row", "at": "booking", "columns": ["lead"]}}, "more than 63 characters"),
        (
            {
                "stay": {"kind": "row", "at": "booking", "columns": ["lead"]},
                "t": {"kind": "trailing", "at": "booking", "by": ["price"], "days": [3], "mean": ["nights"]},
            },
            "'price' is a number",
        ),
    ],
)
def test_what_the_stores_cannot_hold_is_refused(features: dict[str, Any], says: str) -> None:
    with pytest.raises(FeatureError, match=says):
        view_tables(stays("stays_of_the_guests_of_houses", features=features))


def test_reserved_column_is_refused() -> None:
    schema = {**stays().model_dump(by_alias=True)["schema"], "loaded_at": {"type": "string", "known": "booking"}}
    with pytest.raises(FeatureError, match="loaded_at: the name is reserved"):
        view_tables(stays(schema=schema))


texts = st.text(alphabet="ab|\\", max_size=4)


@given(texts, texts, texts, texts)
def test_different_entities_have_different_keys(a: str, b: str, c: str, d: str) -> None:
    rooms = view(stays(), "rooms")
    entity, other = {"house": a, "room": b}, {"house": c, "room": d}
    assert (entity_key(rooms, stays(), entity) == entity_key(rooms, stays(), other)) == (entity == other)


def test_key_of_other_types() -> None:
    pipeline = stays(key=["arrival", "returning"])
    assert (
        entity_key(view(pipeline, "stay"), pipeline, {"arrival": date(2020, 2, 29), "returning": True})
        == "2020-02-29|true"
    )
    with pytest.raises(FeatureError, match="lacks returning"):
        entity_key(view(pipeline, "stay"), pipeline, {"arrival": date(2020, 2, 29)})


Columns = dict[str, tuple[SqlType, str]]
kinds: st.SearchStrategy[SqlType] = st.sampled_from(("bigint", "double precision", "boolean", "text"))
columns: st.SearchStrategy[Columns] = st.dictionaries(
    st.from_regex(r"[a-z_]{1,40}", fullmatch=True), st.tuples(kinds, st.sampled_from("ab")), min_size=1, max_size=4
)


@given(columns, columns, st.from_regex(r"[a-z_]{1,40}", fullmatch=True))
def test_an_online_table_is_named_by_its_columns_and_definitions(left: Columns, right: Columns, pipeline: str) -> None:
    def named(columns: Columns, pipeline: str = pipeline) -> str:
        fields = tuple(Field(name, kind, definition) for name, (kind, definition) in columns.items())
        return OnlineTable(pipeline, "stay", "key", "bigint", fields).name

    assert (named(left) == named(right)) == (left == right)
    assert named(left) == named(dict(reversed(left.items()))), "the order of the columns does not count"
    assert named(left) != named(left, pipeline + "_")
    assert len(named(left)) <= LONGEST_IDENTIFIER


def test_names_that_only_run_together_are_of_different_tables() -> None:
    fields = (Field("price", "double precision", "0"),)
    hotel = OnlineTable("hotel", "room_price", "key", "bigint", fields)
    assert hotel.name[:-8] == OnlineTable("hotel_room", "price", "key", "bigint", fields).name[:-8]
    assert hotel.name != OnlineTable("hotel_room", "price", "key", "bigint", fields).name
