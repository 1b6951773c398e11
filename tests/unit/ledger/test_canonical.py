"""Canonical JSON: the vectors of RFC 8785, and that a text always gives back its value and itself."""

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import LedgerError
from rempart.ledger.canonical import LARGEST, canonical, parse

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


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_printed_as_the_rfc_says(bits: str, text: str) -> None:
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


def test_the_rfcs_samples() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\x0f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert canonical(value) == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    keys = {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7}
    assert list(json.loads(canonical(keys)).values()) == [2, 4, 6, 7, 1, 5, 3]


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
    ("value", "said"),
    [
        ({"metrics": {"mae": math.nan}}, "metrics.mae is not a finite number"),
        ({"metrics": [1, math.inf]}, r"metrics\[1\] is not a finite number"),
        ({"a": 2**53}, "a is an integer beyond"),
        ({"a": {1: 2}}, "a has a key that is a int"),
        ({"a": b"x"}, "a is a bytes"),
        ({"a": "\x00"}, "a holds U"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_what_no_record_may_hold_is_named_by_its_path(value: object, said: str) -> None:
    with pytest.raises(LedgerError, match=said):
        canonical(value)
