"""Outputs of the replication DAG: gauges as a collector gets them, a late run, a skipped run."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart.errors import FailoverError, LeaseHeld, SiteError
from rempart.flows.replication.replicate import ReplicationResult
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).resolve().parents[3]
RESULT = ReplicationResult(
    9, 90, 2, 20, 7, 0, 0, 0, ("lake/a",), 1, 3, 30, 61.5, 1.0, 2.0, 4.0, 2.0, 10.0, "read back", 7, 0, None, 0
)
# as a task's process does: Airflow's own wiring of its metrics, chosen by its configuration
SEND = """
import json, sys
from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
legacy = conf.getboolean("metrics", "legacy_names_on")
stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=legacy)
from rempart.flows.replication.replicate import ReplicationResult
from rempart.orchestration.replication import send_gauges
send_gauges("primary", "haven", ReplicationResult(**json.loads(sys.argv[1])))
"""


def send(home: Path, **settings: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "OTEL"))}
    env |= {"AIRFLOW_HOME": str(home), "REMPART_HOME": str(ROOT), "REMPART_VAR": str(home), **settings}
    command = [sys.executable, "-c", SEND, json.dumps(vars(RESULT))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP receiver: its address, and the bodies that came."""
    came: list[bytes] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        server.server_close()


def test_a_collector_gets_every_gauge_with_the_pair_as_tags(tmp_path: Path) -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    with collector() as (address, came):
        send(tmp_path, AIRFLOW__METRICS__OTEL_ON="True", OTEL_EXPORTER_OTLP_ENDPOINT=address)
    seen = {}
    for body in came:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.gauge.data_points:
                    tags = {attribute.key: attribute.value.string_value for attribute in point.attributes}
                    assert tags == {"source": "primary", "target": "haven"}
                    seen[metric.name.removeprefix("airflow.rempart.replication.")] = point.as_double or point.as_int
    assert seen.pop("measured_at") > 1.7e9
    assert seen == {
        "lag_seconds": 61.5,
        "lag_p50": 1.0,
        "lag_p95": 2.0,
        "lag_max": 4.0,
        "pending": 3,
        "pending_bytes": 30,
        "failures": 1,
        "throughput": 10.0,
    }


def test_nothing_is_sent_unless_airflow_is_told_to(tmp_path: Path) -> None:
    with collector() as (address, came):
        send(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=address)
    assert came == []


@pytest.mark.parametrize("count", [0, 1, 256, 2000])
def test_every_piece_has_one_task_and_there_are_no_more_than_airflow_maps(count: int) -> None:
    from rempart.orchestration.replication import TASKS, shares

    pieces = [{"bucket": "lake", "piece": str(n)} for n in range(count)]
    made = shares(pieces)
    assert len(made) == min(count, TASKS) <= 1024
    assert sorted(int(piece["piece"]) for share in made for piece in share) == list(range(count))
    assert all(made)


@pytest.mark.parametrize(
    "error", [LeaseHeld("another does it", "wait"), FailoverError("not the active site", "fail back")]
)
def test_a_run_out_of_turn_is_skipped_with_the_reason(error: Exception) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from rempart.orchestration.replication import skipped_without_lease

    with pytest.raises(AirflowSkipException) as skipped, skipped_without_lease():
        raise error
    assert str(skipped.value) == str(error)


def test_every_other_error_stays_what_it_is() -> None:
    from rempart.orchestration.replication import skipped_without_lease

    with pytest.raises(SiteError, match="no answer"), skipped_without_lease():
        raise SiteError("no answer", "ask")


def context(end: str | None) -> dict:
    """What Airflow 3.3.2 hands to the callback of a deadline."""
    run = {"dag_run_id": "scheduled__1", "queued_at": "2026-01-05T10:00:00Z", "end_date": end}
    return {"dag_run": run, "deadline": {"id": "1", "deadline_time": "2026-01-05T10:15:00Z"}}


def test_a_late_run_is_an_error_line_without_any_secret_and_one_that_has_ended_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rempart.orchestration import replication, runtime

    monkeypatch.setattr(runtime, "platform", lambda: pytest.fail("the triggerer has no signing key"))
    with caplog.at_level(logging.ERROR):
        asyncio.run(replication.tell_late("primary", "haven", context(end="2026-01-05T10:05:00Z")))
        assert not caplog.records
        asyncio.run(replication.tell_late("primary", "haven", context(end=None)))
    assert "run scheduled__1, queued at" in caplog.text


def test_a_run_that_took_too_long_is_evidence_when_it_concludes_and_a_quick_one_is_not() -> None:
    from rempart.flows.replication.replicate import record_late

    began = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
    platform = Platform(config.load(ROOT / "rempart.yaml"), config.environment_connections, ledger_=MemoryLedger())
    for minutes, late in ((15, False), (16, True)):
        ended = began + timedelta(minutes=minutes)
        assert record_late(platform, "primary", "haven", "scheduled__1", began, ended) is late
    (record,) = platform.ledger.find("replication", "late primary->haven")
    assert record.body == {"run": "scheduled__1", "since": "2026-01-05T10:00:00+00:00", "objective_seconds": 900.0}
