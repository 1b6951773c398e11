"""What may be read from where: a rule of its own, and no permission to write."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rempart.settings.config import Config
from rempart.sovereignty import egress
from rempart.sovereignty.places import (
    decide_connection,
    decide_host,
    decide_origin,
    decide_origin_connection,
    decide_origin_host,
    decide_site,
)
from tests.unit.sovereignty import test_egress
from tests.unit.sovereignty.test_policy import ABROAD, BASE, TODAY, rules

ORIGINS: dict[str, Any] = {
    "shared": {"operator": "owned-abroad", "region": "here", "connection": "s3_shared"},
    "weather": {**ABROAD, "hosts": ["*.weather.example", "api.example.eu:8443"], "connection": "weather_key"},
}


def reading(rule: dict[str, Any] | None, *, allowed: tuple[str, ...] = ()) -> Config:
    policy = {**BASE["policy"]["personal"], **({"origins": rule} if rule else {})}
    hosts = {host: {"operator": "eu", "service": "api", "region": "here"} for host in allowed}
    changed = {"origins": ORIGINS, "hosts": hosts, "policy": {**BASE["policy"], "personal": policy}}
    return Config.model_validate({**BASE, **changed})


WIDE = {"jurisdictions": ["EU"], "owner_jurisdictions": ["US"]}


def test_what_may_be_read_from_where_is_a_rule_of_its_own() -> None:
    for rule, against in (
        (None, ["policy.personal.owner_jurisdictions"]),
        (WIDE, []),
        ({**WIDE, "operators": ["owned-abroad"]}, []),
        ({**WIDE, "operators": ["eu"]}, ["policy.personal.origins.operators"]),
        ({**WIDE, "owner_jurisdictions": []}, ["policy.personal.origins.owner_jurisdictions"]),
    ):
        config = reading(rule)
        for decision in (
            decide_origin(config, "personal", "shared", on=TODAY),
            decide_origin_host(config, "personal", "north.weather.example", 443, on=TODAY),
            decide_origin_connection(config, "personal", "weather_key", on=TODAY),
        ):
            assert (decision.what, rules(decision)) == ("origin", against)
        # reading there is no permission to write there
        assert rules(decide_connection(config, "personal", "s3_shared", on=TODAY)) == ["platform"]
        assert not decide_host(config, "personal", "north.weather.example", 443, on=TODAY).allowed
        assert not decide_site(config, "personal", "data", "shared", on=TODAY).allowed


def test_a_place_that_may_also_be_written_to_needs_both_rules() -> None:
    host = "api.partner.example"
    assert decide_origin_host(reading(None, allowed=(host,)), "personal", host, 443, on=TODAY).allowed
    only_abroad = reading({**WIDE, "operators": ["owned-abroad"]}, allowed=(host,))
    assert rules(decide_origin_host(only_abroad, "personal", host, 443, on=TODAY))[0] == (
        "policy.personal.origins.operators"
    )
    assert decide_origin(reading(None), "personal", "home", on=TODAY).allowed


def test_an_origin_that_is_not_declared_is_denied() -> None:
    config = reading(WIDE)
    for decision in (
        decide_origin(config, "personal", "nowhere", on=TODAY),
        decide_origin_host(config, "personal", "nowhere.example", 443, on=TODAY),
        decide_origin_host(config, "personal", "api.example.eu", 443, on=TODAY),  # another port
        decide_origin_connection(config, "personal", "nowhere", on=TODAY),
        decide_origin(config, "sensitive", "shared", on=TODAY),
    ):
        assert not decision.allowed and decision.against[0].remedy
        assert "may not be read from" in decision.refusal().what


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ({"home": ORIGINS["shared"]}, "origins.home: this is a site"),
        ({"other": {**ORIGINS["shared"], "connection": "s3_home"}}, "origins.other: this is a site"),
        ({"bare": ABROAD}, "give `connection`"),
        ({"bare": {**ORIGINS["shared"], "operator": "nobody"}}, "is not one of operators"),
    ],
)
def test_an_origin_is_a_place_of_its_own(origin: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config.model_validate({**BASE, "origins": origin})


def test_an_origin_is_reached_once_the_policy_lets_data_be_read_there() -> None:
    def declare(data: dict[str, Any]) -> None:
        data["origins"] = {
            "shared": test_egress.place("foreign", "object-storage", connection="s3_shared"),
            "weather": test_egress.place("foreign", hosts=["weather.example:443"]),
        }

    def allow(data: dict[str, Any]) -> None:
        declare(data)
        data["policy"]["internal"]["origins"] = {"jurisdictions": ["EU"], "owner_jurisdictions": ["US"]}

    closed, opened = (
        egress.rules(test_egress.config(change), test_egress.ENDPOINTS, on=TODAY) for change in (declare, allow)
    )
    for host in ("weather.example", "bucket.s3.here.foreign.eu"):
        assert not egress.is_allowed(closed, host, 443)
        assert egress.is_allowed(opened, host, 443)
    found = {d.why: d for d in opened.allowed if d.why.startswith("origins.")}
    assert {d.classifications for d in found.values()} == {("internal",)}
    assert not any(d.needed_by_jobs for d in found.values())
