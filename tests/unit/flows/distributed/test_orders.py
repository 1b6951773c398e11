"""Nothing that a job says counts before the objects at the site say the same."""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.errors import ObjectMissing, SparkError
from rempart.flows.distributed import orders
from rempart.spark.order import MadeObject, SparkResult
from tests.memory_site import MemorySite
from tests.unit.spark.orders import order

KEY = order().key("parts/x.parquet")


def _parquet(rows: int) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"x": list(range(rows))}), held)
    return held.getvalue()


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite("primary")
    made.ensure_bucket("lake", versioned=True)
    made.write("lake", KEY, _parquet(3))
    return made


def _result(**changes: object) -> SparkResult:
    body = _parquet(3)
    made = {"role": "part", "key": KEY, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "rows": 3}
    return SparkResult(
        order_id=order().order_id, status="succeeded", made=(MadeObject(**{**made, **changes}),), decision="d" * 64
    )


def test_objects_that_are_as_the_job_says_pass(site: MemorySite) -> None:
    orders.read_back(site, order(), _result())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rows": 4}, "has 3 rows instead of 4"),
        ({"sha256": "0" * 64}, "differs from what the job says"),
        ({"bytes": 1}, "differs from what the job says"),
        ({"key": "snapshots/stays_test/x.parquet"}, "is not in the job's own place"),
    ],
)
def test_an_object_that_differs_is_refused_by_name(site: MemorySite, changes: dict[str, object], why: str) -> None:
    with pytest.raises(SparkError, match=why):
        orders.read_back(site, order(), _result(**changes))


def test_a_file_that_is_no_parquet_is_refused(site: MemorySite) -> None:
    site.write("lake", KEY, b"not parquet")
    body = b"not parquet"
    with pytest.raises(SparkError, match="is no Parquet file"):
        orders.read_back(site, order(), _result(sha256=hashlib.sha256(body).hexdigest(), bytes=len(body)))


def test_a_missing_object_is_no_success(site: MemorySite) -> None:
    site.delete("lake", KEY)
    with pytest.raises(ObjectMissing):
        orders.read_back(site, order(), _result())


def test_what_other_orders_of_the_pipeline_left_is_cleared_and_nothing_else(site: MemorySite) -> None:
    older = order(parameters={})
    site.write("lake", older.key("parts/y.parquet"), b"y")
    site.write("lake", "spark/stays_test_too/z", b"z")
    assert orders.clear(site, "lake", "stays_test", but=order()) == 1
    assert sorted(info.key for info in site.list("lake")) == [KEY, "spark/stays_test_too/z"]
    assert orders.clear(site, "lake", "stays_test") == 1


def test_the_evidence_of_a_job_has_what_it_used_and_the_policy_s_decision() -> None:
    body = orders.evidence(order(), _result())
    assert body["decision"] == "d" * 64 and body["rows"] == 3 and body["usage"]["executors"] == 0
    assert body["job_id"] == order().order_id and "parameters" not in body
