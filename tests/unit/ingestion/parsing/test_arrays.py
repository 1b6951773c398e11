"""An array stands in one cell; an item of another type refuses the cell."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.parsing.arrays import array, arrays, typed
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect

PLAIN, GERMAN = Dialect(), Dialect(decimal=",", thousands=".")


def test_json_and_separated_items() -> None:
    assert array("[1, 2.5, -3e2]", "number", None, PLAIN) == [1.0, 2.5, -300.0]
    assert array('["a", ""]', "string", None, PLAIN) == ["a", ""]
    assert array("[]", "number", None, PLAIN) == []
    assert array("1.234,5|2", "number", "|", GERMAN) == [1234.5, 2.0]
    assert array("a|b||c", "string", "|", PLAIN) == ["a", "b", "", "c"]


@pytest.mark.parametrize(
    "text",
    ["", "1", "{}", "[1", "[null]", "[true]", '["1"]', "[NaN]", "[Infinity]", "[1e999]", "[[1]]", "[" * 100_000,
     "[" + "9" * 400 + "]", "[" + "9" * 5000 + "]"],
)  # fmt: skip
def test_what_is_no_array_of_numbers(text: str) -> None:
    assert array(text, "number", None, PLAIN) is None


@pytest.mark.parametrize("text", ["[1]", '["\\u0000"]', '["\\ud800"]', "[null]"])
def test_what_is_no_array_of_strings(text: str) -> None:
    assert array(text, "string", None, PLAIN) is None


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))),
)
def test_what_json_writes_is_read_back(numbers: list[float], texts: list[str]) -> None:
    assert array(json.dumps(numbers), "number", None, PLAIN) == numbers
    assert array(json.dumps(texts), "string", None, PLAIN) == texts


LISTS = [
    ("number", pa.list_(pa.float64()), st.floats()),
    ("number", pa.large_list(pa.int64()), st.integers(-(2**63), 2**63 - 1)),
    ("number", pa.list_(pa.float32()), st.floats(width=32)),
    ("string", pa.list_(pa.string()), st.text(st.characters(exclude_categories=["Cs"]))),
]


@st.composite
def lists(draw: st.DrawFn) -> tuple[Column, pa.Array]:
    items, kind, item = draw(st.sampled_from(LISTS))
    rows = draw(st.lists(st.none() | st.lists(st.none() | item, max_size=3), max_size=6))
    made = pa.array(rows, kind)
    return Column(type="array", items=items, known="m"), made.slice(draw(st.integers(0, len(made))))


@given(lists())
def test_a_list_is_what_its_json_is(given_: tuple[Column, pa.Array]) -> None:
    column, values = given_
    text = pa.array([None if row is None else json.dumps(row) for row in values.to_pylist()], pa.string())
    meant, faults = arrays(text, column, PLAIN)
    found = typed(values, column)
    assert found is not None
    assert (found[0].type, repr(found[0].to_pylist())) == (meant.type, repr(meant.to_pylist()))
    assert [(mask.to_pylist(), why) for mask, why in found[1]] == [(mask.to_pylist(), why) for mask, why in faults]
