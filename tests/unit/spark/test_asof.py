"""An ASOF join is written as a union and a window, or refused by name."""

from __future__ import annotations

import pytest

from rempart.errors import SparkError
from rempart.spark import (
    dialect,
    functions,  # noqa: F401 - it adds its rewrites
)

JOIN = 'SELECT e.id, "a view".x FROM asked AS e ASOF LEFT JOIN stored AS "a view" ON {}'


def written(on: str) -> str:
    return dialect.statement(JOIN.format(on)).query


def test_rows_of_both_sides_stand_in_one_order_and_those_asked_for_come_last_in_their_moment() -> None:
    made = written('e.k = "a view".k AND e.at >= "a view".at')
    assert "ASOF" not in made
    assert "SELECT `e`.`id`, `a view`.`x` FROM" in made  # names mean what they meant
    assert "LAST_VALUE(`a view`) IGNORE NULLS OVER (PARTITION BY `_key_0`, `_apart` ORDER BY `_moment`" in made
    assert "1 AS `_side`" in made and "0 AS `_side`" in made
    assert "WHERE NOT `a view`.`k` IS NULL AND NOT `a view`.`at` IS NULL" in made


def test_a_row_of_the_same_moment_does_not_count_if_the_order_is_strict() -> None:
    assert "2 AS `_side`" in written('e.k = "a view".k AND e.at > "a view".at')


def test_the_sides_of_a_comparison_may_be_turned() -> None:
    turned, straight = (
        written('"a view".k = e.k AND "a view".at <= e.at'),
        written('e.k = "a view".k AND e.at >= "a view".at'),
    )
    assert turned == straight


def test_joins_before_and_after_keep_their_names() -> None:
    made = dialect.statement(
        "SELECT e.id, a.x, b.y, c.z FROM asked AS e ASOF LEFT JOIN one AS a ON e.k = a.k AND e.at >= a.at"
        " LEFT JOIN two AS b ON e.id = b.id ASOF LEFT JOIN three AS c ON e.m = c.m AND e.at >= c.at"
    ).query
    assert made.startswith("SELECT `e`.`id`, `a`.`x`, `b`.`y`, `c`.`z` FROM (SELECT `e`, `a`, `b`, `c` FROM")
    assert "STRUCT(`b`.*) AS `b`" in made and "`a` AS `a`" in made


@pytest.mark.parametrize(
    ("on", "why"),
    [
        ("e.k = \"a view\".k AND e.at <= \"a view\".at", "the next row"),
        ("e.at >= \"a view\".at", "equal keys"),
        ("e.k = \"a view\".k", "equal keys"),
        ("e.k = \"a view\".k OR e.at >= \"a view\".at", "more than"),
        ("k = \"a view\".k AND e.at >= \"a view\".at", "name its relation"),
        ("e.k = e.k AND e.at >= \"a view\".at", "not of the two sides"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(on: str, why: str) -> None:
    with pytest.raises(SparkError, match=why):
        written(on)


def test_an_inner_asof_join_is_refused() -> None:
    with pytest.raises(SparkError, match="no `ASOF LEFT JOIN"):
        dialect.statement("SELECT e.id FROM asked AS e ASOF JOIN stored AS s ON e.k = s.k AND e.at >= s.at")
