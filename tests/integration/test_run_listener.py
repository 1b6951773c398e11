"""The listener in a real transaction of Airflow's database: its records, and that its errors affect nobody.

In a process of its own with the scheduler's environment, on a run of the stack.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from rempart.airflow_api import AirflowApi
from rempart.deployment.setup import environment, paths
from rempart.settings import config
from tests.levels import unpaused

pytestmark = pytest.mark.stack

IN_THE_SCHEDULER = """
import json, sys, time
from types import SimpleNamespace

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy import select, text

from rempart.orchestration import run_listener, run_notes
from rempart.orchestration.run_listener import RunListener

dag_id, run_id = sys.argv[1:]
told = {}

def note():
    with create_session(scoped=False) as session:
        return session.execute(text("SELECT content, user_id FROM dag_run_note JOIN dag_run ON id = dag_run_id"
                                    " WHERE dag_id = :d AND run_id = :r"), {"d": dag_id, "r": run_id}).one_or_none()

def ends(tags=("rempart",), msg="success"):
    '''The run ends, as in the scheduler: one transaction, which nobody but the scheduler commits.'''
    began = time.monotonic()
    with create_session(scoped=False) as session, prohibit_commit(session) as guard:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id).with_for_update())
        run.dag = SimpleNamespace(tags=set(tags))
        run.last_scheduling_decision = run.queued_at  # what the scheduler writes besides
        RunListener().on_dag_run_success(run, msg)
        run.context_carrier = {"mark": str(began)}
        guard.commit()
    with create_session(scoped=False) as session:
        kept = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        assert kept.context_carrier == {"mark": str(began)}, "the scheduler's own change was lost"
    return time.monotonic() - began

def set_note(content, user):
    with create_session(scoped=False) as session:
        session.execute(text("DELETE FROM dag_run_note USING dag_run WHERE id = dag_run_id AND dag_id = :d"
                             " AND run_id = :r"), {"d": dag_id, "r": run_id})
        if content:
            session.execute(text("INSERT INTO dag_run_note (dag_run_id, content, user_id, created_at, updated_at)"
                                 " SELECT id, :c, :u, now(), now() FROM dag_run WHERE dag_id = :d AND run_id = :r"),
                            {"d": dag_id, "r": run_id, "c": content, "u": user})

run_listener.PATIENCE = "60s"  # a busy machine is no fault; that it is short is looked at below
set_note(None, None); ends(); told["made"] = tuple(note())
set_note("Rempart: of an earlier try", None); ends(); told["renewed"] = tuple(note())
set_note("mine", "7"); ends(); told["of a person"] = tuple(note())
set_note("Rempart: but mine", "7"); ends(); told["of a person, like ours"] = tuple(note())
set_note("of another plugin", None); ends(); told["of another"] = tuple(note())
set_note(None, None)
ends(tags=("mine",)); told["not ours"] = note()
ends(msg="Dag Run's state was manually set to `success`."); told["by hand"] = note()

good, run_notes.note = run_notes.note, lambda *_: 1 / 0
ends(); told["a fault of ours"] = note()
run_notes.note = lambda *_: "x" * 5000  # longer than the column
ends(); told["a fault of the database"] = note()
run_notes.note = good
run_listener.PATIENCE = "300ms"
set_note("Rempart: held", None)
with create_session(scoped=False) as session:  # somebody is writing the note, and does not end
    session.execute(text("SELECT FROM dag_run_note JOIN dag_run ON id = dag_run_id WHERE dag_id = :d AND run_id = :r"
                         " FOR UPDATE OF dag_run_note"), {"d": dag_id, "r": run_id})
    told["waited"] = ends()
told["held"] = tuple(note())
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(stack: paths.Stack) -> dict[str, Any]:
    api = AirflowApi(config.environment_connections("airflow_api"))
    with unpaused(api, "export_evidence"):
        run = api.trigger("export_evidence")
        api.follow("export_evidence", run, lambda line: None)
    env = environment.of(stack, config.read_env_file(stack.secrets), os.environ, "airflow-scheduler")
    command = [sys.executable, "-c", IN_THE_SCHEDULER, "export_evidence", run]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "was not written" in done.stdout + done.stderr, "what went wrong is in no log"
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_a_run_that_ends_gets_its_note_and_one_of_an_earlier_try_is_renewed(told: dict[str, Any]) -> None:
    assert "ledger records" in told["made"][0] and told["made"][1] is None
    assert told["renewed"] == told["made"]


def test_a_note_that_somebody_wrote_stays(told: dict[str, Any]) -> None:
    assert told["of a person"] == ["mine", "7"]
    assert told["of a person, like ours"] == ["Rempart: but mine", "7"]
    assert told["of another"] == ["of another plugin", None]


def test_runs_of_others_and_states_set_by_hand_get_none(told: dict[str, Any]) -> None:
    assert told["not ours"] is None and told["by hand"] is None


def test_what_goes_wrong_in_it_is_logged_and_the_schedulers_transaction_goes_on(told: dict[str, Any]) -> None:
    # each time the script saw the scheduler's own change committed
    assert told["a fault of ours"] is None and told["a fault of the database"] is None


def test_it_waits_for_nobody(told: dict[str, Any]) -> None:
    assert told["waited"] < 120 and told["held"][0] == "Rempart: held"
