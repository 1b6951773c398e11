"""The text of records: text and value convert into each other exactly, and forbidden values are named in the error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.canonical_json import LARGEST
from rempart.errors import LedgerError
from rempart.ledger.canonical import canonical, parse

strings = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST, LARGEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings,
    lambda inner: st.lists(inner) | st.dictionaries(strings, inner),
    max_leaves=20,
)


@given(plain)
def test_a_text_gives_back_its_value_and_itself(value: object) -> None:
    text = canonical(value)
    assert parse(text) == value
    assert canonical(parse(text)) == text
    assert "\n" not in text


@given(plain, st.integers(0, 200), st.sampled_from(' \t"0,:{}[]e.-'))
def test_no_other_text_passes_for_the_same_value(value: object, at: int, character: str) -> None:
    text = canonical(value)
    other = text[: at % (len(text) + 1)] + character + text[at % (len(text) + 1) :]
    try:
        found = parse(other)
    except ValueError:
        return
    assert found != value


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"b":1,"a":1}', '{"a": 1}', "1.0", "01", "NaN", '"\\u0041"', "[" * 5000]
)
def test_what_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metrics": {"mae": math.nan}}, "metrics.mae is not a finite number"),
        ({"metrics": [1, math.inf]}, r"metrics\[1\] is not a finite number"),
        ({"a": 2**53}, "a is an integer beyond"),
        ({"a": {1: 2}}, "a has a key that is a int"),
        ({"a": b"x"}, "a is a bytes"),
        ({"a": "\x00"}, "a contains U"),
        ({"a": [{"b": "x\x00"}]}, r"a\[0\].b contains U"),
        ({"a": "\ud800"}, "surrogate"),
        ("\x00", r": the record itself contains U\+0000"),
        ({"x\x00": 1}, r": a key of the record itself contains U\+0000"),
        (math.nan, ": the value itself is not a finite number"),
    ],
)
def test_what_no_record_may_hold_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        canonical(value)


def test_the_escape_of_a_null_character_may_be_quoted() -> None:
    assert parse(canonical({"a": "\\u0000"})) == {"a": "\\u0000"}
