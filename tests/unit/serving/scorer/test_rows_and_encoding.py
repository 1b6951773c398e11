"""The ways of single rows are those of tables: what is accepted, how it is encoded, what an answer's columns hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import PredictionError, TrainingError
from rempart.models import predictions
from rempart.models.encoding import Feature, RowEncoder, encode
from rempart.models.inputs import Input, typed
from rempart.serving.scorer.rows import KeptColumns, typed_rows
from rempart.settings.columns import ColumnType

ARROW = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "decimal": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["plain", "2026-02-29", "2024-02-29", "2026-01-31T00:00:00Z", "2026-01-31T00:00:00", "20260131"]),
    st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "a\0b", "\ud800", ""]),
    st.lists(st.integers(), max_size=1),
)
KINDS: list[ColumnType] = ["integer", "number", "decimal", "boolean", "string", "category", "date", "timestamp"]


def column(kind: ColumnType, *, nullable: bool) -> Input:
    return Input("x", kind, nullable, ("plain", "sea") if kind == "category" else ())


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.booleans(), st.lists(JSON, min_size=1, max_size=3))
def test_what_single_rows_accept_is_what_a_table_accepts(kind: ColumnType, nullable: bool, values: list[Any]) -> None:
    each = column(kind, nullable=nullable)
    try:
        rows = typed_rows([each], [{"x": value, "other": 1} for value in values])
    except PredictionError as refusal:
        assert "column 'x'" in refusal.what
        assert not any(isinstance(v, str) and len(v) > 8 and v in str(refusal) for v in values)
        return
    converted = [row[0] for row in rows]
    table = pa.table({"x": pa.array(converted, ARROW.get(kind, pa.string()))})
    assert typed([each], table)["x"].to_pylist() == converted


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.booleans(), st.lists(JSON | st.just("sea"), min_size=2, max_size=4), st.data())
def test_rows_together_are_read_as_each_is(
    kind: ColumnType, nullable: bool, values: list[Any], data: st.DataObject
) -> None:
    alike = data.draw(st.sampled_from([bool, int, float, str, object]))
    inputs, rows = [column(kind, nullable=nullable)], [{"x": value} for value in values if isinstance(value, alike)]
    try:
        single = [typed_rows(inputs, [row])[0] for row in rows]
    except PredictionError:
        with pytest.raises(PredictionError):
            typed_rows(inputs, rows)
        return
    assert repr(typed_rows(inputs, rows)) == repr(single)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", [1, 2.0, -(2**63)], [1.5, "1", True, 2**63, [1]]),
        ("number", [1, 2.5], ["1", True, math.inf, math.nan, 10**400]),
        ("boolean", [True], [0, "true"]),
        ("string", ["", "é"], [1, "a\0", "\ud800"]),
        ("category", ["plain"], ["cellar", 1]),
        ("date", ["2024-02-29"], ["2023-02-29", "20240229", "2024-W01-1", "2024-02-29T00:00:00Z", 3]),
        (
            "timestamp",
            ["2024-02-29T00:00:00+01:00", "2024-02-29 00:00Z"],
            ["2024-02-29T00:00:00", "2024-02-29", "20240229T000000Z", 3],
        ),
    ],
)
def test_values_of_each_type(kind: ColumnType, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert typed_rows([column(kind, nullable=False)], [{"x": value}])
    for value in [*bad, None]:
        with pytest.raises(PredictionError, match="predict 1 row: column 'x'"):
            typed_rows([column(kind, nullable=False)], [{"x": value}])
    with pytest.raises(PredictionError, match="is missing in 1 row"):
        typed_rows([column(kind, nullable=True)], [{"y": 1}])
    with pytest.raises(PredictionError, match="is missing in 1 row"):
        typed_rows([column(kind, nullable=False), Input("y", "integer")], [{"y": 1}])
    assert typed_rows([column(kind, nullable=True)], [{"x": None}]) == [(None,)]


def test_a_column_that_may_be_null_may_be_left_out_of_rows_and_of_tables_alike() -> None:
    inputs = [Input("x", "integer", nullable=True), Input("y", "number", nullable=True), Input("z", "integer")]
    assert typed_rows(inputs, [{"z": 1}]) == [(None, None, 1)]
    assert typed_rows(inputs, [{"z": 1}, {"z": 2, "x": 3}]) == [(None, None, 1), (3, None, 2)]
    assert typed(inputs, pa.table({"z": [1], "y": [2.5]})).to_pylist() == [{"x": None, "y": 2.5, "z": 1}]
    for rows in ([{"colour": 1}], [{"x": None}, {"colour": 1}], [{"x": 1, "y": 2.0}, {}]):  # no row of this model
        with pytest.raises(PredictionError, match="is missing in"):
            typed_rows(inputs[:2], rows)
    with pytest.raises(PredictionError, match="lack columns 'x', 'y'"):
        typed(inputs[:2], pa.table({"colour": [1]}))


FEATURES = (
    Feature("n", "number"),
    Feature("w", "number"),
    Feature("b", "boolean"),
    Feature("c", "category", ("p", "q")),
)
CELLS = st.tuples(
    st.none() | st.floats(allow_nan=False),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
    st.none() | st.sampled_from("pq"),
)


@given(st.lists(CELLS, max_size=6))
def test_rows_are_encoded_as_a_table_is(rows: list[tuple[Any, ...]]) -> None:
    types = {"n": pa.float64(), "w": pa.int64(), "b": pa.bool_(), "c": pa.string()}
    cells = list(zip(*rows, strict=True)) or [()] * 4
    table = pa.table({name: pa.array(cells[i], kind) for i, (name, kind) in enumerate(types.items())})
    np.testing.assert_array_equal(RowEncoder(FEATURES).matrix(rows), encode(FEATURES, table))


def test_a_value_outside_of_a_features_list_is_refused_without_quoting_it() -> None:
    with pytest.raises(TrainingError, match="encode feature 'c'") as caught:
        RowEncoder(FEATURES).matrix([(1.0, 1, True, "secret")])
    assert "secret" not in str(caught.value)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, math.nan]), min_size=2, max_size=2), max_size=4))
def test_named_rows_are_the_rows_of_the_table(figures: list[list[float]]) -> None:
    target, array = Feature("t", "category", ("a", "b")), np.array(figures, np.float64).reshape(-1, 2)
    for task, matrix in (("classification", array), ("regression", array[:, 0])):
        wanted = predictions.named(task, target, matrix).to_pylist()
        assert repr(predictions.named_rows(task, target, matrix)) == repr(wanted)


@pytest.mark.parametrize("kind", ["date", "timestamp", "integer", "string"])
def test_a_value_of_the_key_that_is_none_of_its_type_is_told_and_not_quoted(kind: ColumnType) -> None:
    kept = KeptColumns([Input("day", kind, nullable=True)], ["day"])
    assert kept.of([{"day": None}, {}]) == [{"day": None}, {}]
    for rows in ([{"day": "CANARY\0"}], [{"day": "CANARY\0"}] * 2, [{"day": None}, {"day": "CANARY\0"}]):
        with pytest.raises(PredictionError, match="'day' of the key") as refused:
            kept.of(rows)
        assert "CANARY" not in str(refused.value)
