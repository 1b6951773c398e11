"""Expressions on a real database: PostgreSQL gives what DuckDB gives, also online."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from rempart.features import in_memory, training_set
from rempart.features.databases import FeatureDatabases, session
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES
from rempart.flows.training.materialize import materialize_rows
from rempart.settings.expressions import checking
from tests.integration.test_features import NOW
from tests.online_rows import online_rows
from tests.unit.features.expressed import COLUMNS, EXPRESSIONS, TYPES, Row, arrow, same, visits
from tests.unit.features.test_expressions import EXACT, selected

pytestmark = pytest.mark.stores

NUMBERS: list[tuple[float | None, float | None, int | None, int | None]] = [
    (0.0, -0.0, 0, 3),
    (2.5, -2.5, 5, -(10**15)),
    (1e30, 1e-30, 2**63 - 1, -(2**63)),
    (5e-324, 1.7e308, 10**15, 10**15 + 1),
    (float("inf"), float("nan"), None, 1),
    (None, 0.1, -7, 2),
    (123456.789, 1e-9, 1, None),
]


def rows() -> list[Row]:
    """Numbers at the limits, and times about days on which clocks are changed."""
    made = []
    for place, (x, y, n, m) in enumerate(NUMBERS):
        begun = datetime(2021, 3, 14, 6, 59, 59, 999_999, tzinfo=UTC).replace(day=8 + place)
        made.append(
            dict.fromkeys(TYPES)
            | {
                "x": x,
                "y": y,
                "n": n,
                "m": m,
                "p": [True, False, None][place % 3],
                "kind": ["a", "größe", None][place % 3],
            }
            | {"born": date(2020, 2, 28 + place % 2), "seen": None if place == 2 else date(1999, 12, 31)}
            | {"begun": begun, "left": None if place == 4 else begun.replace(year=2024, month=11, day=3)}
        )
    return made


def test_postgresql_gives_what_duckdb_gives(feature_databases: FeatureDatabases) -> None:
    """Also at the limits of numbers, where PostgreSQL alone would stop with an error."""
    texts = {f"e{i}": text for i, (text, _, value) in enumerate(EXACT) if not isinstance(value, type)}
    pipeline, table = visits("visits_sql", own=texts, expressions={"twice": "own.e3 * 2"}), arrow(rows())
    materialize_rows(feature_databases, pipeline, table.to_reader(), "s1", NOW)
    stored = training_set.point_in_time(feature_databases, pipeline)[0].to_pylist()
    tried = in_memory.training_set(pipeline, table).to_pylist()
    assert stored and len(stored) == len(tried)
    for left, right in zip(stored, tried, strict=True):
        assert all(same(left[name], right[name]) for name in right if name.startswith(("own__", "expressions__"))), (
            left,
            right,
        )
    (online,) = online_rows(feature_databases, pipeline, "own", [{"visit": 1}])
    assert all(same(online[name], stored[1].get(f"own__{name}", online[name])) for name in texts)

    with duckdb.connect(":memory:") as database, session(feature_databases.offline, "compare expressions") as opened:
        database.execute("SET TimeZone = 'UTC'")

        @settings(max_examples=12, deadline=None, database=None, derandomize=True)
        @given(st.lists(EXPRESSIONS, min_size=8, max_size=12))
        def compare(texts: list[str]) -> None:
            trees = [checking.checked(text, COLUMNS) for text in texts]
            query = sql.SQL("SELECT {} FROM visits_sql__rows ORDER BY visit").format(
                sql.SQL(", ").join(
                    sql.SQL("({})::{}").format(rendering.select(pipeline, "now", tree), sql.SQL(SQL_TYPES[tree.type]))
                    for tree in trees
                )
            )
            found: list[tuple[Any, ...]] = opened.execute(query).fetchall()
            for stored_row, tried_row in zip(found, selected(database, texts, rows()), strict=True):
                for text, value, wanted in zip(texts, stored_row, tried_row, strict=True):
                    assert same(value, wanted), text

        compare()
