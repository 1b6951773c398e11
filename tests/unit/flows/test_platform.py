"""The platform opens a site only with a permission, and every decision is evidence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rempart import config, pipeline
from rempart.config import Connection
from rempart.errors import PlacementDenied
from rempart.flows.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.sites.memory import MemorySite

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


def test_a_model_has_its_datas_classification_until_the_ledger_attests_a_lower_one() -> None:
    house, spec = platform(), pipeline.named("hotel_bookings")
    assert house.classification(spec, "model") == "personal"
    record = house.lower(spec, "model", "internal", "trees hold thresholds of closed columns only", "dpo")

    def declared(evidence: int) -> pipeline.Pipeline:
        step = pipeline.Lowered(to="internal", evidence=evidence)
        return spec.model_copy(update={"lowered": {"model": step}})

    assert house.classification(declared(record.seq), "model") == "internal"
    with pytest.raises(PlacementDenied, match="does not attest"):
        house.classification(declared(record.seq + 1), "model")
