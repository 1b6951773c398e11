"""The table of rights, from which Airflow's roles and Rempart's pages are generated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rempart.settings import access

CHANGING = {"can_create", "can_edit", "can_delete"}
OWN = {"My Password"}


@pytest.mark.parametrize("name", ["viewer", "auditor"])
def test_who_only_looks_changes_nothing_but_his_own_password(name: access.RoleName) -> None:
    changed = {resource for action, resource in access.role(name).permissions if action in CHANGING}
    assert changed == OWN


@pytest.mark.parametrize("resource", ["Connections", "Variables", "Configurations"])
@pytest.mark.parametrize("name", ["viewer", "auditor", "operator"])
def test_secrets_and_settings_are_the_admins_alone(name: access.RoleName, resource: str) -> None:
    assert not [permission for permission in access.role(name).permissions if permission[1] == resource]
    assert ("can_read", resource) in access.role("admin").permissions


def test_the_auditor_sees_evidence_and_the_audit_log_and_no_data() -> None:
    role = access.role("auditor")
    assert {("can_read", "Audit Logs"), ("can_read", "DAG Runs"), ("can_read", "DAGs")} <= role.permissions
    assert not [
        permission for permission in role.permissions if permission[1] in ("XComs", "Task Logs", "Rempart Data")
    ]
    assert role.capabilities == {"read", "read_evidence"}


@pytest.mark.parametrize("name", access.ROLES)
def test_every_person_finds_the_cockpit_in_the_navigation(name: access.RoleName) -> None:
    assert (("can_read", "Plugins") in access.role(name).permissions) is (name != "caller")


def test_a_program_starts_ingestion_and_does_nothing_else() -> None:
    role = access.role("caller")
    assert role.capabilities == {"ingest"}
    assert {access.needed("ingest_hotel_bookings", starts=True)} == role.capabilities
    for dag_id in ("ingest_hotel_bookings", "train_hotel_bookings", "fail_over", None):
        assert access.needed(dag_id) not in role.capabilities
    assert access.needed("train_hotel_bookings", starts=True) not in role.capabilities
    assert {name for name in access.ROLES if "ingest" in access.role(name).capabilities} == {
        "caller",
        "operator",
        "admin",
    }


def test_the_admin_may_all_that_any_other_may() -> None:
    admin = access.role("admin")
    for name in access.ROLES:
        assert access.role(name).permissions <= admin.permissions
        assert access.role(name).capabilities <= admin.capabilities


def test_nobody_manages_people_on_pages_that_the_ledger_does_not_see() -> None:
    assert not {"Users", "Roles", "List Users", "List Roles", "Passwords"} & {
        resource for name in access.ROLES for _, resource in access.role(name).permissions
    }


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("VIEWER", "viewer"),
        ("USER", "operator"),
        ("op", "operator"),
        ("admin", "admin"),
    ],
)
def test_a_user_of_the_simple_auth_manager(role: str, expected: access.RoleName) -> None:
    assert access.capabilities(SimpleNamespace(role=role)) == access.role(expected).capabilities


@pytest.mark.parametrize("name", access.ROLES)
def test_a_user_of_fab_by_the_permissions_that_it_has(name: access.RoleName) -> None:
    assert access.capabilities(SimpleNamespace(perms=access.role(name).permissions)) == access.role(name).capabilities


@pytest.mark.parametrize(
    "user",
    [None, object(), SimpleNamespace(role=None), SimpleNamespace(role="root"), SimpleNamespace(perms=set())],
)
def test_whoever_is_not_known_may_nothing(user: object) -> None:
    assert access.capabilities(user) == frozenset()


def test_a_failover_is_reserved_and_so_is_what_names_no_dag() -> None:
    assert [access.needed(dag) for dag in ("ingest_hotel_bookings", "fail_over", "fail_back", None)] == [
        "operate",
        "fail_over",
        "fail_over",
        "fail_over",
    ]
    assert "fail_over" not in access.role("operator").capabilities
