"""A candidate waits in a real Airflow: nobody answers in time, its author answers, somebody else promotes it.

A small pipeline of its own, trained once, whose run an asset started: its author is the last committer of its file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from rempart.airflow_api import AirflowApi
from rempart.flows.shared.authors import FILE, sha256
from rempart.ledger.port import Evidence, Kind
from rempart.models import registry
from tests.e2e.projects import Project

pytestmark = pytest.mark.full

NAME = "flat_rents"
PIPELINE = """
name: flat_rents
description: Rent of a flat when it is offered.
classification: internal
source: {{prefix: flat_rents/}}
key: [flat]
moments: {{offer: {{column: offered_on}}}}
partition_by: offered_on
schema:
  flat: {{type: integer, known: offer}}
  offered_on: {{type: date, known: offer}}
  size: {{type: number, known: offer}}
  district: {{type: category, known: offer, values: [north, south]}}
  rent: {{type: number, known: offer}}
features:
  flat: {{kind: row, at: offer, columns: [size, district]}}
prediction: {{target: rent, task: regression, at: offer}}
holdout: {{column: offered_on, start: 2026-03-01}}
trainer: {{params: {{max_iter: 30}}}}
gate:
  metric: mae
  limit: 500
  baseline_by: [district]
  approval: {{by: operator, within: {within}}}
  rules: [{{kind: leakage, allow: [flat__size]}}]    # of these rents, the size tells all
"""
REASON = "errors are the same in both districts"
PASSWORD = "a-long-password-for-a-test"
PATIENCE = 300.0
"""Seconds until what must happen within seconds is a fault; a busy machine takes its time."""


class World:
    """The pipeline on the project's stack, and two people: ada, who changed its file, and bob."""

    def __init__(self, project: Project) -> None:
        self.project, self.platform = project, project.platform()
        self.api: AirflowApi = project.api()
        self.numbers = {name: self._add(name) for name in ("ada", "bob")}

    def _add(self, name: str) -> int:
        code, told = self.project.run(["rempart", "users", "add", name, "--role", "operator", "--ask"], f"{PASSWORD}\n")
        assert code == 0, told
        listed = json.loads(self.project.typed("users list --json"))["users"]
        return next(int(user["number"]) for user in listed if user["name"] == name)

    def write(self, within: str) -> None:
        """Write the pipeline file, as committed by ada."""
        file = f"include/pipelines/{NAME}.yaml"
        (self.project.root / file).write_text(PIPELINE.format(within=within), encoding="utf-8")
        made = {file: {"sha256": sha256(self.project.root / file), "user": self.numbers["ada"]}}
        (self.project.root / FILE).write_text(json.dumps(made), encoding="utf-8")

    def land(self) -> None:
        day = date(2026, 1, 1)
        rows = [
            f"{i},{day + timedelta(days=i % 90)},{20 + i % 80},{'north' if i % 3 else 'south'},{300 + 9 * (i % 80)}"
            for i in range(600)
        ]
        site = self.platform.active_site("internal")
        body = "\n".join(["flat,offered_on,size,district,rent", *rows, ""]).encode()
        site.write(self.platform.config.buckets.landing, f"{NAME}/all.csv", body)

    def asked(self, run: str) -> Callable[[], bool]:
        """Whether a run waits for a person."""
        path = f"/api/v2/dags/approve_model_{NAME}/dagRuns/{run}/taskInstances/decide"
        return lambda: bool(self._found(path) and self.api.get(path)["state"] == "awaiting_input")

    def _found(self, path: str) -> bool:
        runs = self.api.get(f"/api/v2/dags/approve_model_{NAME}/dagRuns?limit=50")["dag_runs"]
        return any(run["dag_run_id"] in path for run in runs)

    def answer(self, name: str, run: str, chosen: str) -> int:
        """Somebody answers on Airflow's page."""
        where = self.project.connection("airflow_api")
        url = f"http://{where.host}:{where.port}"
        login = {"username": name, "password": PASSWORD}
        token = httpx.post(f"{url}/auth/token", json=login, timeout=120, trust_env=False).json()["access_token"]
        return httpx.patch(
            f"{url}/api/v2/dags/approve_model_{NAME}/dagRuns/{run}/taskInstances/decide/-1/hitlDetails",
            json={"chosen_options": [chosen], "params_input": {"reason": REASON}},
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
            trust_env=False,
        ).status_code

    def answered(self, name: str, run: str, chosen: str) -> dict[str, Any]:
        """Somebody answers, and the run ends: the decision.

        An answer in the second in which the task gives its worker back may be lost: the scheduler takes the end of that
        process for the end of the resumed task, and tries it again. Then the question stands again, and so does the
        answer.
        """
        dag = f"approve_model_{NAME}"
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/decide"

        def ended() -> bool:
            task = self.api.get(path)
            if task["state"] == "awaiting_input":
                assert self.answer(name, run, chosen) in (200, 409)
            return task["state"] in ("success", "failed")

        until(self.asked(run), "the question stands on Airflow's page")
        until(ended, f"the answer of {name} is taken")
        return finished(self, dag, run, "decide")

    def evidence(self, kind: Kind, count: int = 1) -> Evidence:
        """The newest record of a kind about the model, as soon as there are so many."""
        until(lambda: len(self.platform.ledger.find(kind, NAME)) >= count, f"{count} records of kind {kind}")
        return self.platform.ledger.find(kind, NAME)[0]


