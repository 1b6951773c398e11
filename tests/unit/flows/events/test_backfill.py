"""A back-fill: which deliveries of a period are judged again, and that no run is started twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.airflow_api import AirflowApiError
from rempart.errors import PipelineError
from rempart.flows.events import backfill
from rempart.ledger.port import Evidence
from tests.erasable import ROWS
from tests.unit.flows.erasure.booked import new_lake

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def outcome(number: int, landed: datetime, quarantined: int = 1, **more: Any) -> dict[str, Any]:
    counts = {"delivered": 10, "accepted": 10 - quarantined, "quarantined": quarantined, "fault": None}
    reasons = {"too dear": quarantined} if quarantined else {}
    return {"sha256": f"{number:02x}" * 32, "landed_at": landed.isoformat(), "reasons": reasons, **counts, **more}


@given(st.lists(st.integers(-100, 100), max_size=20), st.integers(-2, 2), st.integers(0, 3))
def test_a_period_has_whole_days_in_utc_and_both_ends(hours: list[int], first: int, days: int) -> None:
    found = [outcome(number, NOON + timedelta(hours=hour), hour % 2) for number, hour in enumerate(hours)]
    begin = date(2026, 3, 10) + timedelta(days=first)
    planned = backfill.plan("p", found, begin, begin + timedelta(days=days), "text", lambda sha256: True)
    inside = [o for o in found if begin <= datetime.fromisoformat(o["landed_at"]).date() <= begin + timedelta(days)]
    assert {landed.sha256 for landed in planned.again} == {o["sha256"] for o in inside if o["quarantined"]}
    assert planned.whole == sum(not o["quarantined"] for o in inside)
    assert [landed.landed_at for landed in planned.again] == sorted(landed.landed_at for landed in planned.again)


def test_an_unreadable_file_is_judged_again_and_one_that_is_gone_is_named() -> None:
    unread = outcome(1, NOON, 0, fault="it is no CSV", delivered=0, accepted=0)
    gone = outcome(2, NOON, 3)
    planned = backfill.plan(
        "p", [unread, gone], NOON.date(), NOON.date(), "text", lambda sha256: sha256 != gone["sha256"]
    )
    assert [landed.sha256 for landed in planned.again] == [unread["sha256"]]
    told = "\n".join(planned.lines())
    assert "refused as a whole" in told and "deliver its 3 rows again" in told


def test_another_pipeline_file_or_period_or_a_reset_makes_other_runs() -> None:
    def key(text: str, last: int, removed: int = 0) -> str:
        return backfill.plan("p", [], NOON.date(), date(2026, 3, last), text, lambda sha256: True, removed).key

    assert key("a", 11) == key("a", 11) and len({key("a", 11), key("b", 11), key("a", 12), key("a", 11, 5)}) == 4


def test_outcomes_before_a_reset_do_not_count_and_the_newest_stands() -> None:
    def record(seq: int, quarantined: int) -> Evidence:
        return Evidence(seq, NOON, "deliveries", "p", {"deliveries": [outcome(1, NOON, quarantined)]})

    assert backfill.newest_of([record(9, 0), record(5, 2)], 0)["01" * 32]["quarantined"] == 0
    assert backfill.newest_of([record(9, 0), record(5, 2)], 9) == {}


class Airflow:
    """Runs by id, with the state in which each ends."""

    url = "http://airflow"

    def __init__(self, ends: str = "success") -> None:
        self.ends, self.runs, self.confs = ends, dict[str, str](), list[Mapping[str, Any]]()

    def await_dag(self, dag_id: str) -> None:
        assert dag_id == "ingest_p"

    def trigger_once(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        assert not run_id.startswith(("manual__", "scheduled__", "backfill__", "asset_triggered__")), "Airflow's own"
        if run_id in self.runs:
            return False
        self.runs[run_id] = "queued"
        self.confs.append(conf)
        return True

    def follow(self, dag_id: str, run_id: str, tell: object) -> float:
        if self.runs[run_id] == "queued":
            self.runs[run_id] = self.ends
        if self.runs[run_id] == "failed":
            raise AirflowApiError("failed", "Read the log.")
        return 0

    def get(self, path: str) -> dict[str, Any]:
        return {"state": self.runs[path.rsplit("/", 1)[-1]]}

    def result(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        return {"accepted": 1, "repeated": 0, "quarantined": 0}


def test_the_same_command_starts_no_run_twice_and_repeats_failed_ones() -> None:
    found = [outcome(number, NOON) for number in range(3)]
    planned = backfill.plan("p", found, NOON.date(), NOON.date(), "text", lambda sha256: True)
    airflow: Any = Airflow()
    told: list[str] = []
    assert backfill.run(airflow, planned, told.append) == [] and len(told) == 3
    assert [conf["again"] for conf in airflow.confs] == [o["sha256"] for o in found]
    assert backfill.run(airflow, planned, told.append) == [] and len(airflow.runs) == 3
    failing: Any = Airflow("failed")
    assert len(backfill.run(failing, planned, told.append)) == 3
    failing.ends = "success"
    assert backfill.run(failing, planned, told.append) == [] and len(failing.runs) == 6


def test_a_file_that_is_put_back_is_judged_by_a_run_of_its_own_once_another_has_changed_the_delivery() -> None:
    airflow: Any = Airflow()
    for again, file in enumerate(("first", "second", "first")):
        found = [outcome(1, NOON) | {"again": again}]
        planned = backfill.plan("p", found, NOON.date(), NOON.date(), file, lambda sha256: True)
        assert backfill.run(airflow, planned, lambda line: None) == [] and len(airflow.runs) == again + 1


def test_a_plan_of_a_lake_changes_nothing_and_a_period_that_ends_before_it_begins_is_refused() -> None:
    lake = new_lake()
    today = datetime.now(UTC).date()  # the site in memory has the real clock
    planned = backfill.look(lake.platform, lake.pipeline, today - timedelta(days=1), today + timedelta(days=1))
    assert [landed.quarantined for landed in planned.again] == [1] and planned.whole == 1
    assert not lake.platform.ledger.find("removal") and len(ROWS) > 1
    with pytest.raises(PipelineError, match="ends before it begins"):
        backfill.look(lake.platform, lake.pipeline, today, today - timedelta(days=1))
