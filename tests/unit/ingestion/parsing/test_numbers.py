"""Numbers of Europe's dialects are read exactly, and a text that could be two numbers is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion.cells import convert
from rempart.ingestion.parsing.numbers import number
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect

MARKS = [(".", ""), (",", ""), (",", "."), (",", " "), (",", "'"), (".", ","), (".", " "), (".", "'")]
DIALECTS = [Dialect.model_validate({"decimal": decimal, "thousands": thousands}) for decimal, thousands in MARKS]
GERMAN = Dialect(decimal=",", thousands=".")


def typed(text: str, dialect: Dialect, **column: object) -> tuple[object, list[str]]:
    spec = Column.model_validate({"known": "then", **column})
    table, against = convert([[text]], {"c": spec}, required=set(), dialect=dialect)
    return table["c"][0].as_py(), against.get(0, [])


def written(value: Decimal, dialect: Dialect) -> str:
    text = f"{value:,f}" if dialect.thousands else f"{value:f}"
    return text.translate({ord(","): dialect.thousands, ord("."): dialect.decimal})


@pytest.mark.parametrize(
    ("text", "dialect", "value"),
    [
        ("1.234,5", GERMAN, 1234.5),
        ("1234,5", GERMAN, 1234.5),
        ("-1.234.567", GERMAN, -1234567.0),
        (",5", GERMAN, 0.5),
        ("1 234,5", Dialect(decimal=",", thousands=" "), 1234.5),
        ("1\u202f234,5", Dialect(decimal=",", thousands=" "), 1234.5),
        ("1\u00a0234,5", Dialect(decimal=",", thousands=" "), 1234.5),
        ("1\u2019234.5", Dialect(thousands="'"), 1234.5),
        ("1,234.5", Dialect(thousands=","), 1234.5),
        ("1,5e3", GERMAN, 1500.0),
    ],
)
def test_a_number_of_the_dialect(text: str, dialect: Dialect, value: float) -> None:
    assert typed(text, dialect, type="number") == (value, [])
    assert number(text, dialect) == value


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("1.5", GERMAN),
        ("1.23.456", GERMAN),
        ("12.34,5", GERMAN),
        ("1234.567,5", GERMAN),
        ("1.234", Dialect(decimal=",")),
        ("1,234", Dialect()),
        ("1,5", Dialect(thousands=",")),
        ("1 234", Dialect()),
        ("1.234,5,6", GERMAN),
        ("1..234", GERMAN),
        (".", GERMAN),
        (",", GERMAN),
    ],
)
def test_a_number_of_another_dialect_is_refused(text: str, dialect: Dialect) -> None:
    value, against = typed(text, dialect, type="number")
    assert (value, len(against), number(text, dialect)) == (None, 1, None)
    assert text in (".", ",") or text not in against[0]


def test_whole_numbers_have_separators_too() -> None:
    assert typed("1.234.567", GERMAN, type="integer") == (1234567, [])
    assert typed("1,0", GERMAN, type="integer")[0] is None


@settings(max_examples=100)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12),
    st.sampled_from(DIALECTS),
)
def test_what_a_dialect_writes_is_read_back(value: Decimal, dialect: Dialect) -> None:
    text = written(value, dialect)
    assert typed(text, dialect, type="decimal", precision=17, scale=4) == (value, [])
    assert number(text, dialect) == float(value)


@settings(max_examples=100)
@given(st.text("0123456789.,' -e", max_size=12), st.sampled_from(DIALECTS))
def test_a_column_and_a_single_text_agree(text: str, dialect: Dialect) -> None:
    assert typed(text, dialect, type="number", nullable=True)[0] == number(text, dialect)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5", "1.50"), ("-0.10", "-0.10"), ("007", "7.00"), (".5", "0.50"), ("5.", "5.00"), ("999.99", "999.99"),
     ("1.2300", "1.23"), ("0", "0.00"), ("000.000", "0.00")],
)  # fmt: skip
def test_a_decimal_is_exact(text: str, value: str) -> None:
    assert typed(text, Dialect(), type="decimal", precision=5, scale=2) == (Decimal(value), [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1.234", "more than 2 decimal places"),
        ("1000", "more than 3 digits before the decimal mark"),
        ("1e2", "not a decimal"),
        ("NaN", "NaN or infinity"),
        ("1,5", "decimal comma; write a decimal point"),
    ],
)
def test_a_decimal_is_never_rounded(text: str, reason: str) -> None:
    assert typed(text, Dialect(), type="decimal", precision=5, scale=2) == (None, [f"c: {reason}"])
