"""A task of a Spark job writes its rows as one object that is named by its content."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from rempart.spark.sites import keep_rows
from tests.memory_site import MemorySite

SCHEMA = pa.schema({"trip": pa.int64(), "km": pa.float64()})


def at_site() -> MemorySite:
    site = MemorySite("primary")
    site.ensure_bucket("lake", versioned=False)
    return site


def kept(site: MemorySite, *tables: pa.Table) -> tuple[str, int, int] | None:
    return keep_rows(
        tables, SCHEMA, lambda: site, "lake", lambda sha256: f"job/{sha256}", {"retain-until": "2031-01-01"}
    )


def test_rows_are_one_object_however_often_a_task_runs() -> None:
    site, some = at_site(), pa.table({"km": [1, 2], "trip": [7, 8]})
    made = kept(site, some, some)
    assert made == kept(site, some, some) and made is not None
    (info,) = site.list("lake", "job/")
    assert (info.key, info.size, made[2]) == (f"job/{made[0]}", made[1], 4)
    assert site.head("lake", info.key).metadata["retain-until"] == "2031-01-01"
    read = pq.read_table(io.BytesIO(site.read("lake", info.key, sha256=made[0])))
    assert read.schema == SCHEMA and read["trip"].to_pylist() == [7, 8, 7, 8]


def test_a_task_without_rows_writes_nothing() -> None:
    site = at_site()
    assert kept(site) is None and kept(site, SCHEMA.empty_table()) is None
    assert not [*site.list("lake", "")]
