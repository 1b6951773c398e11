"""Features of single rows are those of the same rows in a table, whichever way makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from rempart.errors import FeatureError, PredictionError
from rempart.features.prediction.plan import StoredView, inputs_of, plan
from rempart.features.prediction.rows import features
from rempart.flows.serving.row_features import RowFeatures
from rempart.flows.serving.row_sql import RowSql
from rempart.serving.scorer.rows import Row, typed_rows
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import NOW
from tests.integration.test_features import arrow as arrow_of_stays
from tests.integration.test_features import row as stay
from tests.unit.features.expressed import EXPRESSIONS, PARTS, ROWS, arrow, same, visits
from tests.unit.features.stays import stays
from tests.unit.training import stage


def nothing_stored(view: StoredView, keys: Sequence[Any], at: datetime) -> Sequence[Mapping[str, Any] | None]:
    raise AssertionError(view)


def compare(pipeline: ModelPipeline, table: pa.Table) -> None:
    names = pipeline.model_inputs()
    planned, inputs = plan(pipeline, names), inputs_of(pipeline, names)

    def lookup(view: StoredView, keys: pa.Array) -> pa.Table:
        raise AssertionError(view)

    wanted = features(planned, table.select(planned.columns), NOW, lookup)
    rows: list[Row] = [tuple(row[each.name] for each in inputs) for row in table.to_pylist()]
    made = RowFeatures(pipeline, names, inputs, nothing_stored, lambda: NOW)
    try:
        for found in (made.of(rows), [made.of([row])[0] for row in rows]):
            for place, name in enumerate(names):
                for values, value in zip(found, wanted[name].to_pylist(), strict=True):
                    assert same(values[place], value) or (repr(values[place]) == repr(value) == "nan"), name
    finally:
        made.close()


@settings(max_examples=10, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=3), ROWS)
def test_expressions_and_calendar_parts_are_those_of_a_table(texts: list[str], rows: list[dict[str, Any]]) -> None:
    own = {
        "kind": "row",
        "at": "now",
        "columns": ["x", "n", "p"],
        "calendar": {"born": PARTS, "begun": ["hour", "week"]},
        "expressions": {f"e{i}": text for i, text in enumerate(texts)},
    }
    compare(visits(features={"own": own}, expressions={"both": "own.x * 2 + own.n"}), arrow(rows))


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_columns_and_calendar_parts_of_dates_need_no_sql(rows: list[dict[str, Any]]) -> None:
    own = {"kind": "row", "at": "now", "columns": ["x", "y", "n", "p"], "calendar": {"born": PARTS, "seen": PARTS}}
    pipeline = visits(features={"own": own})
    compare(pipeline, arrow(rows))
    names = pipeline.model_inputs()
    made = RowFeatures(pipeline, names, inputs_of(pipeline, names), nothing_stored, lambda: NOW)
    assert made._row_sql is None


def test_types_nulls_and_categories_of_a_request_are_checked_and_expectations_are_not() -> None:
    """As docs/how-to/serve-predictions.md says: ingestion would send the last row to quarantine."""
    limits = {"expect": "expect_column_values_to_be_between", "column": "lead", "min_value": 0, "max_value": 500}
    pipeline = stage.pipeline(expectations=[limits | {"reason": "lead is out of range"}])
    names = [name for name in pipeline.model_inputs() if not name.endswith("__agent")]
    inputs = inputs_of(pipeline, names)
    given = {"lead": 3, "nights": None, "breakfast": True, "room": "sea", "arrival": "2026-03-01"}
    for wrong in ({"lead": "3"}, {"lead": None}, {"room": "cave"}, {"arrival": "2026-02-30"}):
        with pytest.raises(PredictionError):
            typed_rows(inputs, [given | wrong])
    made = RowFeatures(pipeline, names, inputs, nothing_stored, lambda: NOW)
    (row,) = made.of(typed_rows(inputs, [given | {"lead": -90_000}]))
    assert row[names.index("stay__lead")] == -90_000
    made.close()


def trending() -> ModelPipeline:
    trend = {"kind": "trailing", "at": "booking", "by": ["house"], "windows": ["7d"], "mean": ["price"]}
    trend |= {"since_last": True}
    row_view = {"kind": "row", "at": "booking", "columns": ["nights"]}
    return stays(
        features={"stay": row_view, "trend": trend}, expressions={"per_night": "trend.price_mean_7d / stay.nights"}
    )


AT = datetime(2030, 1, 9, 12, tzinfo=UTC)
STORED = {
    "a": {"trend__price_mean_7d": 30.0, "trend__days_since_last": 5.0, "trend__rows_7d": 1},
    "b": {"trend__price_mean_7d": 50.0, "trend__days_since_last": 5.0, "trend__rows_7d": 2},
}


def test_trailing_features_are_those_of_a_table() -> None:
    pipeline, asked = trending(), list[Sequence[Any]]()
    names = pipeline.model_inputs()
    planned, inputs = plan(pipeline, names), inputs_of(pipeline, names)

    def stored(view: StoredView, keys: Sequence[Any], at: datetime) -> Sequence[Mapping[str, Any] | None]:
        asked.append(keys)
        return [STORED.get(key) for key in keys]

    def lookup(view: StoredView, keys: pa.Array) -> pa.Table:
        last = datetime(2030, 1, 4, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        values: dict[str, Any] = {"house": ["a", "b"], "price_mean_7d": [30.0, 50.0], "rows_7d": [1, 2]}
        values["last_row_at"] = [last // timedelta(microseconds=1)] * 2
        return pa.table(values).select(["house", *(field.name for field in view.fields)])

    houses = ["b", None, "a", "nowhere", "b"]
    table = arrow_of_stays([stay(i, i, house=house, nights=2) for i, house in enumerate(houses)])
    wanted = features(planned, table.select(planned.columns), AT, lookup).select(names).to_pylist()
    made = RowFeatures(pipeline, names, inputs, stored, lambda: AT)
    rows = [tuple(row[each.name] for each in inputs) for row in table.to_pylist()]
    found = made.of(rows)
    assert [dict(zip(names, values, strict=True)) for values in found] == wanted
    assert asked == [houses]
    assert made.without(found) == [(), ("trend",), (), ("trend",), ()]
    made.close()


def test_keys_have_the_features_of_the_online_store() -> None:
    pipeline = trending()
    names = pipeline.model_inputs()

    def stored(view: StoredView, keys: Sequence[Any], at: datetime) -> Sequence[Mapping[str, Any] | None]:
        if view.table.view == "trend":
            return [STORED.get(key) for key in keys]
        return [{"stay__nights": key} if key < 100 else None for key in keys]

    made = RowFeatures(pipeline, names, inputs_of(pipeline, names), stored, lambda: AT)
    found = made.of([{"stay": 2, "house": "a"}, {"stay": 5, "house": "nowhere"}])
    first, second = (dict(zip(names, values, strict=True)) for values in found)
    assert (first["stay__nights"], first["expressions__per_night"], first["trend__price_mean_7d"]) == (2, 15.0, 30.0)
    assert (second["stay__nights"], second["trend__price_mean_7d"]) == (5, None)
    (nobodys,) = made.of([{"stay": 5, "house": None}])
    assert nobodys == made.of([{"stay": 5, "house": "nowhere"}])[0], "the schema allows null"
    for key, fault in (
        ({"stay": 200, "house": "a"}, "predict 1 key: the online store has no row in view 'stay' for 1 key"),
        ({"stay": 2}, "predict 1 key: column 'house' is missing in 1 key, and features are looked up by it"),
        ({"stay": "x", "house": "a"}, "column 'stay' has 1 value that is not of type 'integer'"),
    ):
        with pytest.raises(PredictionError, match=fault):
            made.of([key])
    made.close()


def test_a_key_may_leave_out_the_groups_that_the_stored_row_tells() -> None:
    """The row of a stay tells its room; only what nothing tells is asked for, all of it at once."""
    by_room = {"kind": "trailing", "at": "booking", "days": [5], "mean": ["price"]}
    columns = {"house": "string", "room": "category", "area": "string"}
    schema = stays().model_dump(by_alias=True)["schema"]
    schema |= {name: {"type": kind, "known": "booking"} for name, kind in columns.items()}
    schema["room"] |= {"values": ["single", "suite"], "nullable": True}
    features_ = {"stay": {"kind": "row", "at": "booking", "columns": ["nights", "room"]}}
    features_ |= {"rooms": by_room | {"by": ["room"]}, "areas": by_room | {"by": ["area", "room", "house"]}}
    pipeline = stays(schema=schema, features=features_)
    names = pipeline.model_inputs()
    asked: dict[str, Sequence[Any]] = {}

    def stored(view: StoredView, keys: Sequence[Any], at: datetime) -> Sequence[Mapping[str, Any] | None]:
        asked[view.table.view] = keys
        if view.table.view == "stay":
            return [{"stay__nights": 2, "stay__room": {1: "suite", 2: "single"}.get(key)} for key in keys]
        return [None] * len(keys)

    made = RowFeatures(pipeline, names, inputs_of(pipeline, names), stored, lambda: AT)
    where = {"house": "a", "area": "north"}
    made.of([{"stay": 1, **where}, {"stay": 2, **where, "room": "suite"}, {"stay": 3, **where}])
    assert asked["rooms"] == ["suite", "suite", None], "given values count as they are given"
    assert asked["areas"] == ["north|suite|a", "north|suite|a", None]
    with pytest.raises(PredictionError, match="column 'area' is missing in 1 key") as caught:
        made.of([{"stay": 1}])
    assert caught.value.hint == "Pass the columns area, house, as `schema` names them."
    with pytest.raises(PredictionError) as caught:
        made.of([{"house": "a", "area": "north"}])
    assert caught.value.hint == "Pass the column stay, as `schema` names it."
    made.close()


def test_a_calendar_part_with_the_name_of_a_column_tells_no_group() -> None:
    """The month of the arrival is not the declared column `arrival_month`, by which training grouped rows."""
    schema = stays().model_dump(by_alias=True)["schema"] | {"arrival_month": {"type": "integer", "known": "booking"}}
    months = {"kind": "trailing", "at": "booking", "days": [5], "mean": ["price"], "by": ["arrival_month"]}
    stay_view = {"kind": "row", "at": "booking", "columns": ["nights"], "calendar": {"arrival": ["month"]}}
    pipeline = stays(schema=schema, features={"stay": stay_view, "months": months})
    names = pipeline.model_inputs()

    def stored(view: StoredView, keys: Sequence[Any], at: datetime) -> Sequence[Mapping[str, Any] | None]:
        told = {"stay": {"stay__nights": 2, "stay__arrival_month": 7}}
        return [told.get(view.table.view)] * len(keys)

    made = RowFeatures(pipeline, names, inputs_of(pipeline, names), stored, lambda: AT)
    with pytest.raises(PredictionError, match="column 'arrival_month' is missing in 1 key"):
        made.of([{"stay": 1}])
    made.close()


def test_a_failure_of_the_database_quotes_no_value() -> None:
    made = RowSql({"n": "bigint"}, {"twice": sql.SQL("n + n")}, "add")
    with pytest.raises(FeatureError, match="add of 1 row: DuckDB answered") as caught:
        made.rows([(2**63 - 1,)])
    assert str(2**63 - 1) not in str(caught.value)
    assert made.rows([(2,), (None,)]) == [(4,), (None,)]
    made.close()
