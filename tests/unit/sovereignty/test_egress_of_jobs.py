"""Training jobs reach the sites and the tracking server, whatever else is declared at the same address."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from rempart.settings import config
from rempart.settings.config import Config
from rempart.sovereignty.egress import Destination, rules
from rempart.sovereignty.render import for_jobs

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 11, 24)
INGRESS = "https://platform.example.eu"
ENDPOINTS = {"s3_primary": "http://primary:8333", "s3_haven": "http://haven:8333"}


def shipped() -> Config:
    """The shipped configuration, with MLflow behind an ingress that it shares with Airflow."""
    found = config.load(ROOT / "rempart.yaml")
    external = {"url": INGRESS, "connection": "mlflow", **found.machine.model_dump()}
    changed = found.model_dump() | {"services": {**found.model_dump()["services"], "mlflow": {"external": external}}}
    return Config.model_validate(changed)


def test_jobs_reach_the_sites_and_the_tracking_server_alone() -> None:
    found = rules(shipped(), ENDPOINTS, on=TODAY, own=[Destination("queue.example.eu", 5671, "Airflow's broker")])
    reached = {str(destination) for destination in for_jobs(found).allowed}
    assert reached == {"*.primary:8333", "*.haven:8333", "platform.example.eu:443"}


def test_jobs_reach_a_tracking_server_behind_the_ingress_of_airflow() -> None:
    own = [Destination("platform.example.eu", 443, "Airflow's [api] base_url")]
    found = rules(shipped(), ENDPOINTS, on=TODAY, own=own)
    assert "platform.example.eu:443" in {str(destination) for destination in for_jobs(found).allowed}


def test_a_reason_that_reads_like_a_site_opens_nothing_for_jobs() -> None:
    own = Destination("queue.example.eu", 5671, "sites.of another kind")
    found = rules(shipped(), ENDPOINTS, on=TODAY, own=[own])
    assert own in found.allowed
    assert own not in for_jobs(found).allowed
