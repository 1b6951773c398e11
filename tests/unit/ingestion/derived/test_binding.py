"""A query is bound before any run: its columns and types are known, and what could give other rows is refused."""

from __future__ import annotations

import pytest

from rempart.errors import PipelineError
from rempart.ingestion.derived.binding import bind
from rempart.ingestion.derived.lineage import lineage
from rempart.ingestion.snapshots import SnapshotColumn

INPUTS = {
    "trips": {
        "id": SnapshotColumn("integer", False),
        "moment": SnapshotColumn("timestamp", False),
        "day": SnapshotColumn("date", False),
        "fare": SnapshotColumn("decimal(12,2)", True),
        "zone": SnapshotColumn("category", True),
        "paid": SnapshotColumn("boolean", True),
        "stops": SnapshotColumn("array(string)", True),
    },
    "weather": {
        "hour": SnapshotColumn("timestamp", False),
        "rain": SnapshotColumn("number", True),
        "zone": SnapshotColumn("string", True),
    },
}
JOINED = """
WITH mean AS (SELECT zone, avg(rain) AS usual FROM weather GROUP BY zone)  -- a comment
SELECT t.id, t.fare * 2 AS twice, mean.usual, t.stops, weather.rain, t.moment - INTERVAL 1 HOUR AS before,
       count(*) OVER (PARTITION BY t.zone ORDER BY t.moment) AS nth, 'fixed' AS fixed
FROM trips AS t
ASOF JOIN weather ON t.zone = weather.zone AND t.moment >= weather.hour
LEFT JOIN mean ON mean.zone = t.zone
WHERE year(t.moment) > 2000 AND t.moment > TIMESTAMPTZ '2020-01-01 00:00:00+00';
"""


def types(text: str) -> dict[str, str]:
    return {name: column.type for name, column in bind("include/sql/x.sql", text, INPUTS).columns.items()}


def test_columns_and_types_of_a_join_are_known() -> None:
    query = bind("include/sql/x.sql", JOINED, INPUTS)
    assert {name: column.type for name, column in query.columns.items()} == {
        "id": "integer",
        "twice": "decimal(18,2)",
        "usual": "number",
        "stops": "array(string)",
        "rain": "number",
        "before": "timestamp",
        "nth": "integer",
        "fixed": "string",
    }
    assert query.used == {"trips", "weather"} and "comment" not in query.text
    assert bind("include/sql/x.sql", JOINED.replace("  -- a comment", ""), INPUTS).text == query.text


