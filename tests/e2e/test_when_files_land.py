"""Events and repeated judging on a real Airflow: a file that lands, a watch that dies, a changed rule, a reset.

The pipeline ends at its snapshot. Its file is changed between the tests, which build on each other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from rempart.airflow_api import TERMINAL, AirflowApi
from rempart.flows.events.landing_watch import EVERY_SECONDS
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.sites.port import Site
from tests.e2e.projects import Project

pytestmark = pytest.mark.full

NAME, DAG = "meter_readings", "ingest_meter_readings"
PIPELINE = """
name: meter_readings
description: Readings of electricity meters.
classification: internal
source: {prefix: meter_readings/}
key: [reading]
moments: {read: {column: read_on}}
partition_by: read_on
schema:
  reading: {type: integer, known: read}
  read_on: {type: date, known: read}
  kwh: {type: number, known: read}
expectations:
  - {expect: expect_column_values_to_be_between, column: kwh, min_value: 0, max_value: 100, reason: kwh out of range}
max_quarantined: 0.9
schedules: {on_delivery: true}
"""
DAILY = """
name: daily_kwh
description: Electricity of all meters, by day.
classification: internal
source: {kind: derived, prefix: daily_kwh/, inputs: [meter_readings], sql: include/sql/daily_kwh.sql}
key: [day]
moments: {read: {column: day}}
partition_by: day
schema:
  day: {type: date, known: read}
  kwh: {type: number, known: read}
max_quarantined: 0.5
"""
DAILY_SQL = "SELECT read_on AS day, sum(kwh) AS kwh FROM meter_readings GROUP BY ALL"
PATIENCE = 300.0
"""Seconds until what must happen within seconds is a fault; a busy machine takes its time."""


class World:
    """The pipeline on the project's stack, as its user sees it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.api: AirflowApi = project.api()
        self.platform: Platform = project.platform()

    @property
    def site(self) -> Site:
        return self.platform.active_site("internal")

    def land(self, name: str, *rows: str) -> None:
        body = "\n".join(["reading,read_on,kwh", *rows, ""])
        self.site.write(self.platform.config.buckets.landing, f"{NAME}/{name}", body.encode())

    def waiting(self) -> list[str]:
        return [info.key for info in self.site.list(self.platform.config.buckets.landing, f"{NAME}/")]

    def runs(self, prefix: str) -> list[dict[str, Any]]:
        """The runs whose ids begin so, oldest first."""
        found = self.api.every(f"/api/v2/dags/{DAG}/dagRuns", "dag_runs", order_by="run_after")
        return [run for run in found if run["dag_run_id"].startswith(prefix)]

    def ended(self, prefix: str, count: int) -> list[dict[str, Any]]:
        """Wait until so many runs have ended, and nothing waits in the landing bucket."""
        until(lambda: len(self.over(prefix)) >= count and not self.waiting(), f"{count} runs {prefix}")
        found = self.runs(prefix)
        assert [run["state"] for run in found] == ["success"] * count, found
        return found

    def over(self, prefix: str) -> list[dict[str, Any]]:
        return [run for run in self.runs(prefix) if run["state"] in TERMINAL]

    def change(self, maximum: int) -> None:
        """Change the rule of the pipeline file."""
        self.write(PIPELINE.replace("max_value: 100", f"max_value: {maximum}"))

    def write(self, text: str) -> None:
        (self.project.root / f"include/pipelines/{yaml.safe_load(text)['name']}.yaml").write_text(text)

    def rows(self) -> list[int]:
        """The keys of the rows of the current snapshot."""
        found = snapshots.current(self.site, self.platform.config.buckets.lake, NAME)
        assert found is not None
        table = snapshots.load_table(self.site, self.platform.config.buckets.lake, found)
        return sorted(table.column("reading").to_pylist())

    def snapshot(self) -> str:
        found = snapshots.current(self.site, self.platform.config.buckets.lake, NAME)
        assert found is not None
        return found.id

    def deliveries(self) -> int:
        """How many deliveries the ledger knows, each time that one was judged."""
        records = self.platform.ledger.find("deliveries", NAME, limit=1000)
        return sum(len(record.body["deliveries"]) for record in records)

    def watch(self, after: int = 0) -> int:
        """The process of the landing watch that the supervisor started, another one than before."""
        group = self.project.var / "stack" / "groups" / "landing-watch"
        until(lambda: int(group.read_text(encoding="utf-8").split()[0]) != after, "the supervisor starts the watch")
        return int(group.read_text(encoding="utf-8").split()[0])

    def looks(self, count: int = 3) -> None:
        """Let the watch look some more times. What must not happen is then looked for."""
        time.sleep(count * EVERY_SECONDS)


