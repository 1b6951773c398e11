"""Nothing that a job says counts before the objects at the site say the same."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ObjectMissing, SiteUnavailable, SparkError
from rempart.flows.distributed import orders
from rempart.flows.distributed.job import RESULT
from rempart.sites.port import ObjectInfo
from rempart.spark.order import MadeObject, OutputPlace, SparkOrder, SparkResult
from tests.memory_site import MemorySite
from tests.unit.spark.orders import PERMISSION, order

KEY = order().key("parts/x.parquet")
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def _parquet(rows: int) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"x": list(range(rows))}), held)
    return held.getvalue()


LOCAL = SimpleNamespace(spark=SimpleNamespace(backend="local"))


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


def test_an_object_that_was_read_back_can_be_kept_so_that_nobody_reads_it_again(
    site: MemorySite, tmp_path: Path
) -> None:
    orders.read_back(site, order(), _result(), tmp_path)
    (made,) = _result().made
    assert orders.read_file(tmp_path, made).read_bytes() == _parquet(3)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rows": 4}, "has 3 rows instead of 4"),
        ({"sha256": "0" * 64}, "differs from what the job says"),
        ({"bytes": 1}, "has more bytes than the 1 that the job says"),
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
    site.write("lake", KEY, b"again")
    assert orders.clear(site, "lake", "stays_test") == 2  # both versions: no row stays
    assert [info.key for info in site.versions("lake")] == ["spark/stays_test_too/z"]


class _Dying(MemorySite):
    """Deletes one object, and then its process ends."""

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
        if getattr(self, "deleted", None):
            raise SiteUnavailable("delete: no answer", "Wait.")
        self.deleted = key
        return super().delete(bucket, key, version_id=version_id)


def test_clearing_that_ends_half_way_leaves_no_result_without_its_objects() -> None:
    site = _Dying("primary")
    site.ensure_bucket("lake", versioned=True)
    for name in ("part-1.parquet", "refused-1.parquet", "result.json"):
        site.write("lake", order().key(name), b"x")
    with pytest.raises(SiteUnavailable):
        orders.clear(site, "lake", "stays_test")
    assert site.deleted == order().key("result.json")


def test_an_ingestion_leaves_the_place_of_a_training_that_runs_beside_it(site: MemorySite) -> None:
    theirs = f"{orders.prefix_of('stays_test', 'training_set')}0/rows.parquet"
    site.write("lake", theirs, b"rows")
    site.write("lake", f"{orders.prefix_of('stays_test', 'ingest')}0/part.parquet", b"rows")
    assert orders.clear(site, "lake", "stays_test", "ingest") == 1
    assert theirs in [info.key for info in site.list("lake")]


def test_what_a_training_set_left_is_deleted_in_every_version(site: MemorySite) -> None:
    site.write("lake", KEY, b"again")
    assert orders.forget(site, order()) == 2
    assert not [*site.versions("lake", order().key(""))]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "result.json"]), st.integers(0, 9)), max_size=12),
    st.integers(0, 9),
)
def test_an_order_of_which_an_object_is_young_keeps_all_of_them(drawn: list[tuple[str, str, int]], limit: int) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    found = [
        ObjectInfo(f"spark/p/training_set/{name}/{file}", 1, begin + timedelta(hours=at), version_id=str(number))
        for number, (name, file, at) in enumerate(drawn)
    ]
    gone = orders.unneeded(found, "spark/p/training_set/c/", begin + timedelta(hours=limit))
    young = {name for name, _, at in drawn if at >= limit} | {"c"}
    assert gone == [info for info, (name, _, _) in zip(found, drawn, strict=True) if name not in young]


def test_a_training_that_begins_leaves_the_objects_of_one_that_runs(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = OutputPlace(bucket="lake", prefix=orders.prefix_of("stays_test", "training_set"))
    ours, theirs, old = (order(do="training_set", output=place, parameters={"n": number}) for number in range(3))
    site.clock = lambda: NOW - timedelta(hours=1)
    site.write("lake", theirs.key("rows.parquet"), b"rows")
    site.clock = lambda: NOW - timedelta(days=3)
    site.write("lake", old.key("rows.parquet"), b"rows")
    pipeline: Any = SimpleNamespace(name="stays_test", spark=SimpleNamespace(timeout=timedelta(hours=4)))
    platform: Any = SimpleNamespace(
        site=lambda *_: site,
        config=LOCAL,
        clock=lambda: NOW,
        ledger=SimpleNamespace(append=lambda *_: None),
        writer=None,
    )
    monkeypatch.setattr(orders, "permitted", lambda *_, on: PERMISSION)
    orders.run(platform, pipeline, ours, _Backend(site, changed(_result(), made=())))
    left = [info.key for info in site.list("lake", place.prefix)]
    assert left == sorted([theirs.key("rows.parquet"), ours.key(RESULT)])


def changed(result: SparkResult, **more: Any) -> SparkResult:
    return result.model_copy(update=more)


class _Backend:
    def __init__(self, site: MemorySite, result: SparkResult) -> None:
        self.site, self.result = site, result

    def run(self, ordered: SparkOrder) -> SparkResult:
        self.site.write("lake", ordered.key("result.json"), self.result.to_json())
        return self.result


def test_a_result_whose_objects_are_not_as_it_says_is_not_there_for_the_next_run(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = order(output=OutputPlace(bucket="lake", prefix=orders.prefix_of("stays_test", "ingest")))
    platform: Any = SimpleNamespace(site=lambda *_: site, config=LOCAL, clock=lambda: NOW)
    pipeline: Any = SimpleNamespace(name="stays_test", spark=SimpleNamespace(timeout=timedelta(hours=4)))
    monkeypatch.setattr(orders, "permitted", lambda *_, on: PERMISSION)
    lie = _result(key=ours.key("part.parquet"))
    with pytest.raises(ObjectMissing):
        orders.run(platform, pipeline, ours, _Backend(site, lie))
    assert not [*site.versions("lake", ours.output.prefix)]


def test_the_evidence_of_a_job_has_what_it_used_and_the_policy_s_decision() -> None:
    body = orders.evidence(order(), _result())
    assert body["decision"] == "d" * 64 and body["rows"] == 3 and body["usage"]["executors"] == 0
    assert body["job_id"] == order().order_id and "parameters" not in body
