"""People with roles on the real Airflow: their rights through its API, and the changes of `rempart users`."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.access import people as tables
from rempart.deployment.access import roles
from rempart.deployment.setup import paths
from rempart.errors import AccessError
from rempart.flows.governance import people
from rempart.flows.shared.platform import Platform
from rempart.settings import access
from rempart.settings.config import Connection
from tests.people import OUTSIDE, PATIENCE, Airflow, of_each_role, run, shown

pytestmark = pytest.mark.stack

DAG = "ingest_hotel_bookings"
EVERYBODY = access.ROLES
PEOPLE = tuple(name for name in access.ROLES if name != "caller")
ROUTES: dict[str, tuple[str, ...]] = {
    # what is changed has a body that no route takes, so that who may is answered 404 or 422, and nothing happens
    "GET /api/v2/dags": EVERYBODY,
    f"GET /api/v2/dags/{DAG}/dagRuns": EVERYBODY,
    f"GET /api/v2/dagSources/{DAG}": PEOPLE,
    "GET /api/v2/importErrors": PEOPLE,
    "GET /ui/dags": PEOPLE,
    f"GET /ui/grid/structure/{DAG}": PEOPLE,
    "GET /rempart/evidence": PEOPLE,
    "GET /api/v2/plugins": PEOPLE,  # the navigation is made of it
    "GET /api/v2/dags/~/dagRuns/~/taskInstances/~/xcomEntries": ("viewer", "operator", "admin"),
    f"GET /api/v2/dags/{DAG}/dagRuns/none/taskInstances/none/logs/1": ("viewer", "operator", "admin"),
    "GET /api/v2/pools": ("viewer", "operator", "admin"),
    "GET /api/v2/eventLogs": ("auditor", "admin"),
    "GET /api/v2/connections": ("admin",),
    "GET /api/v2/variables": ("admin",),
    f"POST /api/v2/dags/{DAG}/dagRuns": ("caller", "operator", "admin"),
    "POST /api/v2/dags/train_hotel_bookings/dagRuns": ("operator", "admin"),
    f"POST /api/v2/dags/{DAG}/clearTaskInstances": ("operator", "admin"),
    f"PATCH /api/v2/dags/{DAG}": ("operator", "admin"),
    "POST /api/v2/dags/fail_over/dagRuns": ("admin",),
    "POST /api/v2/dags/fail_over/clearTaskInstances": ("admin",),
    "PATCH /api/v2/dags/~/dagRuns/~/taskInstances": ("admin",),
    f"DELETE /api/v2/dags/{DAG}/dagRuns/none": ("admin",),
    "DELETE /api/v2/dags/none": ("admin",),
    "POST /api/v2/connections": ("admin",),
    "POST /api/v2/variables": ("admin",),
    "GET /auth/fab/v1/users": (),
    "GET /auth/fab/v1/roles": (),
}


@pytest.fixture(scope="module")
def airflow(stack: paths.Stack) -> Iterator[Airflow]:
    """The stack's Airflow, with one person of each role, and tokens that nobody should take."""
    with of_each_role(stack, "test") as found:
        yield found


@pytest.mark.parametrize("route", ROUTES)
def test_who_may_and_who_may_not(airflow: Airflow, route: str) -> None:
    answers = {who: airflow.ask(who, route) for who in (*access.ROLES, *OUTSIDE)}
    may = {who for who in access.ROLES if answers[who] not in (401, 403)}
    assert may == set(ROUTES[route]), answers
    assert all(answers[who] in (200, 404, 422) for who in may), answers
    assert all(answers[who] in refused for who, refused in OUTSIDE.items()), answers


def test_the_platforms_own_admin_works_as_before(airflow: Airflow, platform: Platform) -> None:
    api = platform.connections("airflow_api")
    assert airflow.log_in(api.login, api.password).status_code == 201
    for words in (("remove", "admin"), ("password", "admin"), ("role", "admin", "viewer")):
        refused = CliRunner().invoke(app, ["users", *words])
        assert isinstance(refused.exception, AccessError) and "Rempart's own account" in str(refused.exception)


def test_a_person_comes_changes_and_goes_and_the_ledger_names_nobody(airflow: Airflow, platform: Platform) -> None:
    first = shown(run("add", "marie", "--role", "operator"))
    airflow.tokens["marie"] = airflow.log_in("marie", first).json()["access_token"]
    assert airflow.ask("marie", "GET /api/v2/connections") == 403
    line = next(line for line in run("list").splitlines() if " marie " in line)
    number = line.split()[0]
    assert line.split()[1:3] == ["marie", "operator"]

    second = "a sentence of her own"
    assert second not in run("password", "marie", "--ask", given=second + "\n")
    assert airflow.log_in("marie", first).status_code == 401
    old, airflow.tokens["marie"] = airflow.tokens["marie"], airflow.log_in("marie", second).json()["access_token"]
    assert airflow.ask("marie", "GET /api/v2/dags") == 200
    airflow.tokens["before"] = old
    assert airflow.ask("before", "GET /api/v2/dags") == 403

    run("role", "marie", "viewer")
    assert "--yes" in run("remove", "marie")
    assert airflow.log_in("marie", second).status_code == 201
    run("remove", "marie", "--yes")
    assert airflow.log_in("marie", second).status_code == 401
    evidence = platform.ledger.find("access", f"user {number}")
    assert [record.body["change"] for record in reversed(evidence)] == ["added", "password", "role", "removed"]
    assert "marie" not in str(evidence) and second not in str(evidence)