def until(check: Callable[[], object], what: str) -> None:
    """Wait until something holds. It fails after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(1)


@pytest.fixture(scope="module")
def world(project: Project) -> Iterator[World]:
    """The pipeline is added to the running platform; `rempart up` then starts the watch."""
    found = World(project)
    found.write(PIPELINE)
    project.typed(f"pipeline check {NAME}")
    project.typed("up")
    found.api.await_dag(DAG)
    yield found


def test_a_file_that_lands_starts_one_run_and_no_other(world: World) -> None:
    world.land("first.csv", "1,2026-03-01,50", "2,2026-03-01,150", "3,2026-03-02,-5")
    world.ended("landed__", 1)
    assert world.rows() == [1]
    world.looks()
    assert len(world.runs("")) == 1 and world.deliveries() == 1


def test_two_files_under_a_watch_that_is_killed_start_one_run_also_beside_a_second_watch(world: World) -> None:
    killed = world.watch()
    os.kill(killed, signal.SIGSTOP)
    world.land("second.csv", "4,2026-03-02,40")
    world.land("third.csv", "5,2026-03-03,110", "6,2026-03-03,60")
    os.kill(killed, signal.SIGKILL)
    command = ["rempart", "run", "landing-watch"]
    with subprocess.Popen(command, cwd=world.project.root, env=world.project.environment) as second:
        try:
            world.ended("landed__", 2)
            again = world.watch(after=killed)
            os.kill(again, signal.SIGKILL)
            world.watch(after=again)
            world.looks()
        finally:
            second.terminate()
            second.wait(60)
    assert len(world.runs("")) == 2 and world.deliveries() == 3
    assert world.rows() == [1, 4, 6]


def test_a_period_is_judged_again_by_the_rule_of_today_and_the_same_command_starts_nothing(world: World) -> None:
    world.change(120)
    today = datetime.now(UTC).date()
    before = today - timedelta(days=1)  # on which the files landed, if midnight has passed since
    command = f"pipeline backfill {NAME} --from {before} --to {today}"
    planned = world.project.typed(command)
    assert "judged again by today's pipeline file: 2 deliveries with 3 rows in quarantine" in planned
    assert "Nothing was changed" in planned and not world.runs("period__")
    world.project.typed(f"{command} --yes")
    world.ended("period__", 2)
    assert world.rows() == [1, 4, 5, 6]
    told = world.project.typed(f"{command} --yes")
    assert "1 delivery with 2 rows in quarantine" in told
    assert len(world.ended("period__", 2)) == 2, "the run of the delivery with rows in quarantine is the known one"


def test_rows_move_when_a_rule_changed_and_all_deliveries_are_judged_again(world: World) -> None:
    world.change(55)
    planned = world.project.typed(f"pipeline rejudge {NAME}")
    assert "Nothing was changed" in planned
    told = world.project.typed(f"pipeline rejudge {NAME} --yes")
    assert "6 rows: 2 accepted, 4 refused in this run" in told
    assert world.rows() == [1, 4]
    world.change(120)
    assert "6 rows: 4 accepted, 2 refused in this run" in world.project.typed(f"pipeline rejudge {NAME} --yes")
    assert world.rows() == [1, 4, 5, 6]


def test_a_reset_lets_the_watch_take_the_deliveries_in_again_to_the_same_snapshot(world: World) -> None:
    before, landed = world.snapshot(), len(world.runs("landed__"))
    told = world.project.typed(f"pipeline reset {NAME} --yes")
    assert "3 deliveries wait in the landing bucket" in told
    world.ended("landed__", landed + 1)
    assert world.snapshot() == before and world.rows() == [1, 4, 5, 6]


def test_a_derived_pipeline_that_missed_its_input_says_so_and_a_run_brings_it_up_to_date(world: World) -> None:
    (world.project.root / "include/sql").mkdir(exist_ok=True)
    (world.project.root / "include/sql/daily_kwh.sql").write_text(DAILY_SQL)
    world.write(DAILY)
    world.api.await_dag("ingest_daily_kwh")
    told = world.project.typed("pipeline show daily_kwh")
    assert "rempart pipeline run daily_kwh --follow" in told, "its input published before it was there"
    world.project.typed("pipeline run daily_kwh --follow")
    assert "Nothing to do" in world.project.typed("pipeline show daily_kwh")
    world.api._call("PATCH", "/api/v2/dags/ingest_daily_kwh?update_mask=is_paused", json={"is_paused": True})
    landed = len(world.runs("landed__"))
    world.land("fourth.csv", "7,2026-03-04,70")
    world.ended("landed__", landed + 1)
    told = world.project.typed("pipeline show daily_kwh")
    assert "meter_readings has a newer snapshot" in told and "rempart pipeline run daily_kwh" in told
    world.api._call("PATCH", "/api/v2/dags/ingest_daily_kwh?update_mask=is_paused", json={"is_paused": False})
    world.project.typed("pipeline run daily_kwh --follow")
    assert "Nothing to do" in world.project.typed("pipeline show daily_kwh")


def test_a_removed_pipeline_has_no_dag_and_the_ledger_says_so(world: World) -> None:
    for name in ("daily_kwh", NAME):
        world.project.typed(f"pipeline remove {name} --yes")
        (ended, *_) = world.platform.ledger.find("removal", name, limit=1)
        assert ended.body["what"] == "remove" and ended.body["state"] == "ended"
    until(lambda: not {DAG, "ingest_daily_kwh"} & set(world.api.dag_ids()), "the DAGs of removed pipelines go")
    world.project.typed("up")
    assert world.api.import_errors() == []
    assert not world.platform.ledger.forged(limit=1)
