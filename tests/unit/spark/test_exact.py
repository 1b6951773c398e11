"""A derived query runs on Spark if its rows are those of DuckDB to the last bit; everything else is refused by name."""

from __future__ import annotations

import pytest

from rempart.errors import IngestError
from rempart.ingestion.derived.binding import bind, sql_type
from rempart.ingestion.parsing.schema import SnapshotColumn
from rempart.spark.dialect import statement
from rempart.spark.exact import queries

COLUMNS = {
    "trips": {
        "trip": "integer",
        "started": "timestamp",
        "day": "date",
        "rider": "string",
        "km": "number",
        "price": "decimal(12,2)",
        "paid": "boolean",
        "tags": "array(string)",
    },
    "weather": {"hour": "timestamp", "rain": "number"},
}
TYPES = {
    "integer": "BIGINT",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "date": "DATE",
    "string": "VARCHAR",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "decimal(12,2)": "DECIMAL(12,2)",
    "array(string)": "VARCHAR[]",
}
TABLES = {name: {column: TYPES[of] for column, of in columns.items()} for name, columns in COLUMNS.items()}
SAME = [
    """SELECT w.hour, w.rain, count(*) AS trips, max(t.km) AS longest
    FROM trips t JOIN weather w ON w.hour = date_trunc('hour', t.started) GROUP BY w.hour, w.rain""",
    """SELECT day, CAST(sum(price) AS DECIMAL(18, 2)) AS paid, CAST(sum(trip) AS BIGINT) AS n
    FROM trips GROUP BY day""",
    """SELECT day, count(DISTINCT rider) AS riders
    FROM trips WHERE paid AND km >= 0.5 GROUP BY day HAVING count(*) > 1""",
    "SELECT trip, CASE WHEN km > 3 THEN 'far' ELSE 'near' END AS how, coalesce(rider, '') AS rider FROM trips",
    "SELECT trip, km * 1.5 + 2 AS more, km / 2 AS half, price + 1.25 AS dearer, -trip AS less FROM trips",
    "SELECT CAST(started AS DATE) AS day, CAST(trip AS DOUBLE) AS t FROM trips WHERE started >= '2026-01-01'",
    """WITH first AS (SELECT rider, min(started) AS began FROM trips GROUP BY rider)
    SELECT t.trip, f.began, t.started = f.began AS first FROM trips t LEFT JOIN first f USING (rider)""",
    "SELECT trip, rider || '!' AS r FROM trips UNION ALL SELECT 0 AS trip, 'none' AS r",
    """SELECT trip, rank() OVER (PARTITION BY rider ORDER BY started) AS n
    FROM trips WHERE day BETWEEN '2026-01-01' AND '2026-02-01' AND rider IN ('a', 'b')""",
    "SELECT trip, price * 3 AS p, DATE '2026-01-01' AS d, greatest(trip, 3) AS g, nullif(trip, 0) AS n FROM trips",
    """WITH x AS (SELECT day, price * 1.5 AS y FROM trips)
    SELECT day, CAST(sum(y) AS DECIMAL(20, 3)) AS s, max(y) + 1 AS m FROM x GROUP BY day""",
    "SELECT trip, count(*) OVER (PARTITION BY day) AS n FROM trips",
    "SELECT trip, CASE WHEN paid THEN price END AS p, CASE rider WHEN 'a' THEN 1 WHEN 'b' THEN 2 END AS r FROM trips",
    """SELECT trip FROM trips WHERE rider NOT IN ('a', 'b')
    AND started NOT IN (SELECT hour FROM weather WHERE hour >= '2026-01-01T00:30:00Z')""",
    "SELECT trip FROM trips WHERE started NOT IN (SELECT hour FROM weather)",
    "SELECT trip, km FROM trips WHERE km IN (SELECT rain FROM weather) OR NOT paid",
    "SELECT trip, km / km AS one, trip / km AS a, km / trip AS b, 1 / (trip * 0) AS c, km / 3 / price AS d FROM trips",
    "SELECT day, count(trip) / count(rider) AS r, sum(trip) / nullif(max(km), 0) AS k FROM trips GROUP BY day",
    "SELECT trip, 1 / km AS x FROM trips WHERE trip = 0 OR rider IN ('a', 'b')",
    "SELECT trip, 1 / km AS x FROM trips UNION ALL SELECT trip, 0.5 / km AS x FROM trips",
    "SELECT trip, started + INTERVAL '90 minutes' AS e, started - INTERVAL 2 DAY - INTERVAL 1 SECOND AS b FROM trips",
    """SELECT t.trip, w.rain FROM trips t
    JOIN weather w ON w.hour + INTERVAL 3 HOUR >= date_trunc('hour', t.started) - INTERVAL '1' MINUTE""",
    "SELECT trip, km + (SELECT count(*) FROM weather) AS n FROM trips WHERE started > (SELECT min(hour) FROM weather)",
    "SELECT trip, km % 3 AS k, km % nullif(km, 0) AS n FROM trips WHERE NOT (trip <> 0 AND paid)",
]
"""Queries whose rows are the same on both engines: tests/spark runs them."""


