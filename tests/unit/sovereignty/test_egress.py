"""The allow-list: hosts that the policy allows or refuses, with reasons; a restriction only removes hosts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import ConfigError, ConnectionMissing
from rempart.settings.config import Config, Connection
from rempart.sovereignty.egress import (
    Destination,
    EgressRules,
    decision_against,
    endpoint_of,
    endpoints,
    is_allowed,
    is_this_machine,
    matches,
    normalise,
    parse_endpoint,
    rules,
)

TODAY = date(2026, 11, 24)


def operator(seat: str, owner: str, name: str) -> dict[str, Any]:
    service = {"runs_on": name, "qualifications": ["ISO-27001"], "subprocessors": []}
    return {
        "jurisdiction": seat,
        "owner_jurisdiction": owner,
        "regions": {"here": {"country": seat}},
        "services": {
            "object-storage": {**service, "endpoints": [f"https://s3.{{region}}.{name}.eu"]},
            "managed-kubernetes": {**service, "endpoints": [f"https://k8s.{{region}}.{name}.eu:6443"]},
            "container-registry": service,
            "api": service,
        },
    }


def place(of: str, service: str = "api", **more: Any) -> dict[str, Any]:
    return {"operator": of, "service": service, "region": "here", **more}


BASE: dict[str, Any] = {
    "operators": {"good": operator("FR", "FR", "good"), "foreign": operator("FR", "US", "foreign")},
    "sites": {
        "home": place("good", "object-storage", connection="s3_home"),
        "away": place("foreign", "object-storage", connection="s3_away"),
    },
    "active_site": "home",
    "policy": {
        "internal": {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]},
        "personal": {"jurisdictions": ["FR"], "owner_jurisdictions": ["FR"], "qualifications": ["ISO-27001"]},
    },
    "registries": {"registry.good.eu/team": place("good", "container-registry")},
    "connections": {
        "warehouse": place("good", hosts=["db.good.eu:5432"]),
        "crm": place("foreign", hosts=["crm.foreign.eu:443"]),
    },
    "hosts": {
        "api.good.eu:443": place("good"),
        "*.tools.good.eu": place("good"),
        "192.0.2.7:8443": place("good"),
        "[2001:db8::7]:8443": place("good"),
        "api.foreign.eu:443": place("foreign"),
    },
    "gpu_pools": {"gpu": place("good", "managed-kubernetes", kubernetes_connection="k8s_gpu", namespace="training")},
    "machine": place("good"),
    "services": {
        "mlflow": {"external": {"url": "https://mlflow.team.eu", "connection": "mlflow", **place("good")}},
        "postgresql": {"external": {"url": "postgresql://db.team.eu:5432", "connection": "pg_admin", **place("good")}},
    },
    "retention": {},
    "backup": {"site": "home"},
}
ENDPOINTS = {"s3_home": "https://s3.here.good.eu", "pg_ledger": "db.team.eu:5432", "k8s_gpu": "https://10.0.0.1:6443"}


def config(change: Callable[[dict[str, Any]], None] = lambda data: None) -> Config:
    data = copy.deepcopy(BASE)
    change(data)
    return Config.model_validate(data)


def listed(data: Config | None = None, known: dict[str, str] = ENDPOINTS) -> EgressRules:
    return rules(data or config(), known, on=TODAY, own=[Destination("queue.team.eu", 5671, "own")])


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("s3.here.good.eu", 443, True),
        ("bucket.s3.here.good.eu", 443, True),  # a virtual-hosted bucket
        ("a.b.s3.here.good.eu", 443, True),
        ("S3.here.GOOD.eu.", 443, True),
        ("evil-s3.here.good.eu", 443, False),
        ("s3.here.good.eu.evil.example", 443, False),
        ("s3.here.good.eu", 22, False),
        ("s3.here.good.eu", None, True),  # a look-up has no port yet
        ("s3.here.foreign.eu", 443, False),
        ("db.good.eu", 5432, True),
        ("db.good.eu", 5433, False),
        ("below.db.good.eu", 5432, False),  # only a site's buckets and patterns have names below
        ("crm.foreign.eu", 443, False),
        ("api.good.eu", 443, True),
        ("x.tools.good.eu", 9999, True),
        ("tools.good.eu", 1, True),
        ("xtools.good.eu", 1, False),
        ("192.0.2.7", 8443, True),
        ("::ffff:192.0.2.7", 8443, True),
        ("192.0.2.8", 8443, False),
        ("2001:db8:0:0::7", 8443, True),
        ("10.0.0.1", 6443, True),
        ("k8s.here.good.eu", 6443, False),  # the connection says where the pool is
        ("mlflow.team.eu", 443, True),
        ("db.team.eu", 5432, True),
        ("queue.team.eu", 5671, True),
        ("registry.good.eu", 443, False),  # nodes pull images, tasks do not
        ("", 80, True),
        ("127.0.0.1", 80, True),
        ("127.8.8.8", 80, True),
        ("::1", 80, True),
        ("localhost", 80, True),
        ("localhost.evil.example", 80, False),
    ],
)
def test_what_may_be_reached(host: str, port: int | None, allowed: bool) -> None:
    assert is_allowed(listed(), host, port) is allowed


def test_each_destination_names_its_entry_and_whom_it_is_allowed_for() -> None:
    found = {destination.why: destination for destination in listed().allowed}
    assert found["sites.home"].classifications == ("internal", "personal")
    assert found["own"].classifications == ()  # Airflow's settings name it
    # two entries name one server: it is listed once
    assert found["connection pg_ledger, the platform's own"].classifications == ("internal", "personal")
    assert found["hosts.192.0.2.7:8443"].port == 8443


def test_an_origin_is_reached_once_the_policy_lets_data_be_read_there() -> None:
    def declare(data: dict[str, Any]) -> None:
        data["origins"] = {
            "shared": place("foreign", "object-storage", connection="s3_shared"),
            "weather": place("foreign", hosts=["weather.example:443"]),
        }

    def allow(data: dict[str, Any]) -> None:
        declare(data)
        data["policy"]["internal"]["origins"] = {"jurisdictions": ["EU"], "owner_jurisdictions": ["US"]}

    closed, opened = (rules(config(change), ENDPOINTS, on=TODAY) for change in (declare, allow))
    for host in ("weather.example", "bucket.s3.here.foreign.eu"):
        assert not is_allowed(closed, host, 443)
        assert is_allowed(opened, host, 443)
    found = {d.why: d for d in opened.allowed if d.why.startswith("origins.")}
    assert {d.classifications for d in found.values()} == {("internal",)}
    assert not any(d.needed_by_jobs for d in found.values())


def test_what_the_policy_refuses_is_listed_with_every_decision() -> None:
    found = listed()
    assert {refusal.destination.why for refusal in found.refusals} == {
        "sites.away",
        "connections.crm",
        "hosts.api.foreign.eu:443",
    }
    assert {decision.classification for decision in found.refused} == {"internal", "personal"}
    assert all(reason.remedy for decision in found.refused for reason in decision.against)


def test_without_a_connection_the_catalogue_says_where_a_place_is() -> None:
    found = listed(known={})
    assert is_allowed(found, "s3.here.good.eu", 443)
    assert is_allowed(found, "k8s.here.good.eu", 6443)
    assert not is_allowed(listed(config(lambda data: data["services"].pop("postgresql")), {}), "db.team.eu", 5432)


def test_a_connection_that_leads_elsewhere_than_its_operator_is_refused() -> None:
    found = listed(known={"s3_home": "https://s3.elsewhere.example"})
    assert not is_allowed(found, "s3.elsewhere.example", 443)
    assert not is_allowed(found, "s3.here.good.eu", 443)
    against = decision_against(config(), found, "s3.elsewhere.example", 443, on=TODAY)
    assert "is not an endpoint of good/object-storage" in against.against[0].fact


@pytest.mark.parametrize(
    ("external", "connection", "fact"),
    [
        ({"url": "postgresql://db.team.eu:5432", **place("foreign")}, "db.team.eu", "owner of operator foreign"),
        ({"url": "postgresql://db.team.eu:5432", **place("good")}, "db.elsewhere.example", "its connection leads to"),
        (None, "db.elsewhere.example", "its connection leads to"),
    ],
    ids=["a-hyperscaler", "another-host-than-declared", "nobody-declared-one"],
)
def test_r1_a_database_is_refused_where_the_policy_does_not_allow_it(
    external: dict[str, Any] | None, connection: str, fact: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        declared = {"external": external | {"connection": "pg_admin"}} if external else {}
        data["services"] = {"postgresql": declared}

    found = listed(config(change), {"pg_feast_online": f"{connection}:5432"})
    assert not is_allowed(found, connection, 5432)
    assert any(fact in reason.fact for decision in found.refused for reason in decision.against)


def test_r1_a_container_beside_this_one_is_the_declared_machine() -> None:
    found = listed(config(lambda data: data.update(services={})), {"pg_ledger": "postgres:15432"})
    assert is_allowed(found, "postgres", 15432)

    def abroad(data: dict[str, Any]) -> None:
        data.update(services={}, machine=place("foreign"))

    assert not is_allowed(listed(config(abroad), {"pg_ledger": "postgres:15432"}), "postgres", 15432)


def test_registries_stand_apart_for_the_nodes_that_pull() -> None:
    assert [str(pull) for pull in listed().pulls] == ["registry.good.eu:443"]


def test_loopback_stands_in_no_list() -> None:
    def local(data: dict[str, Any]) -> None:
        data["operators"]["good"]["services"]["object-storage"]["endpoints"] = "http://127.0.0.1"

    found = listed(config(local), {"s3_home": "http://127.0.0.1:8333", "pg_ledger": "127.0.0.1:5432"})
    assert {destination.why for destination in found.allowed}.isdisjoint(
        {"sites.home", "connection pg_ledger, the platform's own"}
    )


@pytest.mark.parametrize(
    ("host", "port", "rule", "fact"),
    [
        ("evil.example", 443, "hosts", "'evil.example' belongs to no declared"),
        ("api.good.eu", 8080, "hosts", "allows 'api.good.eu' on port 443 only"),
        ("api.foreign.eu", 443, "policy.internal.owner_jurisdictions", "the ultimate owner of operator foreign is US"),
        ("registry.good.eu", 443, "hosts", "not an endpoint of a connection"),
    ],
)
def test_a_refusal_names_rule_fact_and_remedy(host: str, port: int, rule: str, fact: str) -> None:
    decision = decision_against(config(), listed(), host, port, on=TODAY)
    assert not decision.allowed
    assert decision.against[0].rule == rule
    assert fact in decision.against[0].fact
    assert decision.against[0].remedy


# --- properties -------------------------------------------------------------------------------------------------------

NAMES = (
    *("s3.here.good.eu", "b.s3.here.good.eu", "s3.here.foreign.eu", "db.good.eu", "crm.foreign.eu", "api.good.eu"),
    *("x.tools.good.eu", "192.0.2.7", "10.0.0.1", "api.foreign.eu", "mlflow.team.eu", "registry.good.eu"),
    "example.org",
)
HOSTS = st.sampled_from(NAMES)
PORTS = st.sampled_from([None, 22, 443, 5432, 6443, 8443])


def _drop(section: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[section].pop(key, None)


def _rule(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for rule in data["policy"].values():
            rule[key] = value

    return change


def _uncertain(data: dict[str, Any]) -> None:
    data["operators"]["good"] |= {"certain": False, "note": "not published"}


RESTRICTIONS: list[Callable[[dict[str, Any]], None]] = [
    _rule("jurisdictions", []),
    _rule("owner_jurisdictions", ["DE"]),
    _rule("qualifications", ["ISO-27001", "SecNumCloud-3.2"]),
    _rule("technology_origins", ["EU"]),
    _rule("subprocessor_jurisdictions", ["EU"]),
    _uncertain,
    _drop("policy", "internal"),
    _drop("policy", "personal"),
    _drop("hosts", "api.good.eu:443"),
    _drop("hosts", "*.tools.good.eu"),
    _drop("connections", "warehouse"),
    _drop("registries", "registry.good.eu/team"),
    _drop("gpu_pools", "gpu"),
    _drop("services", "mlflow"),
]


@given(st.lists(st.sampled_from(RESTRICTIONS), max_size=3), st.sampled_from(RESTRICTIONS), HOSTS, PORTS)
@settings(max_examples=300)
def test_a_restriction_never_allows_more(
    before: list[Callable[[dict[str, Any]], None]],
    further: Callable[[dict[str, Any]], None],
    host: str,
    port: int | None,
) -> None:
    def some(data: dict[str, Any]) -> None:
        for change in before:
            change(data)

    def more(data: dict[str, Any]) -> None:
        some(data)
        further(data)

    if is_allowed(listed(config(more)), host, port):
        assert is_allowed(listed(config(some)), host, port)


@given(st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True), st.none() | st.integers(1, 65535))
@settings(max_examples=300)
def test_an_unknown_host_is_never_allowed(name: str, port: int | None) -> None:
    assert not is_allowed(listed(), f"{name}.unknown.example", port)
    assert not is_allowed(listed(), f"unknown-{name}", port)


@given(st.ip_addresses(), st.none() | st.integers(1, 65535))
@settings(max_examples=300)
def test_an_unknown_address_is_never_allowed(address: Any, port: int | None) -> None:
    declared = {"192.0.2.7", "10.0.0.1", "2001:db8::7"}
    if not is_this_machine(str(address)) and normalise(str(address)) not in declared:
        assert not is_allowed(listed(), str(address), port)


@given(st.text(max_size=40))
def test_any_text_can_be_asked(host: str) -> None:
    assert isinstance(is_allowed(listed(), host, 1), bool)


# --- endpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://s3.eu", ("s3.eu", 443)),
        ("http://s3.eu:8333/path", ("s3.eu", 8333)),
        ("postgresql+psycopg://u:p%40@db:6432/x", ("db", 6432)),
        ("db+postgresql://u:p@db/x", ("db", 5432)),
        ("sqlite:////tmp/x.db", ("", None)),
        ("db.eu:5432", ("db.eu", 5432)),
        ("db.eu", ("db.eu", None)),
        ("[2001:db8::1]:5432", ("2001:db8::1", 5432)),
    ],
)
def test_an_endpoint_is_read(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_endpoint(text) == expected


KUBE_CONFIG = {
    "current-context": "b",
    "contexts": [{"name": "a", "context": {"cluster": "one"}}, {"name": "b", "context": {"cluster": "two"}}],
    "clusters": [
        {"name": "one", "cluster": {"server": "https://one.eu"}},
        {"name": "two", "cluster": {"server": "https://two.eu:6443"}},
    ],
}


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (Connection("s", "aws", extra={"endpoint_url": "https://s3.eu"}), "https://s3.eu"),
        (Connection("p", "postgres", "db.eu", 6432), "db.eu:6432"),
        (Connection("p", "postgres", "db.eu", schema="http"), "db.eu:5432"),
        (Connection("m", "http", "mlflow.eu", schema="https"), "mlflow.eu:443"),
        (Connection("m", "http", "https://mlflow.eu"), "https://mlflow.eu"),
        (Connection("6", "postgres", "2001:db8::1"), "[2001:db8::1]:5432"),
        (Connection("k", "kubernetes", extra={"kube_config": KUBE_CONFIG}), "https://two.eu:6443"),
        (Connection("k", "kubernetes", extra={"kube_config": json.dumps(KUBE_CONFIG)}), "https://two.eu:6443"),
        (Connection("key", "generic", password="x"), None),
    ],
)
def test_a_connection_leads_somewhere(connection: Connection, expected: str | None) -> None:
    assert endpoint_of(connection) == expected


@pytest.mark.parametrize("text", ["a: [", "just text", "{}", '{"clusters": [{"name": "one"}], "token": "hunter2"}'])
def test_a_broken_kubeconfig_is_named_without_its_content(text: str) -> None:
    with pytest.raises(ConfigError, match="connection 'k8s'") as caught:
        endpoint_of(Connection("k8s", "kubernetes", extra={"kube_config": text}))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_connections_that_do_not_resolve_are_left_out() -> None:
    def resolve(name: str) -> Connection:
        if name != "pg_ledger":
            raise ConnectionMissing("no", "no")
        return Connection(name, "postgres", "db.eu")

    assert endpoints(config(), resolve) == {"pg_ledger": "db.eu:5432"}


def test_a_pattern_covers_its_own_name_and_all_below() -> None:
    pattern = Destination("*.example.eu", None, "x")
    assert [matches(pattern, host, 1) for host in ("example.eu", "a.example.eu", "a.b.example.eu", "aexample.eu")] == [
        True,
        True,
        True,
        False,
    ]
