"""The policy: every condition must be met, each answer has its reasons, and an unknown is denied."""

from __future__ import annotations

import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.errors import PlacementDenied
from rempart.settings.config import Config, load
from rempart.sovereignty.classification import ORDER, Lowering, derived, highest
from rempart.sovereignty.jurisdictions import EEA, EU, covers
from rempart.sovereignty.places import (
    decide_connection,
    decide_host,
    decide_image,
    decide_origin,
    decide_origin_connection,
    decide_origin_host,
    decide_pool,
    decide_server,
    decide_site,
    declared_connections,
    overview,
    platform_connections,
    rewrite_image,
)
from rempart.sovereignty.policy import Decision, Placement, decide, is_host_of

TODAY = date(2026, 11, 24)
S3 = "object-storage"


def operator(seat: str, owner: str, runs_on: str | list[str], **service: Any) -> dict[str, Any]:
    """One operator with a region in its own country and one in Canada."""
    services = {S3: {"runs_on": runs_on, "endpoints": ["https://s3.{region}.example.eu"], **service}}
    services |= {name: {"runs_on": runs_on} for name in ("managed-kubernetes", "container-registry", "api")}
    regions = {"here": {"country": seat}, "abroad": {"country": "CA"}}
    return {"jurisdiction": seat, "owner_jurisdiction": owner, "regions": regions, "services": services}


