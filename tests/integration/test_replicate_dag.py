"""The DAG of replication on the running stack: a task for each piece, its messages, and when it is skipped."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from rempart.airflow_api import AirflowApi
from rempart.coordination.lease import Lease
from rempart.deployment.setup.paths import Stack
from rempart.errors import LeaseHeld
from rempart.flows.shared.platform import Platform
from rempart.replication.pieces import PIECE
from rempart.settings import config
from tests.levels import unpaused

pytestmark = pytest.mark.stack

DAG_ID = "replicate_primary_to_haven"
LEASE = "replicate primary -> haven"
OBJECTS = PIECE + 100
OURS = "is done by this test"


@pytest.fixture(scope="module")
def api() -> Iterator[AirflowApi]:
    with unpaused(AirflowApi(config.environment_connections("airflow_api")), DAG_ID) as made:
        yield made


def hold_lease(platform: Platform, until: ExitStack) -> Lease:
    """The pair's lease, as soon as no run has it."""
    for _ in range(240):
        try:
            return until.enter_context(platform.continuity.hold_lease(LEASE, OURS))
        except LeaseHeld:
            time.sleep(0.5)
    raise AssertionError("the lease was never free")


@pytest.fixture
def prefix(platform: Platform) -> Iterator[str]:
    """Where the test's objects are, at both sites; nothing is left of them, and nobody asks why they are gone."""
    made, lake = f"replicate-dag-{secrets.token_hex(4)}/", platform.config.buckets.lake
    yield made
    with ExitStack() as until, ThreadPoolExecutor(16) as pool:
        lease = hold_lease(platform, until)
        for name in ("primary", "haven"):
            site = platform.site(name, "personal")
            found = list(site.versions(lake, made))
            list(pool.map(lambda info, at=site: at.delete(lake, info.key, version_id=info.version_id), found))
        known = platform.continuity.catalogue("primary", "haven")
        known.forget(lake, [row for row in known.rows(lake) if row.key.startswith(made)], lease)


def ran(api: AirflowApi) -> str:
    """A run that was not skipped: a run that meets another's lease is skipped."""
    for _ in range(60):
        run_id = api.trigger(DAG_ID)
        api.follow(DAG_ID, run_id, lambda line: None)
        if ("conclude", -1, "success") in tasks(api, run_id):
            return run_id
        time.sleep(5)
    raise AssertionError("every run was skipped")


def tasks(api: AirflowApi, run_id: str) -> list[tuple[str, int, str]]:
    """Each task of a run: its name, which of the mapped ones it is, how it ended."""
    found = api.get(f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances")["task_instances"]
    return sorted((task["task_id"], task["map_index"], task["state"]) for task in found)


def runs(api: AirflowApi, since: datetime) -> list[str]:
    path = f"/api/v2/dags/{DAG_ID}/dagRuns?run_after_gte={since:%Y-%m-%dT%H:%M:%SZ}&order_by=run_after"
    return [dag_run["dag_run_id"] for dag_run in api.get(path)["dag_runs"]]


def events(api: AirflowApi, run_id: str) -> list[dict[str, Any]]:
    """The events of assets that a run made."""
    newest = api.get(f"/api/v2/assets/events?source_dag_id={DAG_ID}&order_by=-timestamp&limit=100")["asset_events"]
    return [event for event in newest if event["source_run_id"] == run_id]


def event_of(api: AirflowApi, run_id: str) -> dict[str, Any]:
    """The extra of the one event of the asset that a run made."""
    (found,) = events(api, run_id)
    assert found["name"] == "replica_primary_to_haven"
    extra: dict[str, Any] = found["extra"]
    return extra


@pytest.mark.full
def test_pieces_are_copied_by_tasks_of_their_own_and_the_asset_tells_the_lag(
    platform: Platform, api: AirflowApi, prefix: str, no_backups: None
) -> None:
    primary, haven, lake = platform.site("primary", "personal"), platform.site("haven", "personal"), "lake"
    began = datetime.now(UTC)
    with ExitStack() as until, ThreadPoolExecutor(16) as pool:
        hold_lease(platform, until)  # a scheduled run beside this copies nothing meanwhile
        list(pool.map(lambda n: primary.write(lake, f"{prefix}k{n:05}", b"%d" % n), range(OBJECTS)))
    run_id = ran(api)
    # a scheduled run may have begun before ours, and have copied them
    seen = [tasks(api, run) for run in runs(api, began - timedelta(minutes=3))]
    assert any({("carry", 1, "success"), ("conclude", -1, "success")} <= set(found) for found in seen), seen
    copied = {info.key: info.size for info in haven.list(lake, prefix)}
    assert copied == {f"{prefix}k{n:05}": len(b"%d" % n) for n in range(OBJECTS)}
    result, extra = api.result(DAG_ID, run_id, "conclude"), event_of(api, run_id)
    assert extra == {name: value for name, value in result.items() if name != "failed"}
    assert extra["objects"] == extra["verified"] >= OBJECTS
    assert (extra["lag_seconds"], extra["pending"], extra["failures"]) == (0, 0, 0)
    again = ran(api)
    assert tasks(api, again) == [("carry", -1, "skipped"), ("conclude", -1, "success"), ("prepare", -1, "success")]
    assert event_of(api, again)["copied"] == 0


def test_a_run_is_skipped_while_another_has_the_turn_and_makes_no_event(platform: Platform, api: AirflowApi) -> None:
    with ExitStack() as until:
        hold_lease(platform, until)
        run_id = api.trigger(DAG_ID)
        api.follow(DAG_ID, run_id, lambda line: None)
    assert tasks(api, run_id) == [("carry", -1, "skipped"), ("conclude", -1, "skipped"), ("prepare", -1, "skipped")]
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/prepare/logs/1"
    assert OURS in str(api.get(path)), "the log tells who has the lease"
    assert not events(api, run_id)


@pytest.mark.full
def test_a_run_that_outlives_the_objective_is_told_while_it_goes_on(
    stack: Stack, api: AirflowApi, no_backups: None
) -> None:
    log = stack.logs / "airflow-triggerer.log"
    for _ in range(5):  # of a run that had ended, as one does that is skipped, nothing is told
        run_id = api.trigger(DAG_ID)
        late = outlived(run_id)
        api.follow(DAG_ID, run_id, lambda line: None)
        until = time.monotonic() + 60
        while late and time.monotonic() < until:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            if any(f"run {run_id}, " in line and "is still running after 900 s" in line for line in lines):
                return
            time.sleep(0.5)
    raise AssertionError("nobody told")


def outlived(run_id: str) -> bool:
    """As if it had been queued an objective ago: the scheduler looks at its table alone. False if it has ended."""
    with psycopg.connect(config.environment_connections("pg_airflow").postgresql_url(), autocommit=True) as database:
        moved = "UPDATE deadline SET deadline_time = now() FROM dag_run r WHERE dagrun_id = r.id AND r.run_id = %s"
        return database.execute(moved, [run_id]).rowcount == 1
