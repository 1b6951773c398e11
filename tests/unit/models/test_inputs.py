"""Rows for a prediction are checked by the columns on record; an error names the column and the rows, never a value."""

import datetime
import decimal

import pyarrow as pa
import pytest

from rempart.errors import PredictionError
from rempart.models.inputs import Input, added_line, examples, typed, usage
from tests.unit.training import stage

INPUTS = (
    Input("nights", "integer", nullable=True),
    Input("price", "decimal"),
    Input("breakfast", "boolean"),
    Input("room", "category", values=("plain", "sea view")),
    Input("agent", "string"),
    Input("arrival", "date"),
    Input("seen", "timestamp"),
)


def rows(**changes):
    return pa.table({**examples(INPUTS, 3), **changes})


def test_a_column_survives_json_and_every_type_has_an_example_that_is_accepted():
    assert [Input.from_json(each.as_json()) for each in INPUTS] == list(INPUTS)
    found = typed(INPUTS, rows(other=[1, 2, 3]))
    assert found.column_names == [each.name for each in INPUTS]
    assert found.to_pydict() == examples(INPUTS, 3)


def decimals(*values, kind):
    return pa.array([decimal.Decimal(value) for value in values], kind)


def test_a_decimal_gets_the_digits_that_a_snapshot_has_or_is_refused():
    price = Input("price", "decimal", precision=12, scale=2)
    assert Input.from_json(price.as_json()) == price
    for kind in (pa.decimal128(20, 8), pa.decimal256(60, 8)):
        found = typed([price], pa.table({"price": decimals("1.50", "7", kind=kind)}))
        assert found["price"].type == pa.decimal128(12, 2)
        with pytest.raises(PredictionError, match=r"'price' is decimal.*, and its values do not fit"):
            typed([price], pa.table({"price": decimals("1.505", kind=kind)}))
    for undeclared in (Input("price", "decimal"), price):
        with pytest.raises(PredictionError, match="with no more digits than declared"):
            typed([undeclared], pa.table({"price": decimals("1e60", kind=pa.decimal256(70, 0))}))


@pytest.mark.parametrize("year", [0, 10_000, 200_000])
def test_a_time_outside_the_calendar_is_refused(year):
    days = int((year - 1970) * 365.2425) + (2 if year else -2)
    for column, values in (
        ("arrival", pa.array([days, 0], pa.int32()).view(pa.date32())),
        ("arrival", pa.array([days * 86_400_000, 0]).view(pa.date64())),
        ("seen", pa.array([days * 86_400, 0]).view(pa.timestamp("s", "UTC"))),
    ):
        given = rows().slice(0, 2)
        given = given.set_column(given.column_names.index(column), column, values)
        with pytest.raises(PredictionError, match=f"'{column}' lies before the year 1 or after the year 9999 in 1 row"):
            typed(INPUTS, given)


def test_equal_values_of_another_type_are_taken_over():
    large = pa.array(["plain", "sea view", "plain"], pa.large_string())
    found = typed(INPUTS, rows(nights=[1.0, None, 3.0], price=[1, 2, 3], room=large.dictionary_encode()))
    assert found["nights"].to_pylist() == [1, None, 3] and found["price"].to_pylist() == [1.0, 2.0, 3.0]
    assert found["room"].to_pylist() == ["plain", "sea view", "plain"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nights": [1.5, 2.0, 3.0]}, "'nights' is double, and its values do not fit the declared type 'integer'"),
        ({"nights": ["1", "2", "3"]}, "'nights' is string"),
        ({"breakfast": [0, 1, 1]}, "'breakfast' is int64"),
        ({"arrival": ["2026-01-01"] * 3}, "'arrival' is string"),
        ({"seen": [datetime.datetime(2026, 1, 1)] * 3}, "'seen' is timestamp"),  # noqa: DTZ001 - that is the fault
        ({"price": [1.0, None, None]}, "'price' is empty in 2 rows, but it is not nullable"),
        ({"price": [1.0, float("nan"), float("inf")]}, "'price' is NaN or infinite in 2 rows"),
        ({"room": ["plain", stage.CANARY, None]}, "'room' is empty in 1 row"),
        ({"room": ["plain", stage.CANARY, stage.CANARY]}, "'room' holds a value in 2 rows that is not among"),
    ],
)
def test_rows_at_fault_are_counted_and_no_value_is_told(changes, message):
    with pytest.raises(PredictionError, match="predict 3 rows: column") as caught:
        typed(INPUTS, rows(**changes))
    assert message in caught.value.what and stage.CANARY not in str(caught.value)


def test_a_column_that_is_there_twice_is_named():
    with pytest.raises(PredictionError, match="they have column 'room' more than once"):
        typed(INPUTS, rows().append_column("room", rows()["room"]))


def test_all_missing_columns_are_named():
    with pytest.raises(PredictionError, match="they lack columns 'room', 'seen', which"):
        typed(INPUTS, rows().drop_columns(["room", "seen"]))


def test_columns_that_a_version_reads_besides_those_of_the_champion_are_told():
    channel = Input("channel", "string", nullable=True)
    told = added_line("2", [*INPUTS, channel, Input("fee", "number")], INPUTS)
    assert told == "version 2 also reads channel (may be empty), fee, which the champion does not"
    assert added_line("3", INPUTS, [*INPUTS, channel]) == ""


def test_the_python_in_a_description_makes_rows_that_are_accepted():
    text = usage("stays", INPUTS)
    code = text.partition("```python\n")[2].partition("```")[0]
    made, _, asked = code.partition("\nprint(")
    names = {}
    exec(made, names)  # noqa: S102 - our own text
    assert typed(INPUTS, names["rows"]).num_rows == 1 and asked.startswith('champion("stays").predict(rows)')
    long = usage("stays", [Input(f"a_rather_long_name_of_a_column_{i}", "string") for i in range(200)])
    assert "read_table" in long and len(long) < 4900
