"""The cockpit's routes on the real Airflow, with real people: the table of the unit test, asked over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest

from rempart.airflow_api import AirflowApi
from rempart.deployment.setup import paths
from rempart.flows.shared.platform import Platform
from rempart.settings import access, config
from tests.cockpit import DELIVERY, POINT
from tests.cockpit_routes import DRILL, INJECTIONS, ROUTES, expected
from tests.levels import unpaused
from tests.people import OUTSIDE, PATIENCE, Airflow, of_each_role

pytestmark = pytest.mark.stack

NOT_OURS = "The form has expired, or it came from another site"
NOT_HERE = frozenset(route for route in ROUTES if DELIVERY in route[1] or "hotel_bookings" in route[1])
"""Routes of the table to something that this stack need not have: who may is told that it is not there."""


@pytest.fixture(scope="module")
def airflow(stack: paths.Stack) -> Iterator[Airflow]:
    with of_each_role(stack, "route") as found:
        yield found


@pytest.fixture(scope="module")
def point(platform: Platform, airflow: Airflow) -> str:
    """A restore point that the cockpit knows."""
    if not (found := platform.ledger.find("restore-point", limit=1)):
        api = AirflowApi(config.environment_connections("airflow_api"))
        with unpaused(api, "backup_platform"):
            api.run("backup_platform", "back_up")
        found = platform.ledger.find("restore-point", limit=1)
    for _ in range(300):
        if call(airflow, "viewer", "GET", f"/restore-points/{found[0].subject}").status_code == 200:
            return found[0].subject
        time.sleep(1)
    pytest.fail(f"the cockpit does not show {found[0].subject}, which is on record for five minutes")


def call(airflow: Airflow, who: str, method: str, path: str, **more: object) -> httpx.Response:
    headers = airflow.as_(who) | more.pop("headers", {})  # type: ignore[operator] # a dictionary
    address = f"{airflow.url}/rempart{path}"
    return httpx.request(method, address, headers=headers, timeout=PATIENCE, trust_env=False, **more)  # type: ignore[arg-type] # as given


def drills(airflow: Airflow) -> int:
    path = f"{airflow.url}/api/v2/dags/restore_drill/dagRuns"
    answer = httpx.get(path, headers=airflow.as_("admin"), timeout=PATIENCE, trust_env=False)
    return int(answer.json()["total_entries"])


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_s1_a_door_opens_for_those_who_have_the_right_and_for_nobody_else(
    airflow: Airflow, point: str, route: tuple[str, str]
) -> None:
    method, path = route[0], route[1].replace(POINT, point)
    for who in access.ROLES:
        answer = call(airflow, who, method, path)
        if not expected(who, ROUTES[route]):
            assert answer.status_code == 403 and "This needs the right" in answer.text, who
        elif answer.status_code == 404:
            assert route in NOT_HERE, who
        elif method == "POST":  # without its form
            assert answer.status_code == 403 and NOT_OURS in answer.text, who
        else:
            assert answer.status_code in (200, 303, 307), who
    for who, refused in OUTSIDE.items():
        answer = call(airflow, who, method, path)
        assert answer.status_code in refused and "/rempart/overview" not in answer.headers.get("location", ""), who


def form(airflow: Airflow, who: str, point: str) -> str:
    page = call(airflow, who, "GET", DRILL.replace(POINT, point)).text
    found = re.search(r'name="form" value="([^"]+)"', page)
    assert found, page
    return found[1]


@pytest.mark.parametrize(
    "how", ["no form", "of another", "altered", "cross-site", "of another point", "a cookie alone"]
)
def test_s1_a_request_that_a_page_of_ours_did_not_make_starts_nothing(airflow: Airflow, point: str, how: str) -> None:
    before, path = drills(airflow), DRILL.replace(POINT, point)
    good = form(airflow, "operator", point)
    sent = {"no form": "", "a cookie alone": "", "altered": good[:-1] + ("0" if good[-1] != "0" else "1")}.get(
        how, good
    )
    if how == "of another":
        sent = form(airflow, "admin", point)
    if how == "of another point":
        path = DRILL  # of which this stack knows nothing: its form cannot be had, and this one is not for it
    headers = {"Sec-Fetch-Site": "cross-site"} if how == "cross-site" else {}
    cookies = {"_token": airflow.tokens["operator"]} if how == "a cookie alone" else {}
    who = "nobody" if cookies else "operator"
    answer = call(airflow, who, "POST", path, data={"form": sent}, headers=headers, cookies=cookies)
    assert answer.status_code == (404 if how == "of another point" else 403)
    assert drills(airflow) == before


@pytest.mark.parametrize("path", INJECTIONS)
def test_s1_what_somebody_types_is_only_ever_shown_as_text(airflow: Airflow, point: str, path: str) -> None:
    answer = call(airflow, "admin", "GET", path.replace(POINT, point))
    assert answer.status_code in (200, 404, 422)
    assert "<script>alert" not in answer.text or "json" in answer.headers["content-type"]
    assert "import " not in answer.text and "stolen" not in str(answer.headers) and "$49" not in answer.text
    assert call(airflow, "nobody", "GET", path.replace(POINT, point)).status_code in (401, 404)


@pytest.mark.parametrize(
    "path", ["/", "/auth/login", "/dags", "/api/v2/version", "/rempart/overview", "/rempart/api/overview", "/nowhere"]
)
def test_s10_no_page_of_another_origin_may_frame_any_answer(airflow: Airflow, path: str) -> None:
    for who in ("viewer", "nobody"):
        headers = airflow.as_(who)
        answer = httpx.get(
            f"{airflow.url}{path}", headers=headers, timeout=PATIENCE, trust_env=False, follow_redirects=True
        )
        policies = "; ".join(answer.headers.get_list("content-security-policy"))
        assert "frame-ancestors 'self'" in policies and "x-frame-options" in answer.headers, (who, answer.status_code)


@pytest.mark.parametrize("sent_headers", [{"Sec-Fetch-Site": "same-site"}, {"Origin": "http://127.0.0.1:9"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v2/dags/restore_drill/dagRuns"),
        ("PATCH", "/api/v2/dags/restore_drill?update_mask=is_paused"),
        ("DELETE", "/api/v2/dags/restore_drill"),
        ("POST", f"/rempart{DRILL}"),
        ("POST", "/auth/logout/"),
    ],
)
def test_s10_a_page_on_another_port_of_this_host_writes_nothing_with_the_readers_cookie(
    airflow: Airflow, sent_headers: dict[str, str], method: str, path: str
) -> None:
    before, cookies = drills(airflow), {"_token": airflow.tokens["admin"]}
    answer = httpx.request(
        method, f"{airflow.url}{path}", cookies=cookies, headers=sent_headers, timeout=PATIENCE, trust_env=False
    )
    assert answer.status_code == 403 and "another origin" in answer.text
    assert drills(airflow) == before


def test_s10_airflows_own_page_writes_with_the_cookie(airflow: Airflow) -> None:
    """The check is no wall before the people whom it protects."""
    cookies, paused = {"_token": airflow.tokens["admin"]}, {"is_paused": True}  # as it is
    for sent_headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": airflow.url}):
        answer = httpx.patch(
            f"{airflow.url}/api/v2/dags/fail_back",
            json=paused,
            cookies=cookies,
            headers=sent_headers,
            timeout=PATIENCE,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