def judged(query: str) -> str:
    """The query for Spark, from DuckDB's own form of it, as an order has it."""
    columns = {
        name: {column: SnapshotColumn(of, True) for column, of in found.items()} for name, found in COLUMNS.items()
    }
    found = bind("q.sql", query, columns)
    return queries.query(found.text, TABLES, {name: sql_type(column.type) for name, column in found.columns.items()})


@pytest.mark.parametrize("query", SAME)
def test_a_query_whose_rows_are_the_same_is_written_for_spark(query: str) -> None:
    assert statement(judged(query)).query


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("SELECT day, sum(km) AS km FROM trips GROUP BY day", "SUM of floats"),
        ("SELECT day, avg(km) AS km FROM trips GROUP BY day", "function avg"),
        ("SELECT trip, row_number() OVER (ORDER BY day) AS n FROM trips", "function row_number"),
        ("SELECT trip FROM trips ORDER BY day LIMIT 3", "Limit"),
        ("SELECT trip, started + INTERVAL 1 MONTH AS s FROM trips", "to_months"),
        ("SELECT trip, started + INTERVAL (trip) HOUR AS s FROM trips", "to_hours"),
        ("SELECT trip, CAST(day + INTERVAL 1 DAY AS DATE) AS d FROM trips", "INTERVAL.*CAST the date"),
        ("SELECT DISTINCT ON (rider) trip, rider FROM trips ORDER BY rider, day", "DISTINCT ON"),
        ("SELECT trip, upper(rider) AS r FROM trips", "function upper"),
        ("SELECT trip, regexp_extract(rider, 'a+') AS r FROM trips", "function regexp_extract"),
        ("SELECT trip, jaccard(rider, 'x') AS r FROM trips", "function jaccard"),
        ("SELECT trip, ln(km) AS r FROM trips", "function ln"),
        ("SELECT trip, CAST(km AS BIGINT) AS r FROM trips", "CAST to BIGINT"),
        ("SELECT trip, CAST(km AS VARCHAR) AS r FROM trips", "CAST to TEXT"),
        ("SELECT trip, CAST(rider AS DOUBLE) AS r FROM trips", "CAST to DOUBLE"),
        ("SELECT trip, TRY_CAST(rider AS BIGINT) AS r FROM trips", "trycast|try_cast"),
        ("SELECT trip, CAST(price AS DECIMAL(12, 1)) AS p FROM trips", "CAST to fewer decimal places"),
        ("SELECT trip, CAST(sum(price) AS DOUBLE) AS p FROM trips GROUP BY trip", "a decimal as a float"),
        ("SELECT trip, CAST(date_trunc('week', day) AS DATE) AS d FROM trips", "date_trunc"),
        (
            "WITH x AS (SELECT trip, km * price AS y FROM trips) SELECT trip, sum(y) AS y FROM x GROUP BY trip",
            "a decimal as|SUM of floats",
        ),
        (
            "WITH x AS (SELECT trip, km * 1.5 AS y FROM trips) SELECT trip, sum(y) AS s FROM x GROUP BY trip",
            "SUM of floats",
        ),
        (
            "WITH x AS (SELECT trip, trip / 2 AS y FROM trips) SELECT trip, sum(y) AS s FROM x GROUP BY trip",
            "SUM of floats",
        ),
        ("SELECT trip, price * price * price * price AS p FROM trips", "more than 38 digits|Mul"),
        ("SELECT trip, rider AS v FROM trips UNION ALL SELECT trip, price AS v FROM trips", "UNION of columns"),
        ("SELECT day AS d FROM trips UNION SELECT started AS d FROM trips", "UNION of columns"),
        ("SELECT price AS p FROM trips UNION ALL (SELECT price * 1.5 AS p FROM trips)", "UNION of columns"),
        (
            """WITH u AS (SELECT day, price AS v FROM trips UNION ALL SELECT day, km AS v FROM trips)
            SELECT day, sum(v) AS s FROM u GROUP BY day""",
            "UNION of columns",
        ),
        ("SELECT trip, km + 1 AS km, km * 2 AS twice FROM trips", "the name km"),
        ("SELECT trip, day - DATE '2026-01-01' AS d FROM trips", "Sub"),
        ("SELECT trip FROM trips WHERE day > '1 January 2026'", "GT"),
        ("SELECT trip, tags FROM trips", "type ARRAY"),
        ("SELECT trip, unnest(tags) AS t FROM trips", "type|function"),
        ("SELECT trip FROM trips WHERE rider LIKE 'a%'", "."),
        ("SELECT trip FROM trips WHERE trip", r"a number as a condition \(WHERE\).*write x <> 0"),
        ("SELECT trip FROM trips WHERE paid AND NOT km", r"a number as a condition \(NOT\)"),
        ("SELECT trip FROM trips WHERE price OR paid", r"a number as a condition \(OR\)"),
        ("SELECT trip, CASE WHEN trip THEN 1 ELSE 2 END AS x FROM trips", r"a number as a condition \(CASE WHEN\)"),
        ("SELECT day, count(*) AS n FROM trips GROUP BY day HAVING sum(trip)", r"a number as a condition \(HAVING\)"),
        ("SELECT count(*) FILTER (km) AS n FROM trips", r"a number as a condition \(WHERE\)"),
        ("SELECT trip FROM trips JOIN weather ON trip", r"a number as a condition \(ON\)"),
        ("SELECT trip FROM trips WHERE rider", r"a value \(text\) as a condition"),
        ("SELECT trip, started IN (SELECT hour FROM weather) AS s FROM trips", "elsewhere than in WHERE"),
        ("SELECT trip FROM trips WHERE NOT (paid AND km IN (SELECT rain FROM weather))", "elsewhere than in WHERE"),
        (
            "SELECT trip FROM trips t WHERE km IN (SELECT rain FROM weather w WHERE w.hour = t.started)",
            "columns of the outer query",
        ),
        ("SELECT trip FROM trips WHERE price IN (SELECT rain FROM weather)", "of another type.*CAST"),
        ("SELECT trip FROM trips WHERE km > ANY (SELECT rain FROM weather)", "GT with ANY.*EXISTS"),
        ("SELECT km, 1 / km AS x FROM trips GROUP BY km", r"a division by a float that may be zero.*nullif\(y, 0\)"),
        ("SELECT trip, 1 / km AS x FROM trips UNION SELECT trip, km AS x FROM trips", "Union keeps 0 or -0"),
        ("SELECT trip, km % price AS x FROM trips", r"% of floats.*nullif\(y, 0\)"),
        ("SELECT trip FROM trips WHERE km = 0 AND 1 / km > 0", "a comparison or a join takes 0 for -0"),
        (
            "SELECT t.trip FROM trips t JOIN weather w ON t.km = w.rain WHERE 1 / t.km > 0",
            "a comparison or a join takes 0 for -0",
        ),
        ("SELECT count(*) FILTER (WHERE km IN (SELECT rain FROM weather)) AS n FROM trips", "elsewhere than in WHERE"),
        ("SELECT count(*) FILTER (WHERE EXISTS (SELECT 1 FROM weather)) AS n FROM trips", "in FILTER"),
        (
            "SELECT trip, EXISTS (SELECT 1 FROM weather w WHERE w.hour = t.started) AS e FROM trips t",
            "columns of the outer query elsewhere than in WHERE",
        ),
        (
            "SELECT trip, (SELECT max(rain) FROM weather w WHERE w.hour = t.started) AS rain FROM trips t",
            "a query as a value.*columns of the outer query.*LEFT JOIN",
        ),
        (
            "SELECT trip FROM trips t WHERE km > (SELECT count(*) FROM weather w WHERE w.hour < t.started) + 1",
            "a query as a value",
        ),
        (
            "SELECT trip FROM trips t WHERE km IN (1.0, (SELECT max(rain) FROM weather w WHERE w.hour = t.started))",
            "a query as a value",
        ),
        ("SELECT trip, s.r FROM trips t, (SELECT max(rain) AS r FROM weather WHERE hour = t.started) s", "a construct"),
        ("SELECT count(DISTINCT rider) OVER (PARTITION BY day) AS n FROM trips", "a window of DISTINCT"),
        ("SELECT count(*) FILTER (paid) OVER (PARTITION BY day) AS n FROM trips", "a window of DISTINCT or FILTER"),
        ("SELECT trip FROM trips WHERE started > '2026-01-01T24:00:00Z'", "of a text and a time"),
        ("SELECT trip, started + to_hours(CAST(CAST(5 AS BOOLEAN) AS INTEGER)) AS s FROM trips", "to_hours"),
    ],
)
def test_everything_else_is_refused_by_its_name(query: str, name: str) -> None:
    with pytest.raises(IngestError, match=f"(?i)the query uses .*({name})") as refused:
        judged(query)
    assert "engine: duckdb" in refused.value.hint
