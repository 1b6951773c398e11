"""Text becomes typed columns; ambiguous text is refused."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion.cells import ALMOST_EMPTY, convert
from rempart.settings.pipeline import Column
from rempart.settings.sources import Dialect


def typed(text: str, **column: object) -> tuple[object, list[str]]:
    spec = Column.model_validate({"known": "then", **column})
    table, against = convert([[text]], {"c": spec}, required=set(), dialect=Dialect(null_values=["", "NA"]))
    return table["c"][0].as_py(), against.get(0, [])


@pytest.mark.parametrize(
    ("text", "type_", "value"),
    [
        ("7", "integer", 7),
        ("-007", "integer", -7),
        ("1.5", "number", 1.5),
        ("1e3", "number", 1000.0),
        ("TRUE", "boolean", True),
        ("0", "boolean", False),
        ("2024-02-29", "date", date(2024, 2, 29)),
        ("0001-01-01", "date", date(1, 1, 1)),
        (" Ünï ", "string", " Ünï "),
    ],
)
def test_values(text: str, type_: str, value: object) -> None:
    assert typed(text, type=type_) == (value, [])


@pytest.mark.parametrize(
    ("text", "type_", "reason"),
    [
        ("1.0", "integer", "not a whole number"),
        ("0x1F", "integer", "not a whole number"),
        ("9" * 19, "integer", "not a whole number"),
        ("12,5", "number", "decimal comma"),
        ("1.234,5", "number", "decimal comma"),
        ("12,5", "integer", "decimal comma"),
        ("nan", "number", "NaN or infinity"),
        ("-Inf", "number", "NaN or infinity"),
        ("1e999", "number", "out of range"),
        ("twelve", "number", "not a number"),
        (" 1", "number", "not a number"),
        ("01/02/2024", "date", "not a date written YYYY-MM-DD"),
        ("2023-02-29", "date", "this date does not exist"),
        ("maybe", "boolean", "not true or false"),
        ("a\x00b", "string", "NUL"),
        ("", "number", "empty"),
        ("NA", "string", "empty"),
    ],
)
def test_refusals_name_column_and_rule_and_no_value(text: str, type_: str, reason: str) -> None:
    value, (against,) = typed(text, type=type_)
    assert value is None or type_ == "string"
    assert against.startswith("c: ")
    assert reason in against
    assert text in ("", "nan") or text not in against


def test_a_category_is_a_closed_list() -> None:
    assert typed("x", type="category", values=["x", "y"]) == ("x", [])
    assert typed("z", type="category", values=["x", "y"])[1] == ["c: not among the declared values"]


def test_null_is_allowed_only_where_declared_and_never_where_a_row_needs_it() -> None:
    nullable = Column(type="string", known="then", nullable=True)
    assert convert([[""]], {"c": nullable}, required=set(), dialect=Dialect())[1] == {}
    assert convert([[""]], {"c": nullable}, required={"c"}, dialect=Dialect())[1] == {
        0: ["c: empty, but every row needs a value"]
    }


@settings(max_examples=200)
@given(st.lists(st.text(max_size=12), max_size=20), st.sampled_from(["integer", "number", "boolean", "date", "string"]))
def test_any_text_is_a_value_or_has_a_reason(texts: list[str], type_: str) -> None:
    column = Column.model_validate({"known": "then", "type": type_})
    table, against = convert([[text] for text in texts], {"c": column}, required=set(), dialect=Dialect())
    for i, value in enumerate(table["c"].to_pylist()):
        assert (value is None) <= (i in against)


@settings(max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**18) + 1, 10**18 - 1), st.dates())
def test_what_python_writes_is_read_back(number: float, whole: int, day: date) -> None:
    assert typed(repr(number), type="number") == (number, [])
    assert typed(str(whole), type="integer") == (whole, [])
    assert typed(day.isoformat(), type="date") == (day, [])


@pytest.mark.parametrize(
    ("cells", "reasons"),
    [
        (["Summe", "", "", "", "", "", "", ""], [ALMOST_EMPTY]),
        (["Summe", "9", "", "", "", "", "", ""], [ALMOST_EMPTY]),
        (["Summe", "x", "", "", "", "", "", ""], [ALMOST_EMPTY, "n0: not a number"]),
        (["Summe", "x", "9", "", "", "", "", ""], 6),
        (["Summe", "9", "9", "9", "9", "", "", ""], 3),
    ],
)
def test_a_line_of_totals_has_one_reason(cells: list[str], reasons: list[str] | int) -> None:
    numbers = {f"n{i}": Column(type="number", known="then") for i in range(len(cells) - 1)}
    columns = {"name": Column(type="string", known="then"), **numbers}
    _, against = convert([["a", *"1234567"], cells], columns, required=["name"], dialect=Dialect())
    assert list(against) == [1]
    assert against[1] == reasons or len(against[1]) == reasons


def test_wrong_values_of_a_sparse_row_are_told_each() -> None:
    sparse = {f"n{i}": Column(type="number", known="then", nullable=True) for i in range(24)}
    columns = {"name": Column(type="string", known="then"), **sparse}
    row = ["a", *["x"] * 4, *[""] * 20]
    _, against = convert([row], columns, required=["name"], dialect=Dialect())
    assert against == {0: [f"n{i}: not a number" for i in range(4)]}
