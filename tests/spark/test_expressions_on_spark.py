"""Expressions whose text means something else on Spark give the values of DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest

from rempart.spark.connection import SparkConnection

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MIDNIGHTS = " UNION ALL ".join(
    f"SELECT date '{day}' AS d"
    for day in ("2025-11-02", "2025-10-26", "2025-03-30", "2025-04-06", "2011-12-30", "1892-07-04", "1844-12-31")
)
_ZONES = ("America/Havana", "Europe/Berlin", "Asia/Manila", "Australia/Lord_Howe", "Pacific/Apia")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT log10(1000::double precision) AS a, floor(log10(1e15::double precision)) AS b",
        "SELECT '${spark.app.name}' AS a, '${env:PATH}' AS b",
        "SELECT "
        + ", ".join(
            f"(d::timestamp AT TIME ZONE '{zone}') AS \"midnight {n}\","
            f" ((d::timestamp + '02:30:00'::interval) AT TIME ZONE '{zone}') AS \"half past two {n}\""
            for n, zone in enumerate(_ZONES)
        )
        + f" FROM ({_MIDNIGHTS}) days ORDER BY d",
    ],
    ids=["logarithms", "names of settings", "times that clocks show twice or never"],
)
def test_a_value_is_that_of_duckdb(spark: SparkSession, query: str) -> None:
    with duckdb.connect() as connection, SparkConnection(spark) as on_spark:
        connection.execute("SET TimeZone = 'UTC'")
        wanted = connection.sql(query).to_arrow_table().to_pylist()
        found = [row for batch in on_spark.sql(query).to_arrow_reader(1000) for row in batch.to_pylist()]
    assert found == wanted
