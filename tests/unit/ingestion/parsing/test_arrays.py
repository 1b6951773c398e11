"""An array stands in one cell; an item of another type refuses the cell."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.parsing.arrays import array
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
