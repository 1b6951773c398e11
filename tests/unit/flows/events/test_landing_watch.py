"""The watch of the landing bucket: each set of files starts one run, and no file is forgotten."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.airflow_api import AirflowApiError
from rempart.deployment.compose import health_check
from rempart.errors import PipelineError
from rempart.flows.events import landing_watch
from rempart.flows.events.landing_watch import LandingWatch, Seen, decide
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline
from tests.erasable import secrets_in_memory
from tests.switchovers import in_memory

NAME, DAG = "hotel_bookings", "ingest_hotel_bookings"


class Airflow:
    """Runs by id; `end` ends every run, and takes the files of a run that succeeds."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.paused, self.silent = False, False
        self.tags: list[str] = []
        self.unread: set[str] = set()
        self.ended = datetime(2099, 1, 1, tzinfo=UTC)

    def get(self, path: str) -> dict[str, Any]:
        if self.silent:
            raise AirflowApiError("no answer", "Wait.")
        run = path.rsplit("/", 1)[-1]
        if run in self.unread:
            missing = AirflowApiError("HTTP 404", "Look at it.")
            missing.status = 404
            raise missing
        if "/dagRuns/" not in path:
            return {"is_paused": self.paused, "tags": [{"name": name} for name in self.tags]}
        return {"dag_run_id": run, "state": self.states[run], "end_date": self.ended.isoformat()}

    def unfinished_runs(self, dag_id: str) -> list[str]:
        return [run for run, state in self.states.items() if state in ("queued", "running")]

    def trigger_once(self, dag_id: str, run_id: str, conf: Mapping[str, Any] | None = None) -> bool:
        assert dag_id == DAG and not conf
        return self.states.setdefault(run_id, "queued") == "queued" and self.fresh(run_id)

    def fresh(self, run_id: str) -> bool:
        """Whether this call made the run."""
        known = getattr(self, "_known", set())
        self._known = {*known, run_id}
        return run_id not in known

    def end(self, state: str) -> None:
        self.states = {run: state if known in ("queued", "running") else known for run, known in self.states.items()}


class House:
    """A landing bucket in memory, Airflow, and watchers."""

    def __init__(self) -> None:
        self.now = datetime(2099, 1, 1, 12, tzinfo=UTC)
        self.platform = replace(in_memory(clock=lambda: self.now), connections=secrets_in_memory)
        self.site = self.platform.site("primary", "personal")
        self.inbox = self.platform.config.buckets.landing
        self.airflow, self.seconds = Airflow(), 0.0
        found = pipelines.named(NAME)
        watched = found.model_copy(update={"schedules": found.schedules.model_copy(update={"on_delivery": True})})
        self.pipelines: dict[str, ModelPipeline | PipelineError] = {
            NAME: watched,
            "wrong": PipelineError("no", "Mend it."),
        }
        self.watch = self.watcher()

    def watcher(self) -> LandingWatch:
        return LandingWatch(
            self.platform, self.airflow, threading.Event(), lambda: self.seconds, lambda: self.pipelines
        )

    def land(self, name: str, body: bytes = b"x") -> None:
        self.site.write(self.inbox, f"{NAME}/{name}", body)

    def take(self) -> None:
        for info in list(self.site.list(self.inbox, f"{NAME}/")):
            self.site.delete(self.inbox, info.key)

    def looks(self, count: int = 2, watch: LandingWatch | None = None) -> list[str]:
        for _ in range(count):
            (watch or self.watch).look()
            self.seconds += landing_watch.EVERY_SECONDS
        return list(self.airflow.states)


@pytest.fixture
def house() -> House:
    return House()


def test_many_files_at_once_start_one_run_within_ten_seconds(house: House) -> None:
    assert house.looks(3) == []
    for number in range(20):
        house.land(f"{number}.csv")
    assert len(house.looks(2)) == 1 and house.seconds <= 25
    assert len(house.looks(10)) == 1


def test_a_run_waits_for_files_that_still_come_but_not_for_ever(house: House) -> None:
    for number in range(20):
        house.land(f"{number}.csv")
        house.looks(1)
        if house.airflow.states:
            break
    assert number * landing_watch.EVERY_SECONDS == landing_watch.LONGEST_SECONDS


