"""A look at a data profile: the started run, who gets the key, and what a browser may do with the page."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest

from rempart.backup.keys import age
from rempart.ingestion.profiles.measures import Profile
from rempart.ingestion.profiles.page import POLICY, page
from rempart.settings import access
from rempart.web import sources
from tests.cockpit_routes import PROFILE
from tests.unit.web.test_routes import House, house

pytestmark = pytest.mark.airflow
__all__ = ["house"]  # the fixture
BODY = page(Profile("hotel_bookings", "a" * 32, "personal", 0, True, ()))


def sealed(recipient: str, body: bytes = BODY.encode()) -> dict[str, Any]:
    """What the task returns."""
    packed = base64.b64encode(age.encrypt(gzip.compress(body), [recipient])).decode()
    return {"made": [], "shown": "a" * 32, "sealed": packed}


@pytest.fixture(autouse=True)
def snapshot(house: House, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two snapshots are on record; the id of the newest."""
    for name in ("b" * 32, "c" * 32):
        house.watched.record("snapshot", "hotel_bookings", {"snapshot": name, "site": "primary", "rows": 3})
    found = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)
    return "c" * 32


def asked(house: House) -> str:
    """A look that the operator began; where the browser was sent."""
    answer = house.call("POST", PROFILE, "operator", data={"form": house.form("operator", PROFILE)})
    assert answer.status_code == 303, answer.text
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and f"Path=/airflow/rempart{PROFILE}" in cookie
    return str(answer.headers["location"]).removeprefix("/airflow/rempart")


def test_the_page_of_the_pipeline_leads_to_the_profile_of_its_newest_snapshot(house: House, snapshot: str) -> None:
    assert f'href="/airflow/rempart{PROFILE}"' in house.call("GET", "/data/hotel_bookings", "operator").text
    assert f'href="/airflow/rempart{PROFILE}"' not in house.call("GET", "/data/hotel_bookings", "viewer").text
    assert snapshot in house.call("GET", PROFILE, "operator").text
    where = asked(house)
    ((dag, bearer, conf),) = house.started
    assert (dag, bearer) == ("profile_data_hotel_bookings", f"Bearer {house.tokens['operator']}")
    assert set(conf) == {"snapshot", "recipient"} and conf["snapshot"] == snapshot
    waiting = house.call("GET", where, "operator")
    assert waiting.headers["refresh"] == "2" and "A task is preparing the profile" in waiting.text
    house.state, house.returned = "success", sealed(conf["recipient"])
    shown = house.call("GET", where, "operator")
    assert shown.text == BODY and shown.headers["cache-control"] == "no-store"
    policy = shown.headers["content-security-policy"]
    assert policy.startswith(POLICY) and "default-src 'none'" in policy and "unsafe" not in policy
    assert "sandbox" in policy and "script-src" not in policy and POLICY in shown.text


@pytest.mark.parametrize("how", ["no cookie", "another key", "failed", "hostile", "a bomb", "not packed"])
def test_without_the_key_or_a_profile_one_is_told_why(house: House, how: str) -> None:
    where = asked(house)
    recipient = house.started[-1][2]["recipient"]
    house.state, house.returned = "failed" if how == "failed" else "success", sealed(recipient)
    if how in ("no cookie", "another key"):
        house.client.cookies.clear()
    if how == "another key":
        house.client.cookies.set("rempart_profile", age.new_identity().secret)
    if how == "hostile":
        house.returned = {"sealed": "<script>"}
    if how == "a bomb":
        house.returned = sealed(recipient, b"\0" * (64 << 20))
    if how == "not packed":
        house.returned = {"sealed": base64.b64encode(age.encrypt(BODY.encode(), [recipient])).decode()}
    answer = house.call("GET", where, "operator")
    wanted = "The task failed" if how == "failed" else "This browser has no key for this profile"
    assert answer.status_code == 200 and wanted in answer.text and "Request again" in answer.text


def test_a_profile_is_for_who_may_see_data_and_its_form_is_ours(house: House, monkeypatch: Any) -> None:
    house.refuses = True
    answer = house.call("POST", PROFILE, "operator", data={"form": house.form("operator", PROFILE)})
    assert answer.status_code == 409 and not house.started
    assert house.call("POST", PROFILE, "operator", data={"form": house.form("admin", PROFILE)}).status_code == 403
    assert "Ingest a delivery first" in house.call("GET", "/data/never_seen/profile", "operator").text
    assert house.call("POST", "/data/never_seen/profile", "operator", data={"form": "x"}).status_code == 403
    monkeypatch.setattr(access, "capabilities", lambda user: {"read", "operate"})
    assert {house.call(how, PROFILE, "operator").status_code for how in ("GET", "POST")} == {403}
    assert house.call("GET", f"{PROFILE}/page", "operator").status_code == 403
