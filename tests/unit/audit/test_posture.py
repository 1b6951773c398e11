"""Telemetry, secrets, ports, policy and facts: each gap is found, and no secret is ever shown."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.audit import credentials, exposure, gaps, telemetry
from rempart.audit.credentials import PrivateFile
from rempart.audit.exposure import Listener, SocketFile
from rempart.audit.findings import CheckResult
from rempart.audit.knocking import Answer
from rempart.audit.telemetry import Process
from rempart.deployment.setup import credentials as stack_credentials
from rempart.settings import config, pipeline, pipelines
from rempart.settings.config import Config
from rempart.settings.telemetry import TELEMETRY_OFF

SHIPPED = config.load()
TODAY = date(2026, 11, 24)
PACKAGES = {"mlflow", "feast", "apache-airflow", "great-expectations", "onnxruntime"}


def severities(result: CheckResult) -> dict[str, str]:
    return {finding.id: finding.severity for finding in result.findings}


# --- telemetry --------------------------------------------------------------------------------------------------------


def service(environment: dict[str, str], command: tuple[str, ...] = ("python",), pid: int | None = None) -> Process:
    return Process("mlflow", command, environment, pid)


def test_the_stacks_own_switches_satisfy_the_audits_list() -> None:
    assert telemetry.check([service(TELEMETRY_OFF)], PACKAGES, (), ()).findings == ()


@pytest.mark.parametrize("switch", telemetry.SWITCHES, ids=lambda switch: switch.variable)
@pytest.mark.parametrize("value", [None, "", "on-ish"])
def test_each_switch_is_missed(switch: telemetry.Switch, value: str | None) -> None:
    environment = {key: text for key, text in TELEMETRY_OFF.items() if key != switch.variable}
    environment |= {} if value is None else {switch.variable: value}
    result = telemetry.check([service(environment, pid=7)], {switch.package}, (), ())
    assert severities(result) == {f"telemetry/{switch.package}-{switch.variable.lower()}": "high"}
    assert "mlflow (process 7)" in result.findings[0].where
    assert telemetry.check([service(environment)], {"something-else"}, (), ()).findings == ()


def test_weed_is_told_on_its_command_line() -> None:
    silent = service(TELEMETRY_OFF, ("/bin/weed", "server", "-master.telemetry=false"))
    loud = service(TELEMETRY_OFF, ("/bin/weed", "server"))
    assert telemetry.check([silent], PACKAGES, (), ()).findings == ()
    assert severities(telemetry.check([loud], PACKAGES, (), ())) == {"telemetry/weed-weed": "high"}


def test_telemetry_clients_unseen_processes_and_external_services_are_told() -> None:
    result = telemetry.check([], {"posthog"}, ["airflow-scheduler (process 3)"], ["postgresql"])
    assert severities(result) == {
        "telemetry/posthog": "medium",
        "telemetry/unseen": "low",
        "telemetry/external-postgresql": "low",
    }


# --- secrets ----------------------------------------------------------------------------------------------------------


def connection(login: str = "admin", password: str = "", **extra: Any) -> str:
    return json.dumps({"conn_type": "http", "login": login, "password": password, "extra": extra})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AIRFLOW_CONN_A": connection()}, {"passwords/airflow_conn_a": "high"}),
        ({"AIRFLOW_CONN_A": connection(password="Password1234")}, {"passwords/airflow_conn_a": "critical"}),
        ({"AIRFLOW_CONN_A": connection("joe", "Joe")}, {"passwords/airflow_conn_a": "critical"}),
        ({"AIRFLOW_CONN_A": connection(password="sunshine-2026-x")}, {"passwords/airflow_conn_a": "medium"}),
        ({"AIRFLOW_CONN_A": connection(password="aaaaaaaaaaaaaaaaaaaaaaaaaaaa")}, {"passwords/airflow_conn_a": "high"}),
        ({"AIRFLOW_CONN_A": "postgres://airflow:airflow@db/airflow"}, {"passwords/airflow_conn_a": "critical"}),
        ({"AIRFLOW_CONN_A": connection("", aws_secret_access_key="minioadmin")},
         {"passwords/airflow_conn_a-extra.aws_secret_access_key": "critical"}),
        ({"AIRFLOW_CONN_A": connection("joe", role_arn="arn:x")}, {}),
        ({"AIRFLOW_CONN_A": connection("")}, {}),
        ({"AIRFLOW_CONN_A": "{not json"}, {"passwords/airflow_conn_a": "medium"}),
        ({"AIRFLOW__API__SECRET_KEY": "temporary_key"}, {"passwords/airflow__api__secret_key": "critical"}),
        ({"REMPART_POSTGRESQL_PASSWORD": "postgres"}, {"passwords/rempart_postgresql_password": "critical"}),
        ({"REMPART_LEDGER_PUBLIC_KEY": "x", "SOME_TOKEN": "admin", "REMPART_HOME": "admin"}, {}),
    ],
)  # fmt: skip
def test_weak_secrets_are_found_by_name(variables: dict[str, str], expected: dict[str, str]) -> None:
    assert severities(credentials.check(variables, ())) == expected


@given(st.text(string.ascii_letters + string.digits + "#!", min_size=4, max_size=12))
def test_no_secret_is_ever_shown(secret: str) -> None:
    secret = f"{secret}Zq7"
    result = credentials.check(
        {
            "AIRFLOW_CONN_A": connection(secret, secret),
            "AIRFLOW_CONN_B": f"{{{secret}",
            "REMPART_X_KEY": secret,
        },
        (),
    )
    assert len(result.findings) == 3 and secret not in repr(result)
    assert secret not in repr(Process("x", (), {"A": secret}))


def test_what_the_stack_generates_is_strong() -> None:
    for _ in range(50):
        for make in (stack_credentials.new_token, stack_credentials.new_signing_key, stack_credentials.new_fernet_key):
            assert credentials.weakness(make()) is None


@given(st.text(max_size=40))
def test_repeating_a_character_adds_no_entropy(text: str) -> None:
    assert credentials.bits("a" * len(text)) == 0.0
    assert credentials.bits(text) >= 0.0


def test_files_that_others_may_read_are_found() -> None:
    files = [PrivateFile("secrets.env", 0o100600), PrivateFile("passwords.json", 0o100640)]
    assert severities(credentials.check({}, files)) == {"passwords/file-passwords.json": "high"}


# --- ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True),
     ("192.0.2.1", False), ("::", False), ("10.0.0.1", False), ("*", False), ("", False), ("localhost.evil.eu", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(address: str, local: bool) -> None:
    assert exposure.is_local(address) == local


@pytest.mark.parametrize(
    "process",
    [
        Process("postgresql", ("postgres", "-c", "listen_addresses=127.0.0.1, 192.0.2.1"), {}),
        Process("postgresql", ("postgres",), {}),
        Process("site-primary", ("weed", "server", "-ip.bind=0.0.0.0"), {}),
        Process("site-primary", ("weed", "server"), {}),
        Process("mlflow", ("python", "--host", "192.0.2.1"), {}),
        Process("airflow-api-server", ("airflow",), {}),
        Process("airflow-api-server", ("airflow",), {"AIRFLOW__API__HOST": "::"}),
        Process("airflow-scheduler", ("airflow", "scheduler"), {}),
    ],
    ids=lambda process: f"{process.service} {process.command[-1]}",
)
def test_a_service_that_would_listen_everywhere_is_found(process: Process) -> None:
    found = severities(exposure.check([process], [], {}))
    assert found == {f"ports/{process.service}-plan": "high"}


def test_listeners_are_judged_by_where_others_reach_them() -> None:
    listeners = [
        Listener("mlflow", "127.0.0.1", 5000, declared=True),
        Listener("mlflow", "192.0.2.1", 5001, declared=True),
        Listener("site-primary", "127.0.0.1", 9999, declared=False),
        Listener("site-primary", "127.0.0.1", 9998, declared=False),
    ]
    found = severities(exposure.check([], listeners, {}))
    assert found == {"ports/mlflow-5001": "high", "ports/site-primary-undeclared": "medium"}


def test_a_port_that_answers_anybody_and_a_socket_that_others_open_are_found() -> None:
    listeners = [
        Listener("mlflow", "127.0.0.1", 5000, True, Answer("HTTP 401", shut=True)),
        Listener("site-primary", "127.0.0.1", 9999, True, Answer("gRPC without TLS", shut=False)),
    ]
    sockets = [SocketFile("site-primary", "/tmp/a.sock", False), SocketFile("site-haven", "/tmp/b.sock", True)]
    result = exposure.check([], listeners, {}, sockets)
    assert severities(result) == {"ports/site-primary-9999-open": "high", "ports/site-haven-socket": "medium"}
    assert "2 listening ports, 2 of them contacted" in result.looked_at


@pytest.mark.parametrize(
    ("part", "protocol"),
    [("primary", "http"), ("primary master", "certificate"), ("mlflow", "http"), ("postgresql", "postgresql")],
)
def test_each_declared_port_is_asked_in_its_own_way(part: str, protocol: str) -> None:
    assert exposure.guard_of(part)[0] == protocol


def test_traffic_in_clear_is_found_unless_it_stays_here() -> None:
    endpoints = {"a": "http://s3.example.eu", "b": "https://s3.example.eu", "c": "http://127.0.0.1:1", "d": "db:5432"}
    assert severities(exposure.check([], [], endpoints)) == {"ports/clear-a": "high"}


def test_a_stack_that_does_not_run_is_told() -> None:
    assert severities(exposure.check([], None, {})) == {"ports/not-running": "info"}


# --- policy and facts -------------------------------------------------------------------------------------------------


def changed(**sections: Any) -> Config:
    return Config.model_validate(SHIPPED.model_dump() | sections)


def with_operators(**facts: dict[str, Any]) -> Config:
    operators = SHIPPED.model_dump()["operators"]
    return changed(
        operators={name: {**entry, **facts.get(name.replace("-", "_"), {})} for name, entry in operators.items()}
    )


def hotel() -> pipeline.Pipeline:
    found = pipelines.named("hotel_bookings")
    assert isinstance(found, pipeline.Pipeline)
    return found


def policy(configuration: Config, **pipelines: pipeline.Pipeline | None) -> dict[str, str]:
    return severities(gaps.check_policy(configuration, pipelines, TODAY))


def independent() -> Config:
    """The shipped configuration with the second site on infrastructure of its own."""
    services = {"object-storage": {"runs_on": ["trial-two"]}}
    return with_operators(trial_two={"services": services})


def test_as_shipped_the_one_machine_and_the_lack_of_a_place_for_sensitive_data_are_told() -> None:
    assert policy(SHIPPED, hotel_bookings=hotel()) == {
        "policy/one-infrastructure": "medium",
        "policy/no-place-sensitive": "info",
    }


@pytest.mark.parametrize(
    ("offered", "user", "told"),
    [
        ({"kind": "session", "role": "arn:aws:iam::1:role/jobs"}, "attempt", {}),
        (None, "attempt", {"policy/no-job-credentials": "medium"}),
        ({"kind": "connection", "connection": "s3_jobs"}, "attempt", {"policy/wide-job-credentials": "low"}),
        (
            {"kind": "platform"},
            "platform",
            {"policy/wide-job-credentials": "medium", "policy/wide-tracking-user": "medium"},
        ),
    ],
)
def test_what_jobs_in_pools_reach_beside_their_own_data_is_told(
    offered: dict[str, str] | None, user: str, told: dict[str, str]
) -> None:
    shipped = SHIPPED.model_dump()
    sites = {**shipped["sites"], "primary": shipped["sites"]["primary"] | {"job_credentials": offered}}
    pool = {
        "operator": "trial-one",
        "service": "object-storage",
        "region": "local-1",
        "kubernetes_connection": "k8s_a",
        "namespace": "training",
    }
    training = {"backend": "kubernetes", "image": f"r.test/i@sha256:{'0' * 64}", "tracking_user": user}
    found = policy(changed(sites=sites, gpu_pools={"a": pool}, training=training))
    assert {name: weight for name, weight in found.items() if "job-cred" in name or "tracking" in name} == told


def test_a_classification_without_rule_or_retention_is_told() -> None:
    rules = {name: rule for name, rule in SHIPPED.model_dump()["policy"].items() if name != "public"}
    kept = {name: rule for name, rule in SHIPPED.model_dump()["retention"].items() if name != "personal"}
    found = policy(changed(policy=rules, retention=kept))
    assert found["policy/no-rule-public"] == "low" and found["policy/no-retention-personal"] == "medium"


def test_a_pipeline_whose_data_copy_or_restore_points_are_refused_is_told() -> None:
    sensitive = hotel().model_copy(update={"classification": "sensitive"})
    found = policy(SHIPPED, hotel_bookings=sensitive)
    assert {name for name in found if name.startswith("policy/denied")} == {
        "policy/denied-hotel_bookings-data",
        "policy/denied-hotel_bookings-replica-haven",
        "policy/denied-hotel_bookings-restore-point",
        *(f"policy/denied-hotel_bookings-{what}" for what in ("database", "tracking", "orchestration")),
    }


def test_a_pipeline_that_cannot_be_read_is_told() -> None:
    assert policy(SHIPPED, broken=None)["policy/invalid-broken"] == "medium"


def test_independence_that_is_asked_for_and_not_there_is_high() -> None:
    rules = SHIPPED.model_dump()["policy"]
    rules["personal"]["independent"] = ["restore-point"]
    assert policy(changed(policy=rules))["policy/no-independent-site"] == "high"


def test_independence_that_nobody_asks_for_is_told_and_then_quiet() -> None:
    loose = independent()
    assert "policy/independence-not-asked" in policy(loose)
    sites = loose.model_dump()["sites"]
    sites["haven"]["independent_of"] = "primary"
    bound = Config.model_validate(loose.model_dump() | {"sites": sites})
    assert not {name for name in policy(bound) if "independen" in name or "infrastructure" in name}


def facts(configuration: Config, overridden: dict[str, Any], shipped: set[str] | None = None) -> dict[str, str]:
    return severities(gaps.check_facts(configuration, overridden, shipped or set(), TODAY))


SOURCED = {"source": "https://example.eu/legal", "as_of": date(2026, 6, 1)}


def test_own_entries_without_source_are_told_and_overrides_of_shipped_facts_more_loudly() -> None:
    found = facts(SHIPPED, {"trial-one": {}, "trial-two": {}, "this-machine": {}}, {"trial-one"})
    assert found == {
        "facts/no-source-trial-one": "medium",
        "facts/no-source-trial-two": "low",
        "facts/no-source-this-machine": "low",
    }


def test_facts_with_source_and_date_are_quiet_until_they_are_old() -> None:
    every = dict.fromkeys(("trial_one", "trial_two", "this_machine"), SOURCED)
    overridden = dict.fromkeys(("trial-one", "trial-two", "this-machine"), SOURCED)
    assert facts(with_operators(**every), overridden) == {}
    every["trial_one"] = SOURCED | {"as_of": date(2024, 6, 1)}
    assert facts(with_operators(**every), overridden) == {"facts/stale-trial-one": "medium"}


def test_facts_in_doubt_are_told_with_their_note() -> None:
    configuration = with_operators(trial_one={"jurisdiction": {"value": "FR", "certain": False, "note": "seat moved"}})
    result = gaps.check_facts(configuration, {}, (), TODAY)
    doubt = next(finding for finding in result.findings if finding.id == "facts/uncertain-trial-one")
    assert "jurisdiction (seat moved)" in doubt.what and replace(doubt).severity == "low"


def test_in_containers_addresses_tell_nothing_and_what_leaves_them_in_clear_is_told() -> None:
    endpoints = {"s3_primary": "http://primary:18333", "mlflow": "http://mlflow:15000", "s3_far": "http://s3.example"}
    result = exposure.check_in_container(endpoints, {"primary", "mlflow"})
    assert severities(result) == {"ports/clear-s3_far": "high", "ports/in-containers": "info"}
    assert "2 of them" in result.looked_at
