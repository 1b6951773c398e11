"""Stages that run, as `rempart pipeline show` tells them from Airflow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from rempart.airflow_api import AirflowApi
from rempart.cli import app, run_follow
from rempart.cli.lifecycle import running
from rempart.cli.lifecycle.running import RunningStages
from rempart.cli.views import facts, waiting
from rempart.cli.views.waiting import WaitingFiles
from rempart.errors import ConnectionMissing
from rempart.settings.config import Connection
from rempart.web.read_models.pipeline_states import NextStep
from tests.cockpit import Watched

NOW = datetime(2026, 3, 1, 12, 14, 30, tzinfo=UTC)
RUN = NextStep("No model was trained on the current snapshot.", "rempart pipeline run p --follow")


def airflow(*runs: dict[str, Any]) -> Callable[[], AirflowApi]:
    """An Airflow with these runs, each with its DAG; it knows no DAG that gates."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        dag = request.url.path.split("/")[4]
        if dag == "validate_model_p":
            return httpx.Response(404, json={"detail": "no such DAG"})
        asked = request.url.params.get_list("state")
        found = [run for run in runs if run["dag"] == dag and run["state"] in asked]
        return httpx.Response(200, json={"dag_runs": found, "total_entries": len(found)})

    def opened() -> AirflowApi:
        api = AirflowApi(Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http"))
        api._http = httpx.Client(base_url=api.url, transport=httpx.MockTransport(answer))
        return api

    return opened


TRAINS = {"dag": "train_p", "dag_run_id": "r", "state": "running", "start_date": "2026-03-01T12:00:00Z"}
QUEUED = {"dag": "ingest_p", "dag_run_id": "q", "state": "queued", "start_date": None, "queued_at": None}


def told(*runs: dict[str, Any]) -> tuple[list[str], NextStep]:
    found = running.look(airflow(*runs), "p", tuple(run_follow.DAGS))
    return list(running.lines(found, NOW)), running.step(found, "p", RUN)


def test_a_training_that_runs_is_told_with_its_minutes_and_is_waited_for() -> None:
    lines, step = told(TRAINS)
    assert lines == ["Running: train, since 2026-03-01 12:00 UTC (14 min 30 s so far)"]
    assert step == NextStep("Wait for train, then look again.", "rempart pipeline show p")


def test_stages_come_in_their_order_and_a_queued_run_does_not_run_yet() -> None:
    lines, step = told(TRAINS, QUEUED)
    assert lines[0] == "Running: ingest waits for Airflow's scheduler" and lines[1].startswith("Running: train, since")
    assert step.sentence == "Wait for ingest and train, then look again."


def test_where_nothing_runs_the_next_step_stays() -> None:
    assert told() == (["Running: nothing"], RUN)
    decide = NextStep(
        "A delivery is held back: decide about its rows, or leave it.",
        "rempart quarantine show p",
    )
    found = running.look(airflow(TRAINS), "p", tuple(run_follow.DAGS))
    assert running.step(found, "p", decide) is decide


def _stopped() -> AirflowApi:
    return AirflowApi(Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http"))


def _undefined() -> AirflowApi:
    raise ConnectionMissing("No connection 'airflow_api' is defined", "Define it.")


def _reset() -> AirflowApi:
    raise ConnectionResetError


@pytest.mark.parametrize(
    ("opened", "why"),
    [(_stopped, "no answer"), (_undefined, "No connection 'airflow_api'"), (_reset, "ConnectionResetError")],
)
def test_an_airflow_that_cannot_be_asked_is_unknown_and_never_nothing(
    opened: Callable[[], AirflowApi], why: str
) -> None:
    found = running.look(opened, "p", ("ingest",))
    (line,) = running.lines(found, NOW)
    assert line.startswith("UNKNOWN: whether a stage runs: ") and why in line and "nothing" not in line
    document = running.as_json(found)
    assert document and document["runs"] is None and document["unknown"] and running.step(found, "p", RUN) is RUN


def test_what_did_not_answer_in_time_is_told_with_the_command_that_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    late = "no answer within 30 s"
    looks = {"running": RunningStages(silent=late), "waiting": WaitingFiles(silent=late)}
    monkeypatch.setattr(facts, "gather", lambda: Watched().facts())
    monkeypatch.setattr(running, "look", lambda *_: looks["running"])
    monkeypatch.setattr(waiting, "look", lambda *_: looks["waiting"])
    again = "\nTo ask once more for what is unknown: rempart pipeline show hotel_bookings\n"
    shown = CliRunner().invoke(app, ["pipeline", "show", "hotel_bookings"])
    assert shown.exit_code == 1 and shown.output.count(f": {late}\n") == 2 and shown.output.endswith(again)
    looks = {"running": RunningStages(), "waiting": WaitingFiles()}
    shown = CliRunner().invoke(app, ["pipeline", "show", "hotel_bookings"])
    assert shown.exit_code == 0 and "To ask once more" not in shown.output