def test_lineage_by_column_through_joins_windows_and_common_tables() -> None:
    found = lineage(bind("include/sql/x.sql", JOINED, INPUTS), INPUTS)
    assert found == {
        "id": (("trips", "id"),),
        "twice": (("trips", "fare"),),
        "usual": (("weather", "rain"),),
        "stops": (("trips", "stops"),),
        "rain": (("weather", "rain"),),
        "before": (("trips", "moment"),),
        "nth": (("trips", "moment"), ("trips", "zone")),
        "fixed": (),
    }


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id, day, paid FROM trips",
        "FROM trips SELECT id",
        "SELECT id FROM trips ORDER BY moment, id LIMIT 3",
        "SELECT DISTINCT ON (zone) zone, id FROM trips ORDER BY zone, id",
        "SELECT zone, string_agg(zone, ',' ORDER BY id) AS zones, min(fare) AS least FROM trips GROUP BY zone",
        "SELECT id FROM trips QUALIFY row_number() OVER (PARTITION BY zone ORDER BY moment, id) = 1",
        "SELECT id, unnest(stops) AS stop FROM trips",
        "SELECT id, date_trunc('month', moment) AS month, strftime(day, '%Y') AS y, hour(moment) AS h FROM trips",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n FROM r",
        "WITH columns AS (SELECT id FROM trips), b AS (SELECT * FROM columns) SELECT id FROM b",
        "WITH trips AS (SELECT id FROM trips) SELECT id FROM trips",
        "SELECT id, avg(fare) OVER (PARTITION BY zone) AS mean FROM trips",
        "SELECT id, count(*) OVER (ORDER BY id ROWS 1 PRECEDING) AS n FROM trips",
        "SELECT id FROM trips ORDER BY 1 LIMIT 3",
        "SELECT id FROM trips ORDER BY ALL LIMIT 3",
        "SELECT id FROM trips UNION SELECT CAST(length(zone) AS BIGINT) FROM weather",
        "FROM (UNPIVOT weather ON rain INTO NAME k VALUE v) SELECT zone, k, v",
        "PIVOT (SELECT id, zone, paid FROM trips) ON zone IN ('a', 'b') USING bool_or(paid) GROUP BY id",
        "SELECT id FROM trips WHERE zone ILIKE 'a%' AND id % 2 = 0 AND stops[1:2] IS NOT NULL AND fare ** 2 > 1",
        "SELECT CAST(moment AT TIME ZONE 'Europe/Berlin' AS DATE) AS day, extract(hour FROM moment) AS h FROM trips",
        "SELECT list_transform(stops, lambda x: upper(x)) AS stops, regexp_matches(zone, 'a') AS a FROM trips",
        "SELECT TRY_CAST(zone AS BIGINT) AS n, coalesce(fare, 0) AS fare, zone || '!' AS z FROM trips",
    ],
)
def test_what_people_write_is_bound(text: str) -> None:
    assert types(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT now() AS a", "now() is not a function of its arguments alone"),
        ("SELECT today() AS a", "today() is not"),
        ("SELECT current_timestamp AS a FROM trips", "current_timestamp differs from run to run"),
        ("SELECT ago(INTERVAL 1 DAY) AS a", "ago() is not"),
        ("SELECT age(moment) AS a FROM trips", "age() with one argument counts until today"),
        ("SELECT random() AS a", "random() is not"),
        ("SELECT uuid() AS a", "uuid() is not"),
        ("SELECT version() AS a", "version() is not"),
        ("SELECT getvariable('x') AS a", "getvariable() is not"),
        ("SELECT current_setting('threads') AS a", "current_setting() is not"),
        ("SELECT getenv('HOME') AS a", "getenv() is not"),
        ("SELECT approx_count_distinct(id) AS a FROM trips", "approx_count_distinct() is not"),
        ("SELECT id FROM trips LIMIT 3", "LIMIT or OFFSET without ORDER BY"),
        ("SELECT id FROM trips OFFSET 3", "LIMIT or OFFSET without ORDER BY"),
        ("SELECT id FROM trips WHERE id IN (SELECT id FROM trips LIMIT 1)", "LIMIT or OFFSET without ORDER BY"),
        ("SELECT DISTINCT ON (zone) id FROM trips", "DISTINCT ON without ORDER BY"),
        ("SELECT any_value(id) AS a FROM trips", "write any_value(... ORDER BY ...)"),
        ("SELECT list(id) AS a FROM trips", "write list(... ORDER BY ...)"),
        ("SELECT row_number() OVER () AS a FROM trips", "row_number() OVER (...) needs ORDER BY"),
        ("SELECT id FROM trips USING SAMPLE 3", "it takes a sample"),
        ("SELECT id FROM trips TABLESAMPLE 3 ROWS", "it takes a sample"),
        ("SELECT t.id FROM trips t POSITIONAL JOIN weather w", "it joins by the position of rows"),
        ("SELECT id FROM 'a.csv'", "table 'a.csv' is none of its inputs"),
        ("FROM (PIVOT trips ON zone IN ('a') USING any_value(id))", "write any_value(... ORDER BY ...)"),
        ("SELECT * FROM read_csv('a.csv')", "read_csv() may not stand in FROM"),
        ("SELECT * FROM glob('*')", "glob() may not stand in FROM"),
        ("SELECT * FROM query('SELECT 1')", "query() may not stand in FROM"),
        ("SELECT * FROM duckdb_settings()", "duckdb_settings() may not stand in FROM"),
        ("SELECT * FROM information_schema.tables", "'information_schema.tables' is none of its inputs"),
        ("SELECT id FROM memory.main.trips", "is none of its inputs"),
        (
            "WITH sqlite_master AS (SELECT sql FROM sqlite_master) SELECT sql FROM sqlite_master",
            "'sqlite_master' is none",
        ),
        ("WITH duckdb_logs AS (SELECT 1 AS a) SELECT a FROM duckdb_logs", "give the WITH table another name"),
        ("WITH a AS (SELECT id FROM b), b AS (SELECT 1 AS id) SELECT id FROM a", "table 'b' is none of its inputs"),
        (
            'WITH "x.parquet" AS (FROM "x.parquet") SELECT id FROM "x.parquet"',
            "table 'x.parquet' is none of its inputs",
        ),
        (
            'WITH RECURSIVE "x.csv" AS (SELECT id FROM "x.csv" UNION ALL SELECT id FROM "x.csv") FROM "x.csv"',
            "table 'x.csv' is none of its inputs",
        ),
        ("SELECT id FROM (WITH b AS (FROM trips) FROM b), b", "table 'b' is none of its inputs"),
        (
            "SELECT count(*) OVER (ROWS 1 PRECEDING) AS n FROM trips",
            "count() OVER (... ROWS ...) counts rows in no order",
        ),
        ("SELECT count(*) OVER (ORDER BY 1 ROWS 1 PRECEDING) AS n FROM trips", "add ORDER BY of a column"),
        (
            "SELECT count(*) OVER (ORDER BY true GROUPS 1 PRECEDING) AS n FROM trips",
            "OVER (... GROUPS ...) counts rows",
        ),
        ("SELECT row_number() OVER (ORDER BY 1) AS n FROM trips", "needs ORDER BY of a column"),
        ("SELECT row_number() OVER w AS n FROM trips WINDOW w AS (ORDER BY 'a')", "needs ORDER BY of a column"),
        ("SELECT list(id ORDER BY 1) AS a FROM trips", "ORDER BY ...) of a column"),
        ("SELECT id FROM trips ORDER BY 1 + 1 LIMIT 3", "without ORDER BY of a column"),
        ("SELECT DISTINCT ON (zone) id FROM trips ORDER BY true", "without ORDER BY of a column"),
        ("SELECT id FROM other", "table 'other' is none of its inputs"),
        ("FROM trips AT (VERSION => 3) SELECT id", "is read AT a version"),
        ("SHOW TABLES", "is not a query of the inputs' rows"),
        ("SELECT * FROM (DESCRIBE trips)", "is not a query of the inputs' rows"),
        ("COPY trips TO 'x'", "it is not a SELECT"),
        ("CREATE TABLE x (a INT)", "it is not a SELECT"),
        ("SET threads = 2", "it is not a SELECT"),
        ("INSTALL httpfs", "it is not a SELECT"),
        ("PIVOT trips ON zone USING count(*)", "a PIVOT needs its columns"),
        ("SELECT 1 AS a; SELECT 2 AS a", "it has 2 statements"),
        ("", "it has 0 statements"),
        ("SELECT $1 AS a", "it has parameters"),
        ("SELEC", "syntax error"),
        ("SELECT nosuch FROM trips", 'Referenced column "nosuch" not found'),
        ("SELECT nosuch(id) AS a FROM trips", "nosuch() is not a function of its arguments alone, or is unknown"),
        ("SELECT sum(id) AS a FROM trips", "column 'a' is HUGEINT: write CAST(... AS BIGINT)"),
        ("SELECT moment::TIMESTAMP AS a FROM trips", "it has no time zone"),
        ("SELECT [1, 2] AS a", "cast it to a type of a pipeline's schema"),
        ("SELECT id AS A FROM trips", "column 'A' needs a name"),
        ("SELECT count(*) FROM trips", "needs a name of lower case letters"),
        ("SELECT id, id FROM trips", "it gives two columns 'id'"),
        ("SELECT 1 AS a -- " + "x" * 100_000, "longer than 100000 bytes"),
    ],
)
def test_what_could_give_other_rows_or_read_something_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(PipelineError) as red:
        types(text)
    assert why in red.value.what and red.value.what.startswith("include/sql/x.sql: ") and "one SELECT" in red.value.hint


def test_an_error_names_the_line_of_each_fault() -> None:
    with pytest.raises(PipelineError, match=r"line 2: now\(\) .*; line 3: random\(\)"):
        types("SELECT id,\n  now() AS a,\n  random() AS b\nFROM trips")