def test_a_restore_of_airflow_gives_nobody_the_number_of_another(platform: Platform) -> None:
    first = people.add(people.users_of(platform), "before", "viewer", "x" * 20)
    people.remove(people.users_of(platform), "before")
    with tables.tables(platform.database("airflow")) as session:
        session.execute("SELECT setval('ab_user_id_seq', %s, false)", [first.number])  # as an older database has it
    second = people.add(people.users_of(platform), "after", "viewer", "x" * 20)
    people.remove(people.users_of(platform), "after")
    assert second.number > first.number


def test_a_browser_logs_in_with_cookies_that_no_script_and_no_other_site_gets(airflow: Airflow) -> None:
    password = shown(run("add", "browser", "--role", "viewer"))
    with httpx.Client(base_url=airflow.url, trust_env=False, timeout=PATIENCE) as browser:
        page = browser.get("/auth/login/").text
        form = {"username": "browser", "password": password, "csrf_token": _csrf(page)}
        answer = browser.post("/auth/login/", data=form)
        while answer.is_redirect:
            answer = browser.get(answer.headers["location"])
            cookies = answer.headers.get_list("set-cookie")
            assert all(
                "HttpOnly" in cooky and "samesite=lax" in cooky.lower() for cooky in cookies if "_token=ey" in cooky
            )
        assert browser.get("/api/v2/dags").status_code == 200
        assert browser.get("/auth/users/list/").status_code in (302, 403)
        assert _renewed(browser)
        run("password", "browser")
        assert not _renewed(browser)
    run("remove", "browser", "--yes")


def _renewed(browser: httpx.Client) -> bool:
    """Whether its session still gets it a token."""
    return any("_token=ey" in cookie for cookie in browser.get("/auth/").headers.get_list("set-cookie"))


def _csrf(page: str) -> str:
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert found, page[:2000]
    return found[1]


def test_guessing_a_password_ends_soon(airflow: Airflow) -> None:
    seconds = 60.0
    while seconds > 50:  # of a minute in which ten are answered: a machine that takes longer for them is asked again
        began, name = time.monotonic(), f"nobody-{secrets.token_hex(4)}"
        answers = [airflow.log_in(name, "a wrong password").status_code for _ in range(12)]
        seconds = time.monotonic() - began
    assert answers[:10] == [401] * 10 and answers[10:] == [429, 429]


def test_what_was_changed_by_hand_in_the_database_is_put_right(stack: paths.Stack, platform: Platform) -> None:
    database, api = platform.database("airflow"), platform.connections("airflow_api")
    with tables.tables(database) as session:
        session.execute(
            "INSERT INTO ab_permission_view_role (id, permission_view_id, role_id) SELECT"
            " nextval('ab_permission_view_role_id_seq'), p.id, r.id FROM ab_permission_view p JOIN ab_permission a"
            " ON a.id = p.permission_id JOIN ab_view_menu v ON v.id = p.view_menu_id, ab_role r"
            " WHERE (a.name, v.name, r.name) = ('can_read', 'Connections', 'auditor')"
        )
        tables.set_role(session, tables.find(session, api.login), "viewer")
        tables.set_password(session, tables.find(session, api.login), "somebody's own")
    assert roles.admit(stack, platform.connections) == [
        "role auditor had a permission that was granted by hand, which was removed: can_read on Connections",
        f"user {api.login} had roles viewer; set to admin",
        f"user {api.login} was inactive or had another password; active again with its own password",
    ]
    assert roles.admit(stack, platform.connections) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda on: people.add(people.users_of(on), "Marie Curie", "viewer", "x" * 20), "is not a valid user name"),
        (lambda on: people.add(people.users_of(on), "marie", "boss", "x" * 20), "does not exist"),
        (lambda on: people.add(people.users_of(on), "marie", "viewer", "short"), "only 5 characters"),
        (lambda on: people.add(people.users_of(on), "admin", "viewer", "x" * 20), "add user 'admin'"),
        (lambda on: people.remove(people.users_of(on), "pierre"), "find user 'pierre'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_changed(platform: Platform, change: Any, message: str) -> None:
    before = people.everybody(people.users_of(platform))
    with pytest.raises(AccessError, match=message):
        change(platform)
    assert people.everybody(people.users_of(platform)) == before


def test_a_change_that_cannot_be_recorded_is_not_made(platform: Platform) -> None:
    class Silent:
        def find(self, kind: str, subject: str, *, limit: int) -> list[Any]:
            return []

        def append(self, kind: str, subject: str, body: Mapping[str, Any]) -> None:
            raise RuntimeError("no ledger")

    deaf = Platform(platform.config, platform.connections, ledger_=Silent())  # type: ignore[arg-type] # a double
    with pytest.raises(RuntimeError, match="no ledger"):
        people.add(people.users_of(deaf), "unseen", "admin", "x" * 20)
    assert not [person for person in people.everybody(people.users_of(platform)) if person.name == "unseen"]


def test_mlflow_has_its_own_users_still(platform: Platform) -> None:
    tracking: Connection = platform.tracking()
    address = f"http://{tracking.host}:{tracking.port}/api/2.0/mlflow/experiments/search"
    body = {"max_results": 1}
    assert httpx.post(address, json=body, timeout=PATIENCE, trust_env=False).status_code == 401
    login = (tracking.login, tracking.password)
    assert httpx.post(address, json=body, auth=login, timeout=PATIENCE, trust_env=False).status_code == 200
