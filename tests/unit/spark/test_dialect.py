"""The engine's SQL for Spark: each difference is written as Spark has it, and what is not known is refused."""

from __future__ import annotations

import pytest

from rempart.errors import SparkError
from rempart.ingestion.engine import keys, parts
from rempart.spark import functions  # noqa: F401 - a connection has its rewrites, too
from rempart.spark.dialect import rewrite, statement


def spark(query: str) -> str:
    return statement(query).query


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("FROM a", "SELECT * FROM `a`"),
        ("SELECT x FROM a SEMI JOIN b USING (x)", "SELECT `x` FROM `a` SEMI JOIN `b` USING (`x`)"),
        ("FROM a ANTI JOIN b ON a.x = b.y", "SELECT * FROM `a` ANTI JOIN `b` ON `a`.`x` = `b`.`y`"),
        ("SELECT strlen(x) FROM a", "SELECT OCTET_LENGTH(`x`) FROM `a`"),
        ("SELECT a.x IS NOT DISTINCT FROM a.y FROM a", "SELECT `a`.`x` IS NOT DISTINCT FROM `a`.`y` FROM `a`"),
        ("SELECT x FROM a ORDER BY x", "SELECT `x` FROM `a` ORDER BY `x` NULLS LAST"),
        ("SELECT CAST(x AS VARCHAR) FROM a", "SELECT CAST(`x` AS STRING) FROM `a`"),
        ("SELECT max(x) FROM a LIMIT 0", "SELECT MAX(`x`) FROM `a` LIMIT 0"),
        ('SELECT "a ""b" FROM t', 'SELECT `a "b` FROM `t`'),
        ("SELECT '' AS t, 'it''s' AS u", "SELECT '' AS `t`, 'it\\'s' AS `u`"),
    ],
)
def test_a_difference_is_written_as_spark_has_it(ours: str, theirs: str) -> None:
    assert spark(ours) == theirs


def test_a_row_number_keeps_the_delivery_above_the_line() -> None:
    found = spark(f"SELECT {keys.row_number(3)} AS n")
    assert "SHIFTLEFT(CAST(3 AS BIGINT), 40)" in found and "| `_line`" in found


def test_exists_is_counted() -> None:
    assert "EXISTS" not in (found := spark("SELECT NOT EXISTS (FROM met) AND 1 = 1 AS all_new"))
    assert "COUNT(*)" in found and "LIMIT 1" in found


@pytest.mark.parametrize("every", ["month", "day", "hour"])
def test_the_period_of_a_row_has_a_translation(every: str) -> None:
    found = spark(f"SELECT {parts.period('at', 'timestamp', every)} AS p FROM a")  # type: ignore[arg-type]
    assert "LEFT(CAST(TIMESTAMP_MICROS(UNIX_MICROS(`at`)) AS STRING), " in found
    assert "LEFT(" in spark(f"SELECT {parts.period('day', 'date', every)} AS p FROM a")  # type: ignore[arg-type]


def test_what_is_created_is_told() -> None:
    table, view = statement("CREATE TEMP TABLE x AS SELECT 1 AS y"), statement("CREATE VIEW z AS FROM x")
    assert (table.kind, table.name, table.query) == ("table", "x", "SELECT 1 AS `y`")
    assert (view.kind, view.name, view.query) == ("view", "z", "SELECT * FROM `x`")


@pytest.mark.parametrize(
    "unknown",
    [
        "SELECT epoch_ms(x) FROM a",
        "SELECT strlen(x, y) FROM a",
        "SELECT list_transform(x, y -> y + 1) FROM a",
        "SELECT CAST(x AS HUGEINT) FROM a",
        "SELECT x // 2 FROM a",
        "SELECT x ^ 2 FROM a",
        "SELECT date_trunc('month', x) FROM a",
        "SELECT regexp_matches(x, 'a') FROM a",
        "FROM read_parquet(['a'])",
        "SELECT * REPLACE (x + 1 AS x) FROM a",
        "SELECT x FROM a POSITIONAL JOIN b",
        "INSERT INTO a SELECT 1",
        "DROP TABLE a",
        "SELECT 1; SELECT 2",
        "SELECT FROM WHERE",
        "CREATE TABLE x (y BIGINT)",
        "SELECT x FROM a USING SAMPLE 10",
        "PIVOT a ON x",
    ],
)
def test_what_has_no_known_translation_is_refused(unknown: str) -> None:
    with pytest.raises(SparkError) as refused:
        statement(unknown)
    assert "duckdb" in refused.value.hint


@pytest.mark.parametrize("kind", ["Cast", "From"])
def test_a_kind_of_node_has_one_meaning(kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        rewrite(kind)(lambda node: node)
