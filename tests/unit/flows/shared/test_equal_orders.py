"""Two runs with equal orders share the place of one job: neither takes away what the other reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.errors import LeaseHeld
from rempart.flows.distributed import joined, orders
from rempart.flows.ingestion import ingest as ingestion
from rempart.flows.shared import leases
from rempart.flows.training import train
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.spark.order import MadeObject, OutputPlace, SparkOrder, SparkResult
from tests.memory_site import MemorySite
from tests.unit.spark.orders import PERMISSION, order

NOW = datetime(2026, 11, 30, tzinfo=UTC)
ORDER = order(
    do="training_set", output=OutputPlace(bucket="lake", prefix=orders.prefix_of("stays_test", "training_set"))
)
PIPELINE: Any = SimpleNamespace(
    name="stays_test",
    classification="personal",
    engine="spark",
    spark=SimpleNamespace(timeout=timedelta(hours=4)),
    trainer=SimpleNamespace(timeout=timedelta(hours=1)),
)


@pytest.fixture
def platform() -> Any:
    site = MemorySite("primary")
    for bucket in ("lake", "artifacts"):
        site.ensure_bucket(bucket, versioned=True)
    return SimpleNamespace(
        site=lambda *_: site,
        active_site=lambda *_: site,
        config=SimpleNamespace(spark=SimpleNamespace(backend="local")),
        clock=lambda: NOW,
        ledger=MemoryLedger(),
        writer=None,
        continuity=MemoryContinuity(),
        connections=None,
    )


class TwoAtOnce:
    """Lets a first run stop after its job, until a second run has ended, or has found out that it must wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._has_job, self._second_is_on, self._first_ended = Event(), Event(), Event()
        monkeypatch.setattr(leases.time, "sleep", self._wait)

    def _wait(self, _: float) -> None:
        self._second_is_on.set()
        assert self._first_ended.wait(60)

    def job_done(self) -> None:
        if not self._has_job.is_set():
            self._has_job.set()
            assert self._second_is_on.wait(60)

    def run(self, flow: Callable[[], Any]) -> list[Any]:
        def first() -> Any:
            try:
                return flow()
            finally:
                self._first_ended.set()

        def second() -> Any:
            assert self._has_job.wait(60)
            try:
                return flow()
            finally:
                self._second_is_on.set()

        with ThreadPoolExecutor(2) as pool:
            return [running.result() for running in (pool.submit(first), pool.submit(second))]


class SparkJobs:
    """Does a job as the backends do: one whose result is there is adopted."""

    def __init__(self, site: MemorySite, done: Callable[[], None]) -> None:
        self.site, self.done, self.ran = site, done, 0

    def run(self, ordered: SparkOrder) -> SparkResult:
        held = io.BytesIO()
        pq.write_table(pa.table({"x": [1, 2, 3]}), held)
        body, key = held.getvalue(), ordered.key("rows.parquet")
        sha256 = hashlib.sha256(body).hexdigest()
        made = MadeObject(role="rows", key=key, sha256=sha256, bytes=len(body), rows=3)
        result = SparkResult(
            order_id=ordered.order_id, status="succeeded", made=(made,), facts={"examples": 3}, decision="d" * 64
        )
        if not [*self.site.list("lake", ordered.key("result.json"))]:
            self.ran += 1
            self.site.write("lake", key, body)
            self.site.write("lake", ordered.key("result.json"), result.to_json())
        self.done()
        return result