def test_other_watchers_and_a_restart_start_no_other_run(house: House) -> None:
    house.land("a.csv")
    house.looks()
    assert len(house.looks(3, house.watcher())) == 1
    house.airflow.end("success")  # the files still wait: a site may show them for a while
    assert len(house.looks(3, house.watcher())) == 1


def test_a_file_that_landed_while_no_watcher_ran_or_a_run_was_on_is_taken(house: House) -> None:
    house.land("a.csv")
    house.looks()
    house.land("b.csv")
    assert len(house.looks(5)) == 1  # the first run may still take it
    house.airflow.end("success")
    assert len(house.looks(2)) == 2
    house.take()
    house.airflow.end("success")
    house.looks(2)
    house.land("a.csv")  # the same bytes under the same name, later: still a file that waits
    assert len(house.looks(2, house.watcher())) == 3


def test_files_of_a_failed_run_get_another_one_after_an_hour(house: House) -> None:
    house.land("a.csv")
    house.looks()
    house.airflow.end("failed")
    house.airflow.ended = house.now - timedelta(minutes=59)
    assert len(house.looks(5)) == 1
    house.now += timedelta(minutes=2)
    assert len(house.looks(1)) == 2


def test_a_pipeline_at_fault_is_not_started_and_its_files_wait(house: House) -> None:
    house.airflow.tags = ["broken"]
    house.land("a.csv")
    assert house.looks(5) == []
    house.airflow.tags = []
    assert len(house.looks(1)) == 1


def test_a_paused_dag_and_a_silent_airflow_are_told_once_and_nothing_is_lost(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.airflow.paused = True
    house.land("a.csv")
    assert house.looks(5) == []
    house.airflow.silent = True
    assert house.looks(5) == []
    house.airflow.silent = house.airflow.paused = False
    assert len(house.looks(1)) == 1
    assert [record.levelname for record in caplog.records].count("WARNING") == 2


def test_a_run_waits_until_airflow_has_read_what_its_snapshot_starts(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.airflow.unread = {f"train_{NAME}"}
    house.land("a.csv")
    assert house.looks(5) == []
    assert caplog.text.count(f"Airflow has not read train_{NAME} yet") == 1
    house.airflow.unread = set()
    assert len(house.looks(1)) == 1


def test_each_look_touches_the_file_that_a_health_check_reads(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    stop, beat = house.watch.stop, tmp_path / landing_watch.BEAT
    assert health_check.main("landing-watch") == 1, "it has not looked yet"

    def pipelines_of_the_last_look() -> Mapping[str, ModelPipeline | PipelineError]:
        stop.set()
        return {}

    LandingWatch(house.platform, house.airflow, stop, pipelines=pipelines_of_the_last_look, beat=beat).run()
    assert health_check.main("landing-watch") == 0
    os.utime(beat, (0, 0))
    assert health_check.main("landing-watch") == 1


def test_a_reset_in_progress_starts_nothing(house: House) -> None:
    ledger = house.platform.ledger
    ledger.append("removal", NAME, {"id": "1", "what": "reset", "state": "began"})
    house.land("a.csv")
    assert house.looks(4) == []
    ledger.append("removal", NAME, {"id": "1", "what": "reset", "state": "ended"})
    assert len(house.looks(1)) == 1


@given(st.lists(st.sampled_from(["", "a", "b"]), max_size=30))
def test_no_set_of_files_is_due_before_it_was_seen_twice_or_after_it_was_started(shown: list[str]) -> None:
    seen, last = Seen(), ""
    for number, files in enumerate(shown):
        seen, due = decide(seen, files, number * landing_watch.EVERY_SECONDS)
        assert not due or files in (last, seen.files)
        assert not due or files != seen.started
        if due:
            seen = replace(seen, started=files)
        last = files


def test_only_files_that_land_can_be_watched() -> None:
    found = pipelines.named(NAME).model_dump(by_alias=True, exclude_unset=True)
    found["schedules"] = {"on_delivery": True}
    assert ModelPipeline.model_validate(found).schedules.on_delivery
    found["source"] = {"prefix": "x/", "kind": "http", "url": "https://api.example.org/x", "format": "csv"}
    with pytest.raises(ValueError, match="on_delivery"):
        ModelPipeline.model_validate(found)