ABROAD = {"operator": "owned-abroad", "service": "api", "region": "here"}
BASE: dict[str, Any] = {
    "operators": {
        "eu": operator(
            "FR",
            "DE",
            "eu",
            qualifications=["SecNumCloud-3.2", {"name": "HDS", "valid_until": "2026-01-31"}],
            technology=[{"name": "Ceph", "origin": "open"}],
            subprocessors=[],
        ),
        "other": operator("DE", "DE", "other", technology=[{"name": "Stack", "origin": "CN"}]),
        "owned-abroad": operator("FR", "US", "owned-abroad"),
        "reseller": operator("FR", "FR", ["reseller", "owned-abroad"]),
        "tenant": operator("FR", "FR", "eu"),
        "vague": operator("FR", "FR", "vague", certain=False, note="who runs it is not published"),
    },
    "sites": {
        "home": {"operator": "eu", "region": "here", "connection": "s3_home"},
        "apart": {"operator": "other", "region": "here", "connection": "s3_apart", "independent_of": "home"},
        "tenant": {"operator": "tenant", "region": "here", "connection": "s3_tenant", "independent_of": "home"},
        "away": {"operator": "owned-abroad", "region": "here", "connection": "s3_away"},
        "canada": {"operator": "eu", "region": "abroad", "connection": "s3_canada"},
    },
    "active_site": "home",
    "machine": {"operator": "eu", "service": "api", "region": "here"},
    "services": {
        "mlflow": {"external": {"url": "https://m.example.com", "connection": "mlflow", **ABROAD}},
    },
    "policy": {
        "public": {"jurisdictions": [], "owner_jurisdictions": []},
        "personal": {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"], "independent": ["replica"]},
        "sensitive": {
            "jurisdictions": ["FR"],
            "owner_jurisdictions": ["FR", "DE"],
            "qualifications": ["SecNumCloud-3.2"],
            "technology_origins": ["EU"],
            "subprocessor_jurisdictions": ["EU"],
        },
    },
    "registries": {
        "registry.example.eu/team": {"operator": "eu", "region": "here", "mirror_of": ["docker.io"]},
        "registry.example.com": {"operator": "owned-abroad", "region": "here"},
    },
    "connections": {
        "warehouse": {"operator": "eu", "service": "api", "region": "here", "hosts": ["db.example.eu:5432"]}
    },
    "hosts": {
        "*.partner.example.eu": {"operator": "eu", "service": "api", "region": "here"},
        "api.example.com:443": {"operator": "owned-abroad", "service": "api", "region": "here"},
    },
    "gpu_pools": {
        "gpu": {"operator": "other", "region": "here", "kubernetes_connection": "k8s", "namespace": "training"}
    },
    "retention": {},
    "backup": {"site": "apart"},
}
CONFIG = Config.model_validate(BASE)


def rules(decision: Decision) -> list[str]:
    return [reason.rule for reason in decision.against]


def at(operator: str, region: str = "here", service: str = S3, host: str | None = None) -> Placement:
    return Placement("a place", operator, service, region, host)


def test_a_place_that_meets_every_rule_is_allowed_with_every_fact() -> None:
    decision = decide_site(CONFIG, "sensitive", "data", "home", on=TODAY)
    assert decision.allowed
    assert {reason.rule.rpartition(".")[2] for reason in decision.in_favour} == {
        "jurisdictions",
        "owner_jurisdictions",
        "technology_origins",
        "subprocessor_jurisdictions",
        "qualifications",
    }


@pytest.mark.parametrize(
    ("classification", "placement", "rule", "fact"),
    [
        ("personal", at("owned-abroad"), "policy.personal.owner_jurisdictions", "owned-abroad is US"),
        ("personal", at("reseller"), "policy.personal.owner_jurisdictions", "infrastructure operator owned-abroad"),
        ("personal", at("eu", "abroad"), "policy.personal.jurisdictions", "region abroad is CA"),
        ("sensitive", at("other"), "policy.sensitive.technology_origins", "Stack is CN"),
        ("sensitive", at("tenant"), "policy.sensitive.technology_origins", "the catalogue does not say"),
        ("sensitive", at("tenant"), "policy.sensitive.subprocessor_jurisdictions", "does not list"),
        ("sensitive", at("tenant"), "policy.sensitive.qualifications", "must hold SecNumCloud-3.2"),
        ("personal", at("vague"), "operators.vague", "who runs it is not published"),
        ("public", at("eu"), "policy.public.jurisdictions", "allowed: none"),
        ("internal", at("eu"), "policy.internal", "not declared"),
        ("secret", at("eu"), "policy.secret", "not declared"),
        ("personal", at("nobody"), "operators", "operator 'nobody' is not in the catalogue"),
        ("personal", at("eu", "nowhere"), "operators.eu.regions", "region 'nowhere'"),
        ("personal", at("eu", service="tape"), "operators.eu.services", "no service 'tape'"),
        ("personal", at("eu", host="s3.example.com"), f"operators.eu.services.{S3}.endpoints", "not an endpoint"),
        ("personal", at("eu", host=""), f"operators.eu.services.{S3}.endpoints", "not an endpoint"),
    ],
)
def test_a_condition_that_is_not_met_denies_and_is_named(
    classification: str, placement: Placement, rule: str, fact: str
) -> None:
    decision = decide(CONFIG, classification, "data", placement, on=TODAY)
    assert not decision.allowed
    found = next(reason for reason in decision.against if reason.rule == rule and fact in reason.fact)
    assert found.remedy
    with pytest.raises(PlacementDenied) as error:
        raise decision.refusal()
    assert rule in error.value.what
    assert found.remedy in error.value.hint
    assert rule in decision.explain()


def test_a_bucket_in_the_host_name_is_still_the_services_endpoint() -> None:
    assert decide(CONFIG, "personal", "data", at("eu", host="lake.s3.here.example.eu"), on=TODAY).allowed
    assert not decide(CONFIG, "personal", "data", at("eu", host="evils3.here.example.eu"), on=TODAY).allowed
    assert not is_host_of("1.10.0.0.1", "10.0.0.1")


def qualified(wanted: str, held: Any, on: date = TODAY) -> bool:
    base = copy.deepcopy(BASE)
    base["operators"]["eu"]["services"][S3]["qualifications"] = [held]
    base["policy"]["personal"]["qualifications"] = [wanted]
    return decide_site(Config.model_validate(base), "personal", "data", "home", on=on).allowed


@pytest.mark.parametrize(
    ("wanted", "held", "holds"),
    [
        ("SecNumCloud-3.2", "SecNumCloud-3.2", True),
        ("SecNumCloud-3.2", "SecNumCloud-3.10", True),
        ("SecNumCloud-3.2", "SecNumCloud-3.1", False),
        ("SecNumCloud-3.2", "SecNumCloud", False),
        ("SecNumCloud", "SecNumCloud-3.1", True),
        ("ISO-27001", "ISO-27001", True),
        ("ISO-27001", "ISO-27017", False),
        ("HDS", {"name": "HDS", "valid_until": "2026-11-24"}, True),
        ("HDS", {"name": "HDS", "valid_until": "2026-11-23"}, False),
        ("HDS", {"name": "HDS", "valid_from": "2026-11-25"}, False),
        ("HDS", {"name": "HDS", "regions": ["abroad"]}, False),
        ("HDS", {"name": "HDS", "certain": False, "note": "scope not published"}, False),
    ],
)
def test_qualifications_compare_by_version_validity_and_scope(wanted: str, held: Any, holds: bool) -> None:
    assert qualified(wanted, held) is holds


def test_a_replica_must_not_share_infrastructure_where_the_policy_or_the_site_says_so() -> None:
    assert decide_site(CONFIG, "personal", "replica", "apart", on=TODAY, replica_of="home").allowed
    shared = decide_site(CONFIG, "personal", "replica", "tenant", on=TODAY, replica_of="home")
    assert rules(shared) == ["policy.personal.independent", "sites.tenant.independent_of"]
    assert "both run on eu" in shared.against[0].fact
    unstated = decide_site(CONFIG, "personal", "replica", "apart", on=TODAY)
    assert rules(unstated) == ["policy.personal.independent"]


def test_what_is_not_declared_is_denied() -> None:
    for decision in (
        decide_site(CONFIG, "personal", "data", "nowhere", on=TODAY),
        decide_pool(CONFIG, "personal", "job", "nowhere", on=TODAY),
        decide_connection(CONFIG, "personal", "nowhere", on=TODAY),
        decide_host(CONFIG, "personal", "nowhere.example", 443, on=TODAY),
        decide_image(CONFIG, "personal", "ghcr.io/x/y:1", on=TODAY),
    ):
        assert not decision.allowed
        assert decision.against[0].remedy


def test_connections_hosts_and_pools_are_decided_by_where_they_lead() -> None:
    assert decide_pool(CONFIG, "personal", "job", "gpu", on=TODAY).allowed
    assert decide_connection(CONFIG, "personal", "warehouse", on=TODAY).allowed
    assert decide_connection(CONFIG, "personal", "k8s", on=TODAY).allowed
    for own in ("pg_ledger", "ledger_key", "backup_key", "s3_witness_apart"):
        assert rules(decide_connection(CONFIG, "personal", own, on=TODAY)) == ["platform"]
    assert not decide_connection(CONFIG, "personal", "s3_away", on=TODAY).allowed
    assert {"warehouse", "k8s", "s3_home"} <= declared_connections(CONFIG)
    assert not declared_connections(CONFIG) & platform_connections(CONFIG)
    for host, port, allowed in (
        ("db.example.eu", 5432, True),
        ("db.example.eu", 22, False),
        ("x.partner.example.eu", 1, True),
        ("partner.example.eu.evil.com", 1, False),
        ("api.example.com", 443, False),
        ("lake.s3.here.example.eu", 443, True),
        ("registry.example.eu", 443, True),
    ):
        assert decide_host(CONFIG, "personal", host, port, on=TODAY).allowed is allowed, host


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


def test_images_come_from_a_declared_registry_or_its_mirror() -> None:
    assert rewrite_image(CONFIG, "python:3.11") == "registry.example.eu/team/docker.io/library/python:3.11"
    assert rewrite_image(CONFIG, "registry.example.eu/team/x@sha256:0") == "registry.example.eu/team/x@sha256:0"
    assert decide_image(CONFIG, "personal", "python:3.11", on=TODAY).allowed
    assert decide_image(CONFIG, "personal", "registry.example.eu/team/x:1", on=TODAY).allowed
    assert not decide_image(CONFIG, "personal", "registry.example.eu/teammate/x:1", on=TODAY).allowed
    assert not decide_image(CONFIG, "personal", "registry.example.com/x:1", on=TODAY).allowed


def test_the_overview_tells_each_place_with_each_classification() -> None:
    found = overview(CONFIG, on=TODAY)
    told = {(d.classification, d.what, d.place): d.allowed for d in found}
    assert len(told) == len(found) == 2 + len(CONFIG.policy) * 11
    assert told["personal", "restore-point", "site 'apart'"] and told["personal", "job", "pool 'gpu'"]
    assert told["personal", "database", "server 'postgresql'"]
    assert not told["personal", "tracking", "server 'mlflow'"]
    assert not told["personal", "host", "host 'api.example.com' port 443"]
    assert not any(allowed for (classification, _, _), allowed in told.items() if classification == "public")


def test_the_union_has_its_27_members_and_neither_neighbours_nor_itself() -> None:
    assert len(EU) == 27
    assert not EU & {"GB", "CH", "NO", "US", "EU"}
    assert len(EEA) == 30


countries = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2)


