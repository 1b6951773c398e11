"""Expressions: their values by the definition, no later value in any of them, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.errors import FeatureError
from rempart.features import in_memory, tables
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES, view_tables
from rempart.settings.expressions import checking, syntax
from rempart.settings.expressions.syntax import ExpressionFault
from rempart.settings.learning import TrailingView
from tests.unit.features.expressed import COLUMNS, EXPRESSIONS, ROWS, TYPES, Row, arrow, defined, same, visits

PIPELINE = visits()
PYTHON = {"number": float, "integer": int, "boolean": bool, "string": str}


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def selected(database: duckdb.DuckDBPyConnection, texts: list[str], rows: list[Row]) -> list[tuple[Any, ...]]:
    """The values of expressions in each row, by the SQL of the feature store."""
    database.register("received", arrow(rows))
    trees = [checking.checked(text, COLUMNS) for text in texts]
    told = ", ".join(
        f"({rendering.select(PIPELINE, 'now', tree).as_string(None)})::{SQL_TYPES[tree.type]}" for tree in trees
    )
    typed = ", ".join(f'"{c}"::{kind} AS "{c}"' for c, kind in tables.rows_columns(PIPELINE) if c != "event_timestamp")
    return database.execute(f"SELECT {told} FROM (SELECT {typed} FROM received) r ORDER BY visit").fetchall()


@settings(max_examples=50, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=6), ROWS)
def test_a_value_is_that_of_the_definition(
    database: duckdb.DuckDBPyConnection, texts: list[str], rows: list[Row]
) -> None:
    found = list(zip(*selected(database, texts, rows), strict=True))
    for text, values in zip(texts, found, strict=True):
        type_ = PYTHON[checking.checked(text, COLUMNS).type]
        for value, wanted in zip(values, defined(text, rows), strict=True):
            assert same(value, wanted), text
            assert value is None or type(value) is type_, text
            assert not isinstance(value, float) or abs(value) < 1e305, text


EXACT: list[tuple[str, Row, Any]] = [
    ("n / m", {"n": 1, "m": 2}, 0.5),
    ("x", {"x": 1e-31}, 0.0),
    ("x", {"x": -1.1e30}, None),
    ("n", {"n": 10**15 + 1}, None),
    ("n / m", {"n": 1, "m": 0}, None),
    ("x / y", {"x": 0.0, "y": 0.0}, None),
    ("n + m", {"n": 2, "m": 3}, 5),
    ("n * m", {"n": 2, "m": 3}, 6.0),
    ("-n - -2", {"n": 2}, 0),
    ("2 + 3 * 4 - 10 / 4", {}, 11.5),
    ("round(x)", {"x": 2.5}, 3.0),
    ("round(x)", {"x": -2.5}, -2.0),
    ("round(x, 2)", {"x": 1.237}, 1.24),
    ("ln(x)", {"x": 0.0}, None),
    ("log10(x)", {"x": 1000.0}, 3.0),
    ("sqrt(x)", {"x": -0.25}, None),
    ("greatest(x, n)", {"x": None, "n": 3}, 3.0),
    ("coalesce(x, n, 7)", {"x": None, "n": None}, 7.0),
    ("nullif(kind, 'a')", {"kind": "a"}, None),
    ("x > y", {"x": 1.0, "y": None}, None),
    ("p or x > 1", {"p": True, "x": None}, True),
    ("not p and n = 1", {"p": False, "n": 1}, True),
    ("case when n > 0 then 'up' when n < 0 then 'down' end", {"n": 0}, None),
    ("kind in ('a', 'it''s')", {"kind": "it's"}, True),
    ("x between -1 and 1", {"x": 0.5}, True),
    ('"case" + 1', {}, ExpressionFault),
]


@pytest.mark.parametrize(("text", "row", "value"), EXACT)
def test_examples(database: duckdb.DuckDBPyConnection, text: str, row: Row, value: Any) -> None:
    rows = [dict.fromkeys(TYPES) | row]
    if value is ExpressionFault:
        with pytest.raises(ExpressionFault, match="column 'case' is not in the schema"):
            selected(database, [text], rows)
        return
    assert selected(database, [text], rows) == [(value,)]
    assert same(value, defined(text, rows)[0])


def test_days_since_count_until_the_moment_of_the_view() -> None:
    """Of a date whole days, in the source's time zone; of a timestamp a fraction; also where the moment is a day."""
    rows = [dict.fromkeys(TYPES) | {"born": arrow([{}])["day"][0].as_py()}]
    rows[0]["begun"] = arrow([{}])["at"][0].as_py().replace(hour=11)
    texts = {"whole": "days_since(born)", "part": "days_since(begun)"}
    (made,) = in_memory.training_set(visits(own=texts), arrow(rows)).to_pylist()
    assert (made["own__whole"], made["own__part"]) == (0, 0.5)
    before = {"now": {"column": "day", "minus": "3 days"}, "paid": {"column": "at"}}
    (made,) = in_memory.training_set(visits(own=texts, moments=before), arrow(rows)).to_pylist()
    assert (made["own__whole"], made["own__part"]) == (-3, -3 - 11.5 / 24)
    clock = {"now": {"column": "day", "at": "20:00"}, "paid": {"column": "at"}}
    (made,) = in_memory.training_set(visits(own=texts, moments=clock), arrow(rows)).to_pylist()
    assert made["own__whole"] == 0, "20:00 in New York is the next day in UTC"


LATE = ("y", "m", "left", "seen")


