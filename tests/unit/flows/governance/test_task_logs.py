"""Logs of tasks at a site: their place, appended by a resumed task, read together with those of its triggers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.errors import ObjectMissing, PlacementDenied
from rempart.flows.governance import task_logs
from rempart.flows.shared.platform import Platform
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.settings.config import Connection, environment_connections
from rempart.sites.port import Site
from tests.memory_site import MemorySite

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def platform() -> Platform:
    settings = config.load(ROOT / "rempart.yaml")
    sites: dict[str, Site] = {name: MemorySite(name) for name in settings.sites}
    for site in sites.values():
        site.ensure_bucket(settings.buckets.artifacts, versioned=True)
    return Platform(settings, environment_connections, sites=sites, continuity_=MemoryContinuity())


def test_a_log_lies_at_the_active_site_and_is_added_to_when_the_task_goes_on(platform: Platform) -> None:
    place = task_logs.write(*task_logs.open_store(platform), "dag_id=d/attempt=1.log", b"before\n")
    assert place == "artifacts/airflow/logs/dag_id=d/attempt=1.log at site 'primary'"
    task_logs.write(*task_logs.open_store(platform), "dag_id=d/attempt=1.log", b"after a deferral\n")
    assert list(task_logs.read(*task_logs.open_store(platform), "dag_id=d/attempt=1.log").values()) == [
        "before\nafter a deferral\n"
    ]
    with pytest.raises(ObjectMissing):
        platform.sites["haven"].read("artifacts", "airflow/logs/dag_id=d/attempt=1.log")


def test_what_a_trigger_wrote_is_read_with_it_and_a_log_that_is_not_there_is_none(platform: Platform) -> None:
    task_logs.write(*task_logs.open_store(platform), "dag_id=d/attempt=1.log", b"task\n")
    task_logs.write(*task_logs.open_store(platform), "dag_id=d/attempt=1.log.trigger.7.log", b"trigger\n")
    task_logs.write(*task_logs.open_store(platform), "dag_id=d/attempt=2.log", b"another try\n")
    assert list(task_logs.read(*task_logs.open_store(platform), "dag_id=d/attempt=1.log").values()) == [
        "task\n",
        "trigger\n",
    ]
    assert task_logs.read(*task_logs.open_store(platform), "dag_id=d/attempt=3.log") == {}


def test_a_site_that_the_policy_does_not_allow_for_logs_gets_none() -> None:
    settings = config.load(ROOT / "rempart.yaml")
    elsewhere = settings.policy["internal"].model_copy(update={"jurisdictions": ["CH"]})
    settings = settings.model_copy(update={"policy": {**settings.policy, "internal": elsewhere}})
    found = {"endpoint_url": "http://127.0.0.1:8333"}

    def connections(name: str) -> Connection:
        return Connection(name, "aws", login="key", password="secret", extra=found)

    refusing = Platform(settings, connections, continuity_=MemoryContinuity())
    with pytest.raises(PlacementDenied, match="jurisdictions"):
        task_logs.write(*task_logs.open_store(refusing), "dag_id=d/attempt=1.log", b"a line\n")
    with pytest.raises(PlacementDenied):
        task_logs.read(*task_logs.open_store(refusing), "dag_id=d/attempt=1.log")
