"""The bench of a delivery's way times each stage from the end of the stage before, and new weeks are new bookings."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench import orchestration_overhead as bench

BEGAN = datetime(2026, 11, 27, 10, tzinfo=UTC)
TASKS: dict[str, list[tuple[str, int, int]]] = {
    "ingest_hotel_bookings": [("ingest", 1, 4), ("publish_snapshot", 5, 6), ("check_quarantine", 5, 7)],
    "materialize_features_hotel_bookings": [("materialize", 8, 10)],
    "train_hotel_bookings": [("train", 12, 20)],
    "validate_model_hotel_bookings": [("validate", 21, 24), ("publish_champion", None, 24)],
}
"""Tasks of each DAG with their first and last second; the last was skipped."""


def at(second: float | None) -> str | None:
    return None if second is None else (BEGAN + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


class Airflow:
    """Airflow's REST API after a delivery has gone its way."""

    def trigger(self, dag_id: str) -> str:
        return f"run_of_{dag_id}"

    def await_run(self, dag_id: str, since: datetime) -> str:
        assert since == BEGAN
        return f"run_of_{dag_id}"

    def follow(self, dag_id: str, run_id: str, tell: Callable[[str], object]) -> None:
        assert run_id == f"run_of_{dag_id}"

    def every(self, path: str, entries: str) -> list[dict[str, Any]]:
        tasks = TASKS[path.split("/")[4]]
        return [{"task_id": name, "start_date": at(start), "end_date": at(end)} for name, start, end in tasks]

    def get(self, path: str) -> dict[str, Any]:
        return {"end_date": at(max(end for _, _, end in TASKS[path.split("/")[4]]))}


def test_each_stage_counts_from_the_end_of_the_stage_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", BEGAN.timestamp)
    seconds, tasks = bench.through_airflow(Airflow())  # type: ignore[arg-type] # as much of it as the bench calls
    assert seconds == {"ingest": 7, "materialize": 3, "train": 10, "validate": 4, "chain": 24}
    assert tasks["ingest.ingest"] == {"waited": 1, "ran": 3}
    assert tasks["ingest.publish_snapshot"] == {"waited": 1, "ran": 1}
    assert tasks["train.train"] == {"waited": 2, "ran": 8}
    assert "validate.publish_champion" not in tasks


class Landing:
    """A site that remembers what was written to it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, bucket: str, key: str, body: bytes, *, content_type: str) -> None:
        self.files[key] = body


def test_a_new_week_has_the_bookings_of_the_sample_under_ids_of_its_own() -> None:
    supplier = bench.Supplier.__new__(bench.Supplier)
    landing: Any = Landing()
    supplier.site, supplier.bucket, supplier.prefix = landing, "landing", "hotel_bookings/"
    supplier.sample = [("a.csv", b""), ("b.csv", b"booking_id,meal\n7,bb\n8,hb\n")]
    supplier.next = bench.count(1000)
    supplier.deliver_new_week()
    supplier.deliver_new_week()
    weeks = [list(csv.DictReader(body.decode().splitlines())) for body in landing.files.values()]
    assert len(landing.files) == 2 and all(key.startswith("hotel_bookings/bench_") for key in landing.files)
    assert [[row["meal"] for row in week] for week in weeks] == [["bb", "hb"], ["bb", "hb"]]
    assert len({row["booking_id"] for week in weeks for row in week}) == 4