@given(st.lists(countries), countries)
def test_a_country_is_covered_by_its_name_or_by_a_group_only(allowed: list[str], country: str) -> None:
    plain = [name for name in allowed if name != "EU"]
    assert covers(plain, country) == (country in plain)
    assert covers([*allowed, country], country) or country == "EU"
    assert covers(["EU"], country) == (country in EU)


some = st.lists(st.sampled_from(["EU", "EEA", "ADEQUACY", "FR", "DE", "US", "CN", "CA"]), unique=True)
policies = st.fixed_dictionaries(
    {"jurisdictions": some, "owner_jurisdictions": some},
    optional={
        "qualifications": st.lists(st.sampled_from(["SecNumCloud-3.2", "HDS", "C5"]), unique=True),
        "technology_origins": some,
        "subprocessor_jurisdictions": some,
        "independent": st.just(["replica"]),
    },
)


def restrict(rule: dict[str, Any], draw: Any) -> dict[str, Any]:
    """The same rule with one restriction more."""
    key = draw(st.sampled_from(["jurisdictions", "owner_jurisdictions", "qualifications", "technology_origins",
                                "subprocessor_jurisdictions", "independent"]))  # fmt: skip
    tighter = {**rule}
    if key == "independent":
        tighter[key] = ["replica"]
    elif key == "qualifications":
        tighter[key] = [*rule.get(key, []), "ISO-27001"]
    elif key in rule:
        tighter[key] = draw(st.lists(st.sampled_from(rule[key]), unique=True)) if rule[key] else []
    else:
        tighter[key] = draw(some)
    return tighter