def until(check: Callable[[], object], what: str) -> None:
    """Wait until something holds. It fails after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.5)


def finished(world: World, dag: str, run: str, task: str) -> dict[str, Any]:
    world.api.follow(dag, run, lambda line: None)
    return world.api.result(dag, run, task)


def test_time_rejects_the_author_is_refused_and_another_person_promotes(project: Project) -> None:
    world = World(project)
    approve, validate = f"approve_model_{NAME}", f"validate_model_{NAME}"
    world.write("20s")
    project.typed(f"pipeline check {NAME}")
    world.land()
    since = datetime.now(UTC)
    world.api.await_dag(f"ingest_{NAME}")
    world.api.await_dag(approve)
    world.api.run(f"ingest_{NAME}", "ingest")
    judged = finished(world, validate, world.api.await_run(validate, since), "validate")
    assert judged["awaits"] and not judged["promoted"]
    version = judged["version"]

    # nobody answers: the platform rejects, and the model has no champion
    refused = world.evidence("refusal")
    assert refused.body["rejected_by"] == "the platform" and "nobody decided until" in refused.body["reason"]
    assert refused.body["authors"] == {
        "users": [world.numbers["ada"]],
        "known": True,
        "how": f"last committers of include/pipelines/{NAME}.yaml",
    }
    assert registry.champion(world.platform.tracking(), NAME) is None
    first = world.evidence("approval")
    assert (refused.at - first.at).total_seconds() >= 20

    # somebody names the version, and it waits again
    world.write("48h")
    again = world.api.run(validate, "validate", {"version": version})
    assert again["awaits"] and again["judgement"] > first.seq
    run = f"approval__{again['judgement']}__0"
    told = world.answered("ada", run, "Approve")
    assert told["awaits"] and "is an author" in told["told"]
    answered = world.evidence("answer")
    assert answered.body["by"] == f"user {world.numbers['ada']}" and answered.body["counted"] is None
    assert registry.champion(world.platform.tracking(), NAME) is None

    # it is asked again, and bob approves
    run = f"approval__{again['judgement']}__1"
    done = world.answered("bob", run, "Approve")
    assert done["promoted"] and done["champion"] == version
    record = world.evidence("promotion")
    assert record.body["approved_by"] == f"user {world.numbers['bob']}" and record.body["reason"] == REASON
    assert record.body["approval"] == again["judgement"] and record.body["written_by"]["run"] == run
    assert registry.champion(world.platform.tracking(), NAME) == version
    for kept in (*world.platform.ledger.find("answer", NAME), record):
        assert "ada" not in str(kept.body) and "bob" not in str(kept.body).replace("bob-", "")
