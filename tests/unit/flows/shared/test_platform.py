"""The platform opens a site only with a permission, and every decision is evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import PlacementDenied
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config, pipeline, pipelines
from rempart.settings.config import Connection
from rempart.settings.sections import External, StackService
from tests.memory_site import MemorySite

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def platform(endpoint: str = "http://127.0.0.1:9", **sites: MemorySite) -> Platform:
    def connections(name: str) -> Connection:
        return Connection(name, "aws", login="key", password="secret-word", extra={"endpoint_url": endpoint})

    return Platform(config.load(), connections, lambda: NOW, dict(sites), MemoryLedger())


def test_a_permission_is_recorded_once_and_a_denial_each_time() -> None:
    house = platform(primary=MemorySite("primary"))
    for _ in range(3):
        house.site("primary", "personal")
    for _ in range(2):
        with pytest.raises(PlacementDenied, match="SecNumCloud"):
            house.site("primary", "sensitive")
    assert len(house.ledger.find("decision")) == 1
    assert len(house.ledger.find("denial", "site 'primary'")) == 2
    newest = house.ledger.find("denial")[0].body
    assert newest["classification"] == "sensitive"
    assert any(reason["rule"] == "policy.sensitive.qualifications" for reason in newest["reasons"])


def test_a_site_opened_for_one_classification_is_not_open_to_another() -> None:
    house = platform()
    house.site("primary", "personal")
    with pytest.raises(PlacementDenied):
        house.site("primary", "sensitive")


def test_a_connection_that_leads_to_another_host_than_the_operators_is_refused() -> None:
    house = platform("https://s3.eu-west-3.amazonaws.com")
    with pytest.raises(PlacementDenied, match=r"s3\.eu-west-3\.amazonaws\.com' is not an endpoint of trial-one"):
        house.site("primary", "public")
    assert "secret-word" not in str(house.ledger.find("denial")[0])


def test_an_unknown_site_is_denied_and_recorded() -> None:
    house = platform()
    with pytest.raises(PlacementDenied, match="'nowhere' is not declared"):
        house.site("nowhere", "public")
    assert house.ledger.find("denial", "site 'nowhere'")


AWS = {"operator": "aws", "service": "managed-postgresql", "region": "eu-central-1"}


def at_aws(house: Platform, name: str, tmp_path: Path) -> Platform:
    """The platform with one server at a company owned in the United States, as rempart.yaml would declare it."""
    (tmp_path / "include").symlink_to(config.project_root() / "include")
    data = yaml.safe_load((config.project_root() / "rempart.yaml").read_text("utf-8"))
    data["services"][name] = {"external": {"url": "https://127.0.0.1", "connection": "theirs", **AWS}}
    (tmp_path / "rempart.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return replace(house, config=config.load(tmp_path / "rempart.yaml"))


def at_this_machine(name: str) -> Connection:
    return Connection(name, "postgres", "127.0.0.1", 5432)


def test_r1_a_database_that_may_hold_personal_data_is_decided_upon_and_recorded_once() -> None:
    house = replace(platform(), connections=at_this_machine)
    for _ in range(2):
        assert house.database("feast_online").host == "127.0.0.1"
        assert house.tracking()
    found = [record.subject for record in house.ledger.find("decision")]
    assert sorted(found) == ["server 'mlflow'", "server 'postgresql'"]
    assert house.ledger.find("decision", "server 'postgresql'")[0].body["classification"] == "personal"


@pytest.mark.parametrize("name", ["postgresql", "mlflow"])
def test_r1_a_server_that_the_policy_refuses_opens_to_nobody_and_the_denial_is_recorded(
    name: str, tmp_path: Path
) -> None:
    house = at_aws(replace(platform(), connections=at_this_machine), name, tmp_path)
    with pytest.raises(PlacementDenied, match=r"the ultimate owner of operator aws \(Amazon.com, Inc.\) is US"):
        house.tracking() if name == "mlflow" else house.database("feast_offline")
    assert house.ledger.find("denial", f"server '{name}'")


def test_r1_the_ledgers_own_database_is_refused_too_where_internal_data_may_not_be(tmp_path: Path) -> None:
    house = at_aws(replace(platform(), connections=at_this_machine), "postgresql", tmp_path)
    with pytest.raises(PlacementDenied, match=r"database \(internal\) may not be at server 'postgresql'"):
        house.database("ledger")


def test_r1_a_connection_to_another_host_than_the_declared_one_is_refused() -> None:
    house = replace(platform(), connections=lambda name: Connection(name, "postgres", "db.elsewhere.example", 5432))
    with pytest.raises(PlacementDenied, match=r"its connection leads to 'db.elsewhere.example'"):
        house.database("feast_online")


def test_r1_an_external_server_without_a_place_is_refused() -> None:
    house = replace(platform(), connections=at_this_machine)
    nowhere = {"postgresql": StackService(external=External(url="postgresql://127.0.0.1", connection="pg_admin"))}
    house = replace(house, config=house.config.model_copy(update={"services": nowhere}))
    with pytest.raises(PlacementDenied, match="its place is not declared"):
        house.database("feast_online")


def test_r1_the_check_of_the_configuration_asks_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_aws(platform(), "postgresql", tmp_path)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["config", "check"])
    assert done.exit_code and "the ultimate owner of operator aws" in str(done.exception)


def test_a_model_has_its_datas_classification_until_the_ledger_attests_a_lower_one() -> None:
    house, spec = platform(), pipelines.named("hotel_bookings")
    assert house.classification(spec, "model") == "personal"
    record = house.lower(spec, "model", "internal", "trees hold thresholds of closed columns only", "dpo")

    def declared(evidence: int) -> pipeline.Pipeline:
        step = pipeline.Lowered(to="internal", evidence=evidence)
        return spec.model_copy(update={"lowered": {"model": step}})

    assert house.classification(declared(record.seq), "model") == "internal"
    with pytest.raises(PlacementDenied, match="does not attest"):
        house.classification(declared(record.seq + 1), "model")
