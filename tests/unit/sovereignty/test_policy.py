"""The policy: every rule must be met, and what is unknown is denied."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.config import Config
from rempart.sovereignty.policy import EU, covers, decide

BASE: dict[str, Any] = {
    "operators": {
        "eu": {
            "jurisdiction": "FR",
            "owner_jurisdiction": "DE",
            "services": {"object-storage": {"runs_on": "eu", "qualifications": ["SecNumCloud-3.2"]}},
        },
        "owned-abroad": {
            "jurisdiction": "FR",
            "owner_jurisdiction": "US",
            "services": {"object-storage": {"runs_on": "owned-abroad"}},
        },
    },
    "sites": {
        "home": {"operator": "eu", "region": "r", "connection": "c"},
        "away": {"operator": "owned-abroad", "region": "r", "connection": "c"},
    },
    "active_site": "home",
    "policy": {
        "personal": {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]},
        "sensitive": {
            "jurisdictions": ["FR"],
            "owner_jurisdictions": ["FR", "DE"],
            "qualifications": ["SecNumCloud-3.2"],
        },
        "public": {"jurisdictions": [], "owner_jurisdictions": []},
    },
    "retention": {},
    "backup": {"site": "home"},
}


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.model_validate(BASE)


def test_a_place_that_meets_every_rule_is_allowed_with_the_facts(config: Config) -> None:
    decision = decide(config, "sensitive", "home")
    assert decision.allowed
    assert len(decision.reasons) == 3


def test_one_rule_that_is_not_met_denies_and_is_named(config: Config) -> None:
    decision = decide(config, "personal", "away")
    assert not decision.allowed
    assert decision.reasons == ("its owner is under US law; allowed: ['EU']",)
    assert len(decide(config, "sensitive", "away").reasons) == 2


@pytest.mark.parametrize(
    ("classification", "site", "reason"),
    [
        ("internal", "home", "policy.internal is not declared"),
        ("personal", "nowhere", "sites.nowhere is not declared"),
        ("public", "home", "allowed: []"),
    ],
)
def test_what_is_unknown_or_empty_is_denied(config: Config, classification: Any, site: str, reason: str) -> None:
    decision = decide(config, classification, site)
    assert not decision.allowed
    assert reason in "; ".join(decision.reasons)


def test_the_union_has_its_27_members_and_neither_neighbours_nor_itself() -> None:
    assert len(EU) == 27
    assert not EU & {"GB", "CH", "NO", "US", "EU"}


countries = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2)


@given(st.lists(countries), countries)
def test_a_country_is_covered_by_its_name_or_by_its_union_only(allowed: list[str], country: str) -> None:
    assert covers(allowed, country) == (country in allowed or ("EU" in allowed and country in EU))
    assert covers([*allowed, country], country)
    assert covers(["EU"], country) == (country in EU)
