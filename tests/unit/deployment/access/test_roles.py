"""The changes of a start in Airflow's tables of roles, and Airflow's settings about its users."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rempart.deployment.access import roles
from rempart.deployment.setup import environment, paths, services
from rempart.settings import access, config
from rempart.settings.sections import Access

ROOT = Path(__file__).resolve().parents[4]
WANTED = [access.role(name) for name in access.ROLES]
THERE = {role.name: role.permissions for role in WANTED}


def stack(var: Path, wanted: Access) -> paths.Stack:
    loaded = config.load(ROOT / "rempart.yaml").model_copy(update={"access": wanted})
    return paths.Stack(ROOT, var, loaded)


def test_roles_that_are_as_they_must_be_change_nothing() -> None:
    assert roles.plan(WANTED, THERE) == ((), ())


def test_a_database_without_roles_gets_them_all() -> None:
    missing, changes = roles.plan(WANTED, {})
    assert missing == access.ROLES
    assert {role: {change.permission for change in changes if change.role == role} for role in access.ROLES} == THERE
    assert all(change.given for change in changes)


def test_what_was_changed_by_hand_is_told_and_put_right() -> None:
    reads = ("can_read", "Connections")
    found = THERE | {"operator": (THERE["operator"] - {("can_edit", "DAGs")}) | {reads}}
    missing, changes = roles.plan(WANTED, found)
    assert not missing
    assert [change.line() for change in changes] == [
        "role operator had lost a permission, which was restored: can_edit on DAGs",
        "role operator had a permission that was granted by hand, which was removed: can_read on Connections",
    ]


def test_roles_of_the_teams_own_are_left_alone() -> None:
    assert roles.plan(WANTED, THERE | {"finance": frozenset({("can_read", "DAG:invoices")})}) == ((), ())


def test_nobody_registers_himself_nobody_is_public_and_logins_end(tmp_path: Path) -> None:
    found = environment.people(stack(tmp_path, Access(session=timedelta(hours=2))), "http://127.0.0.1:18080")
    assert (found["FAB__CONFIG_FILE"], found["FAB__AUTH_ROLE_PUBLIC"]) == ("/dev/null", "")
    assert found["API_AUTH__JWT_EXPIRATION_TIME"] == "7200" and found["FAB__SESSION_MAX_LIFETIME_MINUTES"] == "120"
    assert found["FAB__AUTH_RATE_LIMITED"] == "True" and found["FAB__COOKIE_SAMESITE"] == "Lax"
    assert found["FAB__COOKIE_SECURE"] == "False"


def test_behind_tls_cookies_travel_encrypted_alone(tmp_path: Path) -> None:
    assert environment.people(stack(tmp_path, Access()), "https://airflow.example.eu")["FAB__COOKIE_SECURE"] == "True"


def test_for_one_person_airflow_needs_no_tables_of_people(tmp_path: Path) -> None:
    alone = stack(tmp_path, Access(auth_manager="simple"))
    assert "CORE__AUTH_MANAGER" not in environment.people(alone, "http://127.0.0.1:18080")
    assert roles.admit(alone, lambda name: pytest.fail(f"{name} was asked for")) == []


def test_another_auth_manager_restarts_airflow_and_nothing_else(tmp_path: Path) -> None:
    before = services.supervisor_configuration(stack(tmp_path, Access()), None).split("[program:")
    other = services.supervisor_configuration(stack(tmp_path, Access(auth_manager="simple")), None).split("[program:")
    changed = {a.split("]")[0] for a, b in zip(before, other, strict=True) if a != b}
    assert changed == set(paths.AIRFLOW_COMPONENTS)


def test_a_session_of_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one minute"):
        Access(session=timedelta(seconds=30))
