"""The whole platform moves to its other site and returns: real sites, real PostgreSQL, a running MLflow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rempart.airflow_api import AirflowApi
from rempart.deployment.servers import rest
from rempart.flows.failover.fail_over import abandon, fail_back, fail_over
from rempart.flows.failover.published_state import lines
from rempart.flows.failover.tracking_switch import unproxied
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from tests.levels import unpaused

pytestmark = [pytest.mark.stack, pytest.mark.switches_site]


@pytest.fixture
def at_home(platform: Platform) -> Iterator[Platform]:
    yield platform
    if platform.active().state == "fenced":
        abandon(platform, dry_run=False)
    fail_back(platform, dry_run=False)
    assert platform.active().site == "primary"


def artifact(platform: Platform, method: str, name: str, body: bytes | None = None) -> bytes:
    tracking = platform.tracking()
    url = f"{tracking.http_url()}/api/2.0/mlflow-artifacts/artifacts/{name}"
    answer: bytes = rest.call(method, url, body=body, basic=(tracking.login, tracking.password), timeout=30)
    return answer


def test_mlflow_and_everything_stored_follow_the_active_site_and_no_uri_is_rewritten(
    at_home: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = at_home.config.buckets.artifacts
    primary, haven = (at_home.site(name, "personal") for name in ("primary", "haven"))
    artifact(at_home, "PUT", "moved/before.txt", b"written at the primary")
    assert primary.read(bucket, "mlflow/moved/before.txt") == b"written at the primary"
    result = fail_over(at_home, "haven", dry_run=False)
    assert result.done and at_home.active_site("personal").name == "haven"
    assert result.steps["resume"]["tracking"] == "an artifact written through MLflow is at 'haven'"
    assert artifact(at_home, "GET", "moved/before.txt") == b"written at the primary"
    artifact(at_home, "PUT", "moved/after.txt", b"written at haven")
    assert haven.read(bucket, "mlflow/moved/after.txt") == b"written at haven"
    assert not list(primary.list(bucket, "mlflow/moved/after"))
    assert "'haven' is active" in next(lines(at_home))
    message = [record.getMessage() for record in caplog.records if record.name.startswith("rempart.flows")]
    assert len(message) >= 10, "it tells how far it is"
    home = fail_back(at_home, dry_run=False)
    assert home.done and home.conflicts == ()
    assert artifact(at_home, "GET", "moved/after.txt") == b"written at haven"
    assert primary.read(bucket, "mlflow/moved/after.txt") == b"written at haven"


def test_every_experiment_of_this_stack_follows(platform: Platform) -> None:
    assert list(unproxied(platform.config.buckets.artifacts, lambda: platform.database("mlflow"))) == [
        "every MLflow experiment and run switches: the server proxies their artifacts"
    ]


def test_the_dags_show_what_would_be_done_unless_told_otherwise(platform: Platform) -> None:
    api = AirflowApi(config.environment_connections("airflow_api"))
    told = {}
    for dag_id in ("fail_over", "fail_back"):
        with unpaused(api, dag_id):
            run_id = api.trigger(dag_id, {})
            api.follow(dag_id, run_id, lambda line: None)
            told[dag_id] = api.result(dag_id, run_id, dag_id)
    assert (told["fail_over"]["dry_run"], told["fail_over"]["done"]) == (True, False)
    assert any("restore points would go to 'primary'" in line for line in told["fail_over"]["plan"])
    assert told["fail_back"]["done"], "at home there is nothing to do"
    assert platform.active().site == "primary"
