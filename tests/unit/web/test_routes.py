"""Who may use which route: every route, each kind of caller, with Airflow's own tokens; and the proof of a form."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from rempart.errors import DatabaseUnavailable
from rempart.ledger.keys import signer
from rempart.ledger.verification import verify
from rempart.settings import access
from rempart.web import sources
from rempart.web.facts import Unknown
from rempart.web.mount import Cockpit
from rempart.web.pages import collect
from tests.cockpit import NOW, POINT, Watched
from tests.cockpit_routes import DRILL, HOSTILE, INJECTIONS, LOOK, ROUTES, expected, unlisted
from tests.unit.models.card import carded

pytestmark = pytest.mark.airflow

CALLERS = ("anonymous", *access.ROLES, "no role", "expired", "forged")


class House:
    """Airflow with the cockpit mounted below a prefix of its own, an auth manager, and what was triggered."""

    def __init__(self, watched: Watched, tokens: dict[str, str]) -> None:
        self.watched, self.tokens = watched, tokens
        self.triggered: list[tuple[str, Any]] = []
        self.refuses = False
        self.started: list[tuple[str, str, Any]] = []
        self.state, self.returned = "running", {}
        app = Starlette(
            routes=[
                Mount("/airflow/rempart", Cockpit()),
                Route("/api/v2/dags/restore_drill/dagRuns", self._runs, methods=["GET", "POST"]),
                Route("/api/v2/dags/{dag}/dagRuns", self._start, methods=["POST"]),
                Route("/api/v2/dags/{dag}/dagRuns/{run}", self._run),
                Route("/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value", self._returned),
            ]
        )
        self.client = TestClient(app, raise_server_exceptions=False)

    async def _runs(self, request: Request) -> JSONResponse:
        if request.method == "GET":
            return JSONResponse({"dag_runs": [{"dag_run_id": "r1", "state": "running", "run_after": NOW.isoformat()}]})
        if self.refuses:
            return JSONResponse({"detail": "no"}, 403)
        self.triggered.append((request.headers["authorization"], await request.json()))
        return JSONResponse({"dag_run_id": "r1"})

    async def _start(self, request: Request) -> JSONResponse:
        if self.refuses:
            return JSONResponse({"detail": "no"}, 403)
        conf = (await request.json())["conf"]
        self.started.append((request.path_params["dag"], request.headers["authorization"], conf))
        return JSONResponse({"dag_run_id": f"r{len(self.started)}"})

    async def _run(self, request: Request) -> JSONResponse:
        number = request.path_params["run"].removeprefix("r")
        if not number.isdigit() or not 0 < int(number) <= len(self.started):
            return JSONResponse({"detail": "none"}, 404)
        conf = self.started[int(number) - 1][2]
        return JSONResponse({"dag_run_id": f"r{number}", "state": self.state, "conf": conf})

    async def _returned(self, request: Request) -> JSONResponse:
        return JSONResponse({"value": self.returned})

    def call(self, method: str, path: str, caller: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[caller]}"} if caller in self.tokens else {}
        headers |= more.pop("headers", {})
        return self.client.request(method, f"/airflow/rempart{path}", headers=headers, follow_redirects=False, **more)

    def form(self, caller: str, path: str = DRILL) -> str:
        return str(self.call("GET", path, caller).text).partition('name="form" value="')[2].partition('"')[0]


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 32)
    monkeypatch.setenv("AIRFLOW__API__SECRET_KEY", "y" * 32)
    from airflow.api_fastapi import app
    from airflow.api_fastapi.auth.managers import base_auth_manager
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    class ByRole(SimpleAuthManager):
        """Airflow's tokens, and users with our roles' permissions, as its FAB auth manager has them."""

        def serialize_user(self, user: Any) -> dict[str, Any]:
            return {"sub": user, "role": user}

        def deserialize_user(self, token: dict[str, Any]) -> Any:
            name = token["role"]
            permissions = access.role(name).permissions if name in access.ROLES else frozenset()
            return SimpleNamespace(perms=permissions, get_id=lambda: name, get_name=lambda: name)

    # whether a token was revoked is asked of Airflow's database
    monkeypatch.setattr(base_auth_manager, "RevokedToken", SimpleNamespace(is_revoked=lambda jti: False))
    manager = ByRole()
    monkeypatch.setattr(app._AuthManagerState, "instance", manager)
    tokens = {name: manager.generate_jwt(name) for name in (*access.ROLES, "no role")}
    tokens["expired"] = manager.generate_jwt("admin", expiration_time_in_seconds=-3600)
    head, body, _ = tokens["admin"].split(".")
    tokens["forged"] = f"{head}.{body}.{tokens['viewer'].split('.')[2]}"
    watched = Watched().healthy()
    watched.record("model-card", "hotel_bookings/1", carded.kept())
    found = watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)
    monkeypatch.setattr(sources, "ledger", lambda: watched.ledger)
    monkeypatch.setattr(sources, "now", lambda: NOW)
    yield House(watched, tokens)


def test_every_door_opens_for_those_who_have_the_right_and_for_nobody_else(house: House) -> None:
    wrong = []
    for (method, path), right in ROUTES.items():
        for caller in CALLERS:
            status = house.call(method, path, caller).status_code
            if expected(caller, right):
                # without its form, a POST of who may is refused as well: see below
                good = status in ((403,) if method == "POST" else (200, 303, 307))
            else:
                good = status == (401 if caller in ("anonymous", "expired") else 403)
            wrong += [] if good else [(method, path, caller, status)]
    assert not wrong
    assert not house.triggered and not house.started


def test_the_table_of_doors_is_whole(house: House) -> None:
    from rempart.web.app import app

    assert unlisted(ROUTES, app.routes) == set()
    assert unlisted({}, app.routes), "no route was walked"


def test_a_cookie_is_as_good_as_a_bearer_token(house: House) -> None:
    house.client.cookies.set("_token", house.tokens["auditor"])
    assert house.call("GET", "/ledger", "nobody").status_code == 200
    assert house.call("GET", DRILL, "nobody").status_code == 403


def test_a_drill_starts_by_a_form_of_ours_in_the_name_of_who_sent_it(house: House) -> None:
    answer = house.call("POST", DRILL, "operator", data={"form": house.form("operator")})
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/airflow/rempart/restore-points/{POINT}?run=r1"
    assert house.triggered == [(f"Bearer {house.tokens['operator']}", {"logical_date": None, "conf": {"point": POINT}})]
    shown = house.call("GET", f"/restore-points/{POINT}?run=r1", "operator").text
    assert "Started: run r1." in shown and "running" in shown


@pytest.mark.parametrize("how", ["none", "of another user", "from another site", "of another point"])
def test_a_form_that_is_not_ours_starts_nothing(house: House, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = "" if how == "none" else house.form("admin" if how == "of another user" else "operator")
    headers = {"Sec-Fetch-Site": "cross-site"} if how == "from another site" else {}
    other = "20260301T114500Z-ffffff"
    path = DRILL
    if how == "of another point":
        house.watched.point(other)
        monkeypatch.setattr(sources, "newest", lambda *within: house.watched.facts())
        path = f"/restore-points/{other}/drill"
    assert house.call("POST", path, "operator", data={"form": form}, headers=headers).status_code == 403
    assert not house.triggered


def test_what_airflow_refuses_is_told_and_not_started(house: House) -> None:
    house.refuses = True
    answer = house.call("POST", DRILL, "operator", data={"form": house.form("operator")})
    assert answer.status_code == 409 and "403" in answer.text


@pytest.mark.parametrize("path", INJECTIONS)
def test_what_a_reader_types_is_only_ever_shown_as_text(house: House, path: str) -> None:
    house.watched.record("denial", HOSTILE, {"what": "data", "reasons": [HOSTILE]})
    answer = house.call("GET", path, "admin")
    assert answer.status_code in (200, 404, 422)
    assert "<script>alert" not in answer.text or "json" in answer.headers["content-type"]
    assert "import " not in answer.text and "stolen" not in str(answer.headers) and "$49" not in answer.text


def test_pages_say_what_a_browser_may_load_and_are_kept_by_nobody(house: House) -> None:
    answer = house.call("GET", "/overview", "viewer")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["cache-control"] == "no-store"
    pages = (*(page.name for page in collect()), f"restore-points/{POINT}")
    ours = ("data/hotel_bookings", *(f"{LOOK[1:]}/{name}" for name in ("look", "rows", "again", "accept")))
    for page in (*pages, *ours, "models/hotel_bookings/roll-back"):
        text = house.call("GET", f"/{page}", "admin").text
        assert " style=" not in text and "onclick" not in text
        links = [part.partition('"')[0] for name in ("href", "src", "action") for part in text.split(f' {name}="')[1:]]
        assert links and all(link.startswith(("/airflow/rempart/", "#")) for link in links)


def test_pages_speak_french_where_the_reader_asks_and_remember_it(house: House) -> None:
    answer = house.call("GET", "/overview?lang=fr", "viewer")
    assert "Pouvons-nous perdre un site maintenant" in answer.text and '<html lang="fr">' in answer.text
    assert "Vue d’ensemble" in house.call("GET", "/overview", "viewer").text


def test_an_empty_field_of_the_ledgers_form_is_no_condition(house: House) -> None:
    answer = house.call("GET", "/ledger?kind=drill&subject=&before=", "auditor")
    assert answer.status_code == 200 and "<td>drill</td>" in answer.text
    below = house.call("GET", "/api/ledger?before=3", "auditor").json()["records"]
    assert [record["seq"] for record in below] == [2, 1]


def test_an_address_that_a_page_cannot_read_is_answered_with_a_page_that_says_why(house: House) -> None:
    for path, name, why in (
        ("/ledger?before=abc", "before", "must be a whole number"),
        ("/ledger?before=0", "before", "must be at least 1"),
        (f"/ledger?before={2**60}", "before", f"must be at most {2**53}"),
        (f"/ledger?subject={'x' * 301}", "subject", "must have at most 300 characters"),
        ("/data?page=abc", "page", "must be a whole number"),
        ("/ledger/abc", "seq", "must be a whole number"),
        ("/restore-points/abc", "point", "does not have the expected form"),
        ("/dag", "dag_id", "is missing"),
    ):
        answer = house.call("GET", path, "auditor")
        assert answer.status_code == 422 and answer.headers["content-type"].startswith("text/html"), path
        assert f"<code>{name}</code> {why}" in answer.text and "/airflow/rempart/overview" in answer.text, path
    english = house.call("GET", "/ledger?before=abc", "auditor").text
    assert "The address has a value that this page cannot use" in english
    assert 'href="/airflow/rempart/ledger">Open the page without these values' in english
    french = house.call("GET", "/ledger?before=abc&lang=fr", "auditor").text
    assert "<code>before</code> doit être un nombre entier" in french


def test_a_program_gets_a_wrong_parameter_as_json_and_nobody_else_learns_of_parameters(house: House) -> None:
    answer = house.call("GET", "/api/ledger?before=abc", "auditor")
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["query", "before"]
    assert house.call("GET", "/ledger?before=abc", "anonymous").status_code == 401
    assert house.call("GET", "/ledger?before=abc", "no role").status_code == 403


def test_a_database_that_is_away_is_told_with_the_remedy(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise DatabaseUnavailable("read a page: no answer", "Check that PostgreSQL runs.")

    monkeypatch.setattr(sources, "ledger", away)
    assert "Check that PostgreSQL runs." in house.call("GET", "/ledger", "admin").text
    assert house.call("GET", "/api/ledger", "admin").json()["hint"] == "Check that PostgreSQL runs."


def test_a_fault_of_ours_gives_a_number_and_no_cause(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "newest", lambda *within: 1 / 0)
    for path in ("/overview", "/api/overview"):
        answer = house.call("GET", path, "admin")
        assert answer.status_code == 500 and "division" not in answer.text
    assert house.call("GET", "/ledger", "admin").status_code == 200


def test_an_export_verifies_line_by_line(house: House) -> None:
    lines = house.call("GET", "/api/ledger/export", "auditor").text.splitlines()
    assert verify(lines, [signer(bytes(32)).public], {}).ok
    assert len(lines) == len(house.watched.ledger.chain)


def test_a_run_of_which_nobody_knows_is_not_told_as_one_that_wrote_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "/run?dag_id=restore_drill&run_id=r"
    assert "No record of this run was found" in house.call("GET", run, "viewer").text
    blind = house.watched.facts(evidence=Unknown("the ledger: no answer"))
    monkeypatch.setattr(sources, "newest", lambda *within: blind)
    text = house.call("GET", run, "viewer").text
    assert "No record of this run was found" not in text and "unknown" in text and "the ledger: no answer" in text


def test_a_page_in_another_language_is_still_that_page(house: House) -> None:
    text = house.call("GET", "/run?dag_id=restore_drill&run_id=a%2Bb%26c", "viewer").text
    assert "/airflow/rempart/run?dag_id=restore_drill&amp;run_id=a%2Bb%26c&amp;lang=fr" in text


def test_the_page_of_a_pipeline_tells_why_rows_have_no_prediction(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "feature 'own__kind' holds a value that the model does not know"
    told = {"scoring": "a1", "version": "1", "rows_of": "hotel_bookings", "rows": 20, "quarantined": 3}
    house.watched.record("scoring", "hotel_bookings", told | {"reasons": {why: 3}, "into": None, "bucket": "lake"})
    found = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)
    page = house.call("GET", "/data/hotel_bookings", "viewer").text
    assert f"3 × {why.replace(chr(39), '&#39;')}" in page
