"""What the same text would not mean on Spark is written in another way."""

from __future__ import annotations

import pytest

from rempart.errors import SparkError
from rempart.spark import (
    dialect,
    functions,  # noqa: F401 - it adds its rewrites
)


def written(expression: str) -> str:
    return dialect.statement(f"SELECT {expression} FROM t").query.removeprefix("SELECT ").removesuffix(" FROM `t`")


@pytest.mark.parametrize(
    ("text", "spark"),
    [
        ("a AT TIME ZONE 'UTC'", "CAST(`a` AS TIMESTAMP_NTZ)"),
        ("d::timestamp AT TIME ZONE 'UTC'", "CAST(CAST(`d` AS TIMESTAMP_NTZ) AS TIMESTAMP)"),
        ("a AT TIME ZONE 'Europe/Paris'", "CAST(FROM_UTC_TIMESTAMP(`a`, 'Europe/Paris') AS TIMESTAMP_NTZ)"),
        ("log10(x)", "LOG10(`x`)"),
        ("EXTRACT(EPOCH FROM a)", "UNIX_SECONDS(`a`)"),
        ("EXTRACT(MICROSECONDS FROM a)", "PMOD(UNIX_MICROS(`a`), 60000000)"),
        ("EXTRACT(ISODOW FROM d)", "(WEEKDAY(`d`) + 1)"),
        ("EXTRACT(WEEK FROM d)", "WEEKOFYEAR(`d`)"),
        ("numeric_mul(a, b)", "(CAST(`a` AS DOUBLE) * CAST(`b` AS DOUBLE))"),
        ("isfinite(x)", "(ABS(`x`) < CAST('Infinity' AS DOUBLE))"),
        ("a << b::integer", "SHIFTLEFT(`a`, CAST(`b` AS INT))"),
        ("a COLLATE \"C\"", "`a`"),
        ("replace(a, E'\\\\', '|')", "REPLACE(`a`, '\\\\', '|')"),
    ],
)  # fmt: skip
def test_an_expression_has_its_meaning(text: str, spark: str) -> None:
    assert written(text) == spark


@pytest.mark.parametrize("divisor", ["60", "(2.5)", "CAST(60 AS DOUBLE)", "nullif(b, 0)", "nullif(b, 0.0)"])
def test_a_division_by_what_is_never_zero_stays_one(divisor: str) -> None:
    assert "TRY_DIVIDE" not in written(f"a / {divisor}")


@pytest.mark.parametrize("divisor", ["b", "0", "b * 2", "nullif(b, 1)", "count(*)"])
def test_a_division_by_zero_is_no_error(divisor: str) -> None:
    assert written(f"a / {divisor}").startswith("COALESCE(TRY_DIVIDE(CAST((`a`) AS DOUBLE)")


@pytest.mark.parametrize(
    "text", ["EXTRACT(CENTURY FROM a)", "a COLLATE de", "interval '1 month'", "log(2, a)", "age(a)", "hash(a)"]
)
def test_what_has_no_translation_is_refused(text: str) -> None:
    with pytest.raises(SparkError, match="no translation"):
        written(text)


def test_a_whole_number_of_a_float_stays_a_float() -> None:
    assert written("floor(x)").startswith("CASE WHEN ABS(`x`) <")
    assert "AS DOUBLE) ELSE CAST(`x` AS DOUBLE) END" in written("floor(x)")


def test_of_two_instants_at_which_clocks_show_a_time_the_later_one_is_meant() -> None:
    late, early = written("d::timestamp AT TIME ZONE 'Europe/Paris'").split(" ELSE ")
    assert early == "TO_UTC_TIMESTAMP(CAST(CAST(`d` AS TIMESTAMP_NTZ) AS TIMESTAMP), 'Europe/Paris') END"
    assert late.startswith("CASE WHEN FROM_UTC_TIMESTAMP(TIMESTAMP_MICROS(UNIX_MICROS(")


def test_the_first_row_of_each_key_is_found_by_its_number() -> None:
    first = "SELECT DISTINCT ON (k) k, v FROM t ORDER BY k, v DESC"
    made = dialect.statement(first).query
    assert dialect.statement(f"SELECT k FROM ({first}) AS newest").query == f"SELECT `k` FROM ({made}) AS `newest`"
    assert "SELECT * EXCEPT (`_nth`) FROM" in made
    assert "ROW_NUMBER() OVER (PARTITION BY `k` ORDER BY `k` NULLS LAST, `v` DESC" in made
    assert "`_nth` = 1" in made


def test_parts_that_are_read_more_than_once_are_computed_once() -> None:
    query = (
        "CREATE TABLE made AS WITH one AS MATERIALIZED (SELECT k FROM t), two AS MATERIALIZED (SELECT k FROM one),"
        " three AS MATERIALIZED (SELECT a.k FROM two a JOIN one ON one.k = a.k) SELECT three.k"
        " FROM three JOIN three b ON true"
    )
    first, second, last = dialect.statements(query)
    assert (first.name, first.query) == ("_part_0", "SELECT `k` FROM `t`")
    assert second.query == (
        "SELECT `a`.`k` FROM (SELECT `k` FROM `_part_0` AS `one`) AS `a` JOIN `_part_0` AS `one` ON `one`.`k` = `a`.`k`"
    )
    assert (last.kind, last.name) == ("table", "made")
    assert last.query == "SELECT `three`.`k` FROM `_part_1` AS `three` JOIN `_part_1` AS `b` ON TRUE"
