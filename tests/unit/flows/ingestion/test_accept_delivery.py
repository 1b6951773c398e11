"""`rempart quarantine accept` and `again`: one run of the pipeline's DAG, in the name of the API's user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import IngestError
from rempart.flows.ingestion import accept_delivery
from rempart.flows.shared import platform as platforms
from rempart.flows.shared.platform import Platform
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.deliveries import HELD_BACK
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config

ROOT = Path(__file__).parents[4]
DELIVERY = "ab" * 32


class Airflow:
    """Airflow's API: what it was asked to start, and what its task returns."""

    def __init__(self) -> None:
        self.started: list[tuple[str, Any]] = []
        self.changed = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        if request.method == "POST":
            self.started.append((path, json.loads(request.content)["conf"]))
        found: dict[str, Any] = {"task_instances": [{"task_id": "ingest", "state": "success"}], "total_entries": 1}
        value = {
            "delivered": 20,
            "accepted": 15,
            "repeated": 0,
            "quarantined": 5,
            "snapshot": "s2",
            "accepted_by": "user 1",
            "changed": self.changed,
        }
        return httpx.Response(200, json={**found, "state": "success", "value": value})


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    made = Airflow()
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **how: client(**how | {"transport": httpx.MockTransport(made)}))
    return made


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", "http://admin:secret@127.0.0.1:1")
    made = Platform(config.load(ROOT / "rempart.yaml"), config.environment_connections, ledger_=MemoryLedger())
    monkeypatch.setattr(platforms, "open_platform", lambda: made)
    return made


def told(platform: Platform, **other: Any) -> None:
    delivery = {"sha256": DELIVERY, "outcome": HELD_BACK, "delivered": 20, "accepted": 0, "quarantined": 20}
    delivery |= {"reasons": {"adults": 5, HELD: 15}, "fault": None, "held": True, **other}
    platform.ledger.append(
        "deliveries", "hotel_bookings", {"site": "primary", "expectations": [], "deliveries": [delivery]}
    )


def rempart(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["quarantine", "accept", "hotel_bookings", *words])
    return done.exit_code, done.output


def test_without_yes_the_plan_is_shown_and_nothing_starts(platform: Platform, airflow: Airflow) -> None:
    told(platform)
    code, printed = rempart(DELIVERY)
    assert code == 0 and not airflow.started
    assert "of 15 good rows of 20, those whose key is new" in printed
    assert "5 rows stay in quarantine" in printed and "5 x adults" in printed
    assert "max_quarantined (5.0%)" in printed and "Nothing was changed" in printed and "--yes" in printed


def test_with_yes_one_run_publishes_the_good_rows(platform: Platform, airflow: Airflow) -> None:
    told(platform)
    code, printed = rempart(DELIVERY, "--yes")
    assert code == 0, printed
    conf = {"again": DELIVERY, "accept_quarantined": True}
    assert airflow.started == [("/api/v2/dags/ingest_hotel_bookings/dagRuns", conf)]
    assert "accepted by user 1: 15 rows" in printed and "snapshot s2, 5 rows stay in quarantine" in printed
    *_, starts, follow = printed.strip().split("\n")
    assert "starts features, training and gate by itself: you need no `rempart pipeline run`" in starts
    assert follow.endswith("rempart pipeline show hotel_bookings")


@pytest.mark.parametrize("other", [{"outcome": "accepted in part"}, {"sha256": "cd" * 32}])
def test_a_delivery_that_is_not_held_back_is_not_accepted(
    platform: Platform, airflow: Airflow, other: dict[str, str]
) -> None:
    told(platform)
    told(platform, **other) if "outcome" in other else platform.ledger.append("snapshot", "hotel_bookings", {})
    wanted = DELIVERY if "outcome" in other else "cd" * 32
    with pytest.raises(IngestError, match=r"is not held back|is not on record") as refused:
        accept_delivery.plan(platform.ledger, "hotel_bookings", wanted)
    assert refused.value.hint
    assert rempart(wanted, "--yes")[0] != 0 and not airflow.started


def test_the_beginning_of_a_sha256_names_a_delivery(platform: Platform, airflow: Airflow) -> None:
    told(platform)
    assert rempart(DELIVERY[:12], "--yes")[0] == 0
    assert airflow.started[0][1]["again"] == DELIVERY
    for wanted in (DELIVERY[:7], "", "cd" * 6):
        with pytest.raises(IngestError, match="is not on record"):
            accept_delivery.on_record(platform.ledger, "hotel_bookings", wanted)
    told(platform, sha256="ab" * 6 + "cd" * 26)
    with pytest.raises(IngestError, match="2 deliveries of 'hotel_bookings' begin with abababab"):
        accept_delivery.on_record(platform.ledger, "hotel_bookings", DELIVERY[:12])
    assert accept_delivery.on_record(platform.ledger, "hotel_bookings", DELIVERY)["sha256"] == DELIVERY


def test_a_delivery_is_ingested_again_by_the_file_of_today(platform: Platform, airflow: Airflow) -> None:
    told(platform)
    done = CliRunner().invoke(app, ["quarantine", "again", "hotel_bookings", DELIVERY[:12]])
    assert done.exit_code == 0, done.output
    assert airflow.started == [("/api/v2/dags/ingest_hotel_bookings/dagRuns", {"again": DELIVERY})]
    assert "20 rows: 15 accepted, 5 refused in this run; snapshot s2" in done.output
    assert "rempart pipeline show hotel_bookings" in done.output


def test_a_run_that_changed_nothing_says_so(platform: Platform, airflow: Airflow) -> None:
    told(platform)
    airflow.changed = False
    done = CliRunner().invoke(app, ["quarantine", "again", "hotel_bookings", DELIVERY[:12]])
    assert "Nothing changed" in done.output and "new snapshot starts" not in done.output
    printed = rempart(DELIVERY, "--yes")[1]
    assert "no new row: snapshot s2 stays as it was" in printed and "new snapshot starts" not in printed