@given(st.data(), policies, st.sampled_from(sorted(BASE["sites"])), st.sampled_from(["data", "replica"]))
def test_no_added_restriction_turns_a_denial_into_a_permission(data: Any, rule: Any, site: str, what: Any) -> None:
    def allowed(restrictions: dict[str, Any]) -> bool:
        config = CONFIG.model_copy(
            update={"policy": Config.model_validate({**BASE, "policy": {"personal": restrictions}}).policy}
        )
        return decide_site(config, "personal", what, site, on=TODAY, replica_of="home").allowed

    if not allowed(rule):
        assert not allowed(restrict(rule, data.draw))


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_unknown_names_are_denials_and_never_errors(classification: str, owner: str, two: str, three: str) -> None:
    known = classification in CONFIG.policy and owner in CONFIG.operators
    decision = decide(CONFIG, classification, "data", Placement("x", owner, two, three), on=TODAY)
    assert known or not decision.allowed
    assert not decide_host(CONFIG, "personal", owner, None, on=TODAY).allowed
    assert not decide_image(CONFIG, "sensitive", two, on=TODAY).allowed


def test_what_is_made_of_several_is_as_protected_as_the_most_protected() -> None:
    assert highest(["internal", "sensitive", "public"]) == "sensitive"
    assert highest([]) == "sensitive"


def test_only_a_declared_and_evidenced_step_lowers_a_classification() -> None:
    step = Lowering("model", "internal", 12)
    record = {"from": "personal", "derived": "model", "to": "internal", "because": "counts only"}
    assert derived("personal", None, None) == "personal"
    assert derived("personal", step, record) == "internal"
    assert derived("public", Lowering("model", "internal", 3), {**record, "from": "public"}) == "public"
    for wrong in (None, {}, {**record, "to": "public"}, {**record, "from": "sensitive"}, {**record, "derived": "x"}):
        with pytest.raises(PlacementDenied, match="record 12"):
            derived("personal", step, wrong)


@given(st.sampled_from(ORDER), st.sampled_from(ORDER))
def test_a_step_never_raises_a_classification(source: Any, to: Any) -> None:
    record = {"from": source, "derived": "features", "to": to}
    assert ORDER.index(derived(source, Lowering("features", to, 1), record)) <= ORDER.index(source)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        *((host, True) for host in ("mlflow", "127.0.0.1", "::1", "mlflow.airflow.svc")),
        *((host, False) for host in ("mlflow.example", "mlflow.svc", "a.b.c.svc", "mlflow.airflow.svc.eu", "10.0.0.7")),
        ("mlflow.elsewhere.svc", False),
    ],
)
def test_a_server_on_the_platforms_own_machines_is_named_as_only_they_know_it(host: str, inside: bool) -> None:
    """Any other name leads to a place that nobody declared."""
    shipped = load(Path(__file__).resolve().parents[3] / "rempart.yaml")
    assert decide_server(shipped, "internal", "mlflow", on=date(2026, 11, 24), host=host).allowed is inside
