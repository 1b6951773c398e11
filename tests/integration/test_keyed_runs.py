"""An idempotency key at the real API of Airflow: the same key names the same run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli.run_follow import keyed_run
from rempart.settings import config

pytestmark = pytest.mark.stack
DAG_ID = "ingest_hotel_bookings"  # paused in tests: its runs wait


@pytest.fixture
def api() -> AirflowApi:
    return AirflowApi(config.environment_connections("airflow_api"))


@pytest.fixture
def run(api: AirflowApi) -> Iterator[str]:
    """The id of a run that is deleted afterwards."""
    made = keyed_run(f"order-{secrets.token_hex(4)}")
    yield made
    answer = api._with_token("DELETE", f"/api/v2/dags/{DAG_ID}/dagRuns/{made}")
    assert answer.status_code == 204


def test_the_same_key_twice_is_the_same_run(api: AirflowApi, run: str) -> None:
    assert api.trigger_once(DAG_ID, run)
    assert not api.trigger_once(DAG_ID, run)
    # what a script with curl sees: 409 means that the run exists
    answer = api._with_token(
        "POST", f"/api/v2/dags/{DAG_ID}/dagRuns", json={"dag_run_id": run, "logical_date": None, "conf": {}}
    )
    assert answer.status_code == 409
    assert [told for told in api.unfinished_runs(DAG_ID) if run in told] == [f"{DAG_ID}, run {run} (queued)"]
    with pytest.raises(AirflowApiError, match="other parameters"):
        api.trigger_once(DAG_ID, run, {"accept_quarantined": True})