def test_a_training_and_a_search_of_one_snapshot_at_once_both_get_their_rows(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = TwoAtOnce(monkeypatch)
    jobs = SparkJobs(platform.site(), both.job_done)
    monkeypatch.setattr(joined, "order", lambda *_: ORDER)
    monkeypatch.setattr(joined, "read", lambda *told: told[4].facts["examples"])
    monkeypatch.setattr(orders, "permitted", lambda *_, on: PERMISSION)
    nothing: Any = None
    got = both.run(lambda: joined.point_in_time(platform, nothing, PIPELINE, nothing, jobs))
    assert got == [3, 3]
    assert jobs.ran == 2  # the first deleted its objects: no row stays behind
    assert not [*platform.site().versions("lake")]


def test_a_run_that_lost_its_lease_leaves_the_objects_to_the_run_that_has_it(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose() -> None:
        platform.continuity._held.clear()  # it was paused beyond its time, and another run began
        platform.continuity.take(leases.job_lease(ORDER.order_id), "another run", 60)

    jobs = SparkJobs(platform.site(), lose)
    monkeypatch.setattr(joined, "order", lambda *_: ORDER)
    monkeypatch.setattr(joined, "read", lambda *told: told[4].facts["examples"])
    monkeypatch.setattr(orders, "permitted", lambda *_, on: PERMISSION)
    nothing: Any = None
    assert joined.point_in_time(platform, nothing, PIPELINE, nothing, jobs) == 3
    assert {info.key for info in platform.site().list("lake")} == {
        ORDER.key("rows.parquet"),
        ORDER.key("result.json"),
    }


class Jobs:
    """Trains as a job does: its figures hold how long it took, so two attempts never store the same bytes."""

    def __init__(self, site: MemorySite, done: Callable[[], None]) -> None:
        self.site, self.done, self.ran = site, done, 0

    def run(self, spec: Any) -> str:
        stored = [*self.site.list("artifacts", f"jobs/{spec.job_id}/result.json")]
        if not stored:
            self.ran += 1
            body = f"metrics of attempt {self.ran}".encode()
            digest = hashlib.sha256(body).hexdigest()
            self.site.write("artifacts", f"jobs/{spec.job_id}/metrics.json", body)
            self.done()  # before it can store its result
            self.site.write("artifacts", f"jobs/{spec.job_id}/result.json", digest.encode())
        return self.site.read("artifacts", f"jobs/{spec.job_id}/result.json").decode()


def test_two_trainings_of_one_order_at_once_train_once_and_register_what_is_at_the_site(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = TwoAtOnce(monkeypatch)
    jobs: Any = Jobs(platform.site(), both.job_done)
    spec: Any = SimpleNamespace(job_id="0123456789abcdef")

    def register(*told: Any, verdict: int | None) -> bytes:
        return bytes(platform.site().read("artifacts", f"jobs/{spec.job_id}/metrics.json", sha256=told[3]))

    monkeypatch.setattr(train, "register", register)
    monkeypatch.setattr(train.permission, "permit", lambda _, spec, on: spec)
    monkeypatch.setattr(train, "order", lambda *_, **__: spec)
    nothing: Any = None
    got = both.run(lambda: train.train_on(platform, PIPELINE, nothing, "s1", backend=jobs))
    assert got == [b"metrics of attempt 1"] * 2 and jobs.ran == 1


def test_two_ingestions_on_spark_follow_each_other_and_one_that_waits_too_long_says_for_whom(
    platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "PATIENCE", 0.0)
    monkeypatch.setattr(ingestion.ingest_run, "begin", lambda *_: ingestion.ingest(platform, PIPELINE))
    with pytest.raises(LeaseHeld, match=r"take lease 'ingest stays_test': .*, process \d+ has it"):
        ingestion.ingest(platform, PIPELINE)


def test_an_equal_order_waits_as_long_as_the_first_may_run_and_says_at_once_who_runs_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    continuity, now = MemoryContinuity(), [0.0]
    first = continuity.take(leases.job_lease("j"), "worker-7, process 12", 60)

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= 3000 and first in continuity._held.values():
            continuity.release(first)

    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    with caplog.at_level("INFO"), leases.alone(continuity, "j", timedelta(hours=1)):
        assert now[0] == 3000
    assert "worker-7, process 12 has it; its log has the progress" in caplog.messages[0]
    assert len(caplog.messages) == 50, "one line a minute"
    continuity.take(leases.job_lease("long"), "worker-8", 60)
    with pytest.raises(LeaseHeld, match="worker-8"), leases.alone(continuity, "long", timedelta(hours=1)):
        pass
    assert now[0] == 3000 + 3600 + leases.PATIENCE