@settings(max_examples=12, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=5), ROWS, st.randoms(use_true_random=False))
def test_a_later_value_is_in_no_feature(texts: list[str], rows: list[Row], dice: random.Random) -> None:
    """An expression that reads a later column is refused with its moment; shuffling these columns changes no other."""
    allowed = {}
    for number, text in enumerate(texts):
        later = set(syntax.columns_of(text)) & set(LATE)
        if not later:
            allowed[f"e{number}"] = text
            continue
        with pytest.raises(ValidationError) as error:
            visits(own={"late": text}, late=LATE)
        for column in later:
            assert f"features.own.expressions.late: column '{column}' is known only from 'paid'" in str(error.value)
    pipeline = visits(own={"age": "days_since(day)", **allowed}, late=LATE)
    shuffled = [dict(row) for row in rows]
    for column in LATE:
        values = [row[column] for row in rows]
        dice.shuffle(values)
        for row, value in zip(shuffled, values, strict=True):
            row[column] = value
    first, second = (in_memory.training_set(pipeline, arrow(told)) for told in (rows, shuffled))
    assert first.column_names == second.column_names
    assert [*map(repr, first.to_pylist())] == [*map(repr, second.to_pylist())]


@pytest.mark.parametrize(
    ("expressions", "fault"),
    [
        ({"x": "y + 1"}, r"expressions\.x: a column or a calendar part has this name"),
        ({"r": "paid / x"}, r"expressions\.r: the target 'paid' cannot be in a feature of the same row"),
        ({"day_month": "n"}, r"expressions\.day_month: a column or a calendar part has this name"),
        ({"r": "x / yy"}, r"expressions\.r: column 'yy' is not in the schema \(did you mean 'y'\?\)"),
    ],
)
def test_a_file_with_such_an_expression_is_refused(expressions: dict[str, str], fault: str) -> None:
    own = {"kind": "row", "at": "now", "calendar": {"day": ["month"]}, "expressions": expressions}
    with pytest.raises(ValidationError, match=rf"features\.own\.{fault}"):
        visits(features={"own": own})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("negative()", r"negative\(\) is no function"),
        ("column(x)", r"column\(\) is no function"),
        ("coalesce(case when x > 1 then null end, 1)", "is NULL in every row"),
        ("kind = '\ud800'", "a control character"),
    ],
)
def test_what_only_looks_like_an_expression_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ExpressionFault, match=fault):
        checking.checked(text, COLUMNS)


def test_a_sum_of_many_columns_is_no_calculation_without_an_end() -> None:
    assert checking.checked(" + ".join(["x"] * 40), COLUMNS).type == "number"


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"expressions": {"whole": "1"}}, "it names no feature"),
        ({"own": {"xmin": "x + 1"}}, "xmin"),
    ],
)
def test_a_file_that_would_fail_later_is_refused(sections: dict[str, Any], fault: str) -> None:
    with pytest.raises((ValidationError, FeatureError), match=fault):
        view_tables(visits(**sections))


def test_two_features_of_one_name_are_refused() -> None:
    a = {"kind": "row", "at": "now", "columns": ["n"], "expressions": {"b__c": "x + 1"}}
    b = {"kind": "row", "at": "now", "columns": ["n"], "expressions": {"c": "x + 2"}}
    with pytest.raises(ValidationError, match="two features are called 'a__b__c'"):
        visits(features={"a": a, "a__b": b})


def test_a_text_is_a_feature_of_the_store_and_no_input_of_a_model() -> None:
    pipeline = visits(own={"size": "case when x > 9 then 'large' else 'small' end", "large": "x > 9"})
    assert pipeline.model_inputs() == ["own__large"]
    assert pipeline.features["own"].features() == ["size", "large"]


def test_features_of_several_views_are_combined_after_the_join() -> None:
    views = {
        "own": {"kind": "row", "at": "now", "columns": ["x"], "expressions": {"half": "n / 2"}},
        "past": {
            "kind": "trailing",
            "at": "now",
            "by": ["kind"],
            "windows": ["30d"],
            "mean": ["x"],
            "since_last": True,
        },
    }
    combined = {
        "change": "own.x - past.x_mean_30d",
        "first": "past.rows_30d is null",
        "pace": "own.half / past.days_since_last",
    }
    pipeline = visits(features=views, expressions=combined)
    rows = [dict.fromkeys(TYPES) | {"kind": "a", "x": x, "n": 3} for x in (1.0, 4.0, 10.0)]
    made = in_memory.training_set(pipeline, arrow(rows))
    assert made.column_names[-3:] == ["expressions__change", "expressions__first", "expressions__pace"]
    assert made.column_names[-3:] == pipeline.model_inputs()[-3:]
    assert made["expressions__change"].to_pylist() == [None, 3.0, 7.5]
    assert made["expressions__first"].to_pylist() == [True, False, False]
    assert made["expressions__pace"].to_pylist() == [None, *[pytest.approx(1.5 * 24 / 25)] * 2]
    assert isinstance(pipeline.features["past"], TrailingView)
    for text, fault in {
        "past.x_mean_90d": r"'past\.x_mean_90d' is no feature .* \(did you mean 'past\.x_mean_30d'\?\)",
        "own.kind = 'a'": r"'own\.kind' is no feature that a model gets",
        "x / 2": r"'x' is no feature that a model gets, as VIEW\.FEATURE",
        "case when own.x > 1 then 'a' end": "it gives a text, which no model reads",
    }.items():
        with pytest.raises(ValidationError, match=rf"expressions\.wrong: .*{fault}"):
            visits(features=views, expressions={"wrong": text})
