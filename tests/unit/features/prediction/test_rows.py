"""Features of given rows are those that a training set of the same rows has, and read no other column."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.features import in_memory
from rempart.features.prediction.plan import StoredView, inputs_of, plan
from rempart.features.prediction.rows import features
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import NOW
from tests.integration.test_features import arrow as arrow_of_stays
from tests.integration.test_features import row as stay
from tests.unit.features.expressed import EXPRESSIONS, ROWS, Row, arrow, same, visits
from tests.unit.features.stays import stays


def nothing_stored(view: StoredView, keys: pa.Array) -> pa.Table:
    raise AssertionError(view)


def made(pipeline: ModelPipeline, table: pa.Table, wanted: list[str] | None = None) -> pa.Table:
    """Features of rows of which only the columns are given that the plan names."""
    planned = plan(pipeline, pipeline.model_inputs() if wanted is None else wanted)
    return features(planned, table.select(planned.columns), NOW, nothing_stored)


@settings(max_examples=15, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=4), ROWS)
def test_expressions_and_calendar_parts_equal_the_training_set(texts: list[str], rows: list[Row]) -> None:
    own = {
        "kind": "row",
        "at": "now",
        "columns": ["x", "n", "p"],
        "calendar": {"born": ["year"], "begun": ["hour"]},
        "expressions": {f"e{i}": text for i, text in enumerate(texts)},
    }
    pipeline = visits(features={"own": own}, expressions={"both": "own.x * 2 + own.n"})
    table = arrow(rows)
    trained, found = in_memory.training_set(pipeline, table), made(pipeline, table)
    for name in pipeline.model_inputs():
        assert found[name].type == trained[name].type
        for value, wanted in zip(found[name].to_pylist(), trained[name].to_pylist(), strict=True):
            assert same(value, wanted) or (repr(value) == repr(wanted) == "nan"), name


def test_a_feature_is_empty_where_its_moment_is_later_than_the_prediction_s() -> None:
    """As in a training set: the moments of a row are in the order of the file, or the later one shows nothing."""
    changes: dict[str, Any] = {
        "moments": {"asked": {"column": "arrival", "minus_days": "lead"}, "booking": {"column": "arrival"}},
    }
    columns = stays().model_dump(by_alias=True)["schema"]
    changes["schema"] = {name: column | {"known": "asked"} for name, column in columns.items()}
    changes["features"] = {"stay": {"kind": "row", "at": "asked", "columns": ["nights"]}}
    changes["prediction"] = {"target": "price", "task": "regression", "at": "booking"}
    pipeline, table = stays(**changes), arrow_of_stays([stay(1, 0, lead=7), stay(2, 1, lead=-3)])
    assert [column.name for column in inputs_of(pipeline, ["stay__nights"])] == ["nights", "lead", "arrival"]
    assert made(pipeline, table)["stay__nights"].to_pylist() == [2, None]
    assert in_memory.training_set(pipeline, table)["stay__nights"].to_pylist() == [2, None]


def test_only_the_columns_of_wanted_features_are_read() -> None:
    pipeline = stays()
    read = {
        ("stay__nights",): ["nights"],
        ("stay__arrival_month",): ["arrival"],
        ("trend__price_mean_3d",): ["house"],
        ("rooms__price_mean_5d", "stay__returning"): ["house", "room", "returning"],
        tuple(pipeline.model_inputs()): ["nights", "house", "room", "returning", "arrival"],
    }
    for wanted, columns in read.items():
        assert [column.name for column in inputs_of(pipeline, wanted)] == columns
    assert [column.nullable for column in inputs_of(pipeline, ["stay__nights", "stay__arrival_month"])] == [True, False]


def test_trailing_features_are_looked_up_by_entity_and_joined_in_the_order_of_rows() -> None:
    trend = {"kind": "trailing", "at": "booking", "by": ["house"], "windows": ["7d"], "mean": ["price"]}
    trend |= {"since_last": True}
    row_view = {"kind": "row", "at": "booking", "columns": ["nights"]}
    pipeline = stays(
        features={"stay": row_view, "trend": trend}, expressions={"per_night": "trend.price_mean_7d / stay.nights"}
    )
    at, last = datetime(2030, 1, 9, 12, tzinfo=UTC), datetime(2030, 1, 4, tzinfo=UTC)
    asked: list[list[str]] = []

    def lookup(view: StoredView, keys: pa.Array) -> pa.Table:
        asked.append(keys.to_pylist())
        values: dict[str, Any] = {"house": ["a", "b"], "price_mean_7d": [30.0, 50.0], "rows_7d": [1, 2]}
        values["last_row_at"] = [(last - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)] * 2
        return pa.table(values).select(["house", *(field.name for field in view.fields)])

    houses = ["b", None, "a", "nowhere", "b"]
    table = arrow_of_stays([stay(i, i, house=house, nights=2) for i, house in enumerate(houses)])
    planned = plan(pipeline, pipeline.model_inputs())
    found = features(planned, table.select(planned.columns), at, lookup)
    assert asked == [["b", "a", "nowhere"]]
    assert found["trend__price_mean_7d"].to_pylist() == [50.0, None, 30.0, None, 50.0]
    assert found["trend__days_since_last"].to_pylist() == [5.0, None, 5.0, None, 5.0], "whole days: its moment is a day"
    assert found["expressions__per_night"].to_pylist() == [25.0, None, 15.0, None, 25.0]
