"""Quarantine, ingesting a delivery again, and rollback: the started run, its user, and who can read the rows."""

from __future__ import annotations

import base64
import csv
import io
import json
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from rempart.backup.keys import age
from rempart.flows.training.champions import ALARM
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.deliveries import HELD_BACK
from rempart.settings import access
from rempart.web import charts, sources
from rempart.web.facts import Unknown
from rempart.web.read_models import models, quarantine
from rempart.web.security import sealed_rows
from rempart.web.wording import Texts
from tests.cockpit import DELIVERY, GATE, NOW, POINT, RULES, Watched
from tests.unit.web.test_routes import LOOK, House, house

pytestmark = pytest.mark.airflow
__all__ = ["house"]  # the fixture
HOSTILE = "<script>alert(1)</script>"
BACK = "/models/hotel_bookings/roll-back"


def sealed(recipient: str, *raws: str, delivery: str = DELIVERY, of: int | None = None) -> dict[str, Any]:
    """What the task returns."""
    rows = [{"line": i, "reason": RULES[0], "raw": raw, "cut": False} for i, raw in enumerate(raws, 2)]
    told = {"pipeline": "hotel_bookings", "delivery": delivery, "file": "week.csv", "of": of or len(rows)}
    told |= {"header": "id,adults", "rows": rows}
    body = base64.b64encode(age.encrypt(json.dumps(told).encode(), [recipient])).decode()
    return {"delivery": delivery, "rows": told["of"], "shown": len(rows), "sealed": body}


def start(house: House, caller: str, path: str, **fields: str) -> Any:
    return house.call("POST", path, caller, data={"form": house.form(caller, path), **fields})


def hold_back(house: House, monkeypatch: Any, **body: Any) -> None:
    """The delivery is held back: 15 good rows wait beside 5 refused ones."""
    told = {"outcome": HELD_BACK, "accepted": 0, "quarantined": 20, "reasons": {RULES[0]: 5, HELD: 15}, "again": 1}
    house.watched.delivery(**{**told, **body})
    found = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)


def test_reasons_stand_by_count_as_on_the_command_line(house: House, monkeypatch: Any) -> None:
    told = {"outcome": HELD_BACK, "reasons": {"a few": 2, "many": 30, "also a few": 2}}
    house.watched.delivery(**{**told, "accepted": 0, "quarantined": 34, "again": 1})
    found = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)
    for path in ("/data/hotel_bookings", f"{LOOK}/accept"):
        page = house.call("GET", path, "operator").text
        places = [page.index(f"× {reason}") for reason in ("many", "a few", "also a few")]
        assert places == sorted(places)


def looked(house: House, *raws: str) -> str:
    """A look that the operator began and that a task has answered; where the browser was sent."""
    answer = start(house, "operator", f"{LOOK}/look")
    assert answer.status_code == 303, answer.text
    house.state, house.returned = "success", sealed(house.started[-1][2]["recipient"], *raws)
    return str(answer.headers["location"]).removeprefix("/airflow/rempart")


def test_a_look_starts_in_the_name_of_who_asked_and_only_the_browser_gets_the_key(house: House) -> None:
    answer = start(house, "operator", f"{LOOK}/look")
    (started,) = house.started
    assert started[:2] == ("preview_quarantine_hotel_bookings", f"Bearer {house.tokens['operator']}")
    assert set(started[2]) == {"delivery", "recipient"} and started[2]["delivery"] == DELIVERY
    cookie = answer.headers["set-cookie"]
    assert f"Path=/airflow/rempart{LOOK}" in cookie and "HttpOnly" in cookie and "Max-Age=1800" in cookie
    assert "samesite=strict" in cookie.lower()
    secret = cookie.partition("=")[2].partition(";")[0]
    assert age.read_identity(secret, "it").recipient == started[2]["recipient"]
    assert "AGE-SECRET" not in answer.text + answer.headers["location"] + json.dumps(started[2])


def test_while_the_task_reads_the_page_asks_again_and_then_shows_rows_and_reasons(house: House) -> None:
    answer = start(house, "operator", f"{LOOK}/look")
    where = answer.headers["location"].removeprefix("/airflow/rempart")
    waiting = house.call("GET", where, "operator")
    assert waiting.headers["refresh"] == "2" and "A task is reading the rows" in waiting.text
    house.state = "success"
    house.returned = sealed(house.started[-1][2]["recipient"], f"1,{HOSTILE}", "2,=1+1", of=300)
    shown = house.call("GET", where, "operator")
    assert "refresh" not in shown.headers and shown.headers["cache-control"] == "no-store"
    assert "2 of 300 rows" in shown.text and "<code>id,adults</code>" in shown.text and RULES[0] in shown.text
    assert "&lt;script&gt;alert(1)" in shown.text and HOSTILE not in shown.text
    assert "AGE-SECRET" not in shown.text


def test_a_download_runs_nothing_in_a_spreadsheet(house: House) -> None:
    where = looked(house, '=cmd|"/c calc"!A1', "+1", "-1", "@x", " =1", "\t=1", "12,plain", "é,ü")
    answer = house.call("GET", where.replace("/rows?", "/rows.csv?"), "operator")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8" and answer.headers["cache-control"] == "no-store"
    assert "attachment" in answer.headers["content-disposition"]
    head, *rows = csv.reader(io.StringIO(answer.content.decode()))
    assert head == ["source_line", "reason", "row_as_received"]
    assert [row[2][:1] for row in rows] == ["'"] * 6 + ["1", "é"]


@pytest.mark.parametrize(
    "how", ["no cookie", "another key", "no key at all", "another delivery", "no such run", "hostile"]
)
def test_without_the_key_one_is_told_to_ask_anew(house: House, how: str) -> None:
    where = looked(house, "secret row")
    if how == "no cookie":
        house.client.cookies.clear()
    elif how in ("another key", "no key at all"):
        value = age.new_identity().secret if how == "another key" else HOSTILE
        house.client.cookies.clear()
        house.client.cookies.set("rempart_look", value)
    elif how == "another delivery":
        house.returned = sealed(house.started[-1][2]["recipient"], "secret row", delivery="cd" * 32)
    elif how == "no such run":
        where = where.partition("?")[0] + "?run=../../../variables"
    else:
        house.returned = {"sealed": HOSTILE}
    answer = house.call("GET", where, "operator")
    assert answer.status_code == 200 and "Request again" in answer.text and "secret row" not in answer.text
    assert house.call("GET", where.replace("/rows?", "/rows.csv?"), "operator").status_code == 303


def test_a_look_that_failed_says_which_log_tells_why(house: House) -> None:
    where = looked(house, "secret row")
    house.state = "failed"
    text = house.call("GET", where, "operator").text
    assert "preview_quarantine_hotel_bookings" in text and "r1" in text and "secret row" not in text


def test_the_key_of_one_delivery_is_not_sent_for_another(house: House) -> None:
    looked(house, "secret row")
    other = LOOK.replace(DELIVERY, "cd" * 32)
    (cookie,) = [stored for stored in house.client.cookies.jar if stored.name == "rempart_look"]
    assert cookie.path == f"/airflow/rempart{LOOK}" and not f"/airflow/rempart{other}".startswith(cookie.path)


def test_rows_are_for_who_may_see_data_even_if_he_may_start_things(house: House, monkeypatch: Any) -> None:
    monkeypatch.setattr(access, "capabilities", lambda user: {"read", "operate"})
    for path in ("look", "rows", "rows.csv"):
        assert house.call("GET", f"{LOOK}/{path}", "operator").status_code == 403
    assert house.call("POST", f"{LOOK}/look", "operator").status_code == 403
    assert house.call("GET", f"{LOOK}/again", "operator").status_code == 200
    page = house.call("GET", "/data/hotel_bookings", "operator").text
    assert f"{LOOK}/again" in page and f"{LOOK}/look" not in page


def test_only_an_expectation_that_a_row_broke_or_that_is_unknown_has_a_plot(house: House) -> None:
    page = house.call("GET", "/data/hotel_bookings", "operator").text
    assert f"<h3>{RULES[0]}</h3>" in page and f"<h3>{RULES[1]}</h3>" not in page and page.count(RULES[1]) == 1
    assert "Never broken: 1. These have no plot." in page


def test_a_page_offers_to_each_what_he_may(house: House) -> None:
    for caller, offered in (("viewer", False), ("auditor", False), ("operator", True)):
        assert (f"{LOOK}/look" in house.call("GET", "/data/hotel_bookings", caller).text) == offered
        assert (BACK in house.call("GET", "/models", caller).text) == offered


@pytest.mark.parametrize("path", [f"{LOOK}/look", f"{LOOK}/again", f"{LOOK}/accept", BACK])
@pytest.mark.parametrize("how", ["none", "of another user", "from another site", "of another action"])
def test_a_form_that_is_not_ours_starts_nothing(house: House, path: str, how: str, monkeypatch: Any) -> None:
    house.watched.promotion("2", 21.0)
    hold_back(house, monkeypatch)
    form = "" if how == "none" else house.form("admin" if how == "of another user" else "operator", path)
    if how == "of another action":
        form = house.form("operator", f"/restore-points/{POINT}/drill")
    headers = {"Sec-Fetch-Site": "cross-site"} if how == "from another site" else {}
    answer = house.call("POST", path, "operator", data={"form": form, "replaces": "2"}, headers=headers)
    assert answer.status_code == 403 and not house.started and "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", [f"{LOOK}/look", f"{LOOK}/again", f"{LOOK}/accept", BACK])
def test_what_airflow_refuses_is_told(house: House, path: str, monkeypatch: Any) -> None:
    hold_back(house, monkeypatch)
    house.watched.promotion("2", 21.0)
    house.refuses = True
    answer = start(house, "operator", path, replaces="2")
    assert answer.status_code == 409 and "403" in answer.text and "set-cookie" not in answer.headers


def test_a_delivery_is_taken_in_again_after_its_plan_was_shown(house: House) -> None:
    assert (
        f"judges the 3 quarantined rows of delivery {DELIVERY[:12]}"
        in house.call("GET", f"{LOOK}/again", "operator").text
    )
    answer = start(house, "operator", f"{LOOK}/again")
    assert house.started == [("ingest_hotel_bookings", f"Bearer {house.tokens['operator']}", {"again": DELIVERY})]
    where = answer.headers["location"].removeprefix("/airflow/rempart")
    assert house.call("GET", where, "operator").headers["refresh"] == "2"
    house.state = "failed"
    assert "log of this run of ingest_hotel_bookings" in house.call("GET", where, "operator").text


def test_a_delivery_that_is_held_back_is_accepted_after_its_plan_was_shown(house: House, monkeypatch: Any) -> None:
    hold_back(house, monkeypatch)
    page = house.call("GET", f"{LOOK}/accept", "operator").text
    assert f"delivery {DELIVERY[:12]} again and publishes its 15 good rows" in page
    assert "5 rows stay in quarantine" in page
    assert f"5 × {RULES[0]}" in page and "your user number" in page
    answer = start(house, "operator", f"{LOOK}/accept")
    conf = {"again": DELIVERY, "accept_quarantined": True}
    assert house.started == [("ingest_hotel_bookings", f"Bearer {house.tokens['operator']}", conf)]
    where = answer.headers["location"].removeprefix("/airflow/rempart")
    assert house.call("GET", where, "operator").headers["refresh"] == "2"
    house.state = "failed"
    assert "log of this run of ingest_hotel_bookings" in house.call("GET", where, "operator").text


def test_accepting_is_offered_for_deliveries_that_are_held_back_and_to_those_who_may(
    house: House, monkeypatch: Any
) -> None:
    assert f"{LOOK}/accept" not in house.call("GET", "/data/hotel_bookings", "operator").text
    assert "is not held back" in house.call("GET", f"{LOOK}/accept", "operator").text
    hold_back(house, monkeypatch)
    for caller, offered in (("viewer", False), ("auditor", False), ("operator", True)):
        assert (f"{LOOK}/accept" in house.call("GET", "/data/hotel_bookings", caller).text) == offered
        assert (house.call("GET", f"{LOOK}/accept", caller).status_code == 200) == offered
        form = house.form("operator", f"{LOOK}/accept")
        if not offered:
            assert house.call("POST", f"{LOOK}/accept", caller, data={"form": form}).status_code == 403
    assert not house.started


def test_what_was_accepted_is_the_delivery_as_its_plan_told_it(house: House, monkeypatch: Any) -> None:
    hold_back(house, monkeypatch)
    form = house.form("operator", f"{LOOK}/accept")
    hold_back(house, monkeypatch, quarantined=19, reasons={RULES[0]: 18, HELD: 1}, again=2)
    answer = house.call("POST", f"{LOOK}/accept", "operator", data={"form": form})
    assert answer.status_code == 403 and "Open the page again" in answer.text and not house.started
    hold_back(house, monkeypatch, outcome="accepted in part", again=3)
    form = house.form("operator", f"{LOOK}/again")
    assert house.call("POST", f"{LOOK}/accept", "operator", data={"form": form}).status_code == 403
    assert not house.started


def test_a_rollback_carries_the_champion_of_its_plan(house: House) -> None:
    assert "no earlier champion to return to" in house.call("GET", BACK, "operator").text
    house.watched.promotion("2", 21.0)
    plan = house.call("GET", BACK, "operator").text
    assert "from version 2 back to version 1" in plan
    assert house.call("GET", f"/api{BACK}", "operator").json()["returns"]["version"] == "1"
    answer = start(house, "operator", BACK, replaces="2")
    conf = {"dry_run": False, "replaces": "2"}
    assert house.started == [("roll_back_model_hotel_bookings", f"Bearer {house.tokens['operator']}", conf)]
    where = answer.headers["location"].removeprefix("/airflow/rempart")
    assert house.call("GET", where, "operator").headers["refresh"] == "2"
    house.watched.record("rollback", "hotel_bookings", {"champion": "1", "replaces": "2", "alias_was": "2"})
    house.state = "success"
    assert "The champion is version 1." in house.call("GET", where, "operator").text


def test_the_page_of_models_tells_of_an_alias_that_was_moved_by_hand(house: House, monkeypatch: Any) -> None:
    assert "moved by hand" not in house.call("GET", "/models", "viewer").text
    why = "MLflow's alias champion stood at version 9, and the champion by the ledger is version 1: <b>by hand</b>"
    body = {"what": ALARM, "classification": "", "found": "9", "champion": "1", "reasons": [why]}
    house.watched.record("denial", "hotel_bookings", body)
    house.watched.record("denial", "hotel_bookings", {**body, "found": "8"}, timedelta(days=40))
    house.watched.record("denial", "site 'primary'", {**body, "what": "data"})
    facts = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: facts)
    (alarm,) = models.models(facts, NOW).alarms
    assert (alarm.model, alarm.found, alarm.champion) == ("hotel_bookings", "9", "1")
    page = house.call("GET", "/models", "viewer").text
    assert "stood at version 9" in page and "rempart status" in page and "<b>by hand" not in page


def test_a_plan_that_is_old_rolls_nothing_back(house: House) -> None:
    house.watched.promotion("2", 21.0)
    form = house.form("operator", BACK)
    house.watched.promotion("3", 20.0)
    answer = house.call("POST", BACK, "operator", data={"form": form, "replaces": "2"})
    assert answer.status_code == 409 and "from version 3 back to version 2" in answer.text
    # nor does a form for one version go for another
    assert house.call("POST", BACK, "operator", data={"form": form, "replaces": "3"}).status_code == 403
    assert not house.started


@pytest.mark.parametrize(
    "path",
    [
        f"/data/{HOSTILE}",
        f"/data/hotel_bookings/quarantine/{HOSTILE}/look",
        f"{LOOK}/rows?run={HOSTILE}",
        f"{LOOK}/again?run={HOSTILE}",
        f"{BACK}?run={HOSTILE}",
        f"/models/{HOSTILE}/roll-back",
        "/data/nobody",
        "/models/nobody/roll-back",
        f"/data/hotel_bookings/quarantine/{'0' * 64}/look",
    ],
)
def test_what_a_reader_types_or_a_delivery_is_called_is_only_text(
    house: House, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.watched.delivery("cd" * 32, fault=HOSTILE, reasons={HOSTILE: 3})
    monkeypatch.setattr(sources, "newest", house.watched.facts)
    for address in (path, "/data/hotel_bookings"):
        answer = house.call("GET", address, "admin")
        assert answer.status_code in (200, 404, 422)
        assert HOSTILE not in answer.text or "json" in answer.headers["content-type"]


def test_the_newest_word_on_a_delivery_counts_and_expectations_have_its_first() -> None:
    watched = Watched()
    watched.record("snapshot", "hotel_bookings", {"snapshot": "s0", "site": "primary", "rows": 5, "quarantined": 4})
    watched.record("snapshot", "hotel_bookings", {"snapshot": "s1", "site": "primary", "rows": 9, "quarantined": 3})
    watched.delivery()
    watched.delivery("cd" * 32, timedelta(hours=1), quarantined=0, reasons={}, unexpected={RULES[0]: 0})
    watched.delivery(quarantined=1, accepted=19, added=2, again=1, snapshot="s2", unexpected={RULES[0]: 0})
    facts = watched.facts()
    found = quarantine.quality(facts, "hotel_bookings", NOW)
    assert found and (found.deliveries, found.quarantined, found.earlier) == (2, 5, 4)
    assert [delivery.again for delivery in found.in_quarantine] == [1]
    assert quarantine.rows(facts) == {"hotel_bookings": 5}
    adults, price = found.expectations
    assert [(sample.judged, sample.unexpected, sample.state) for sample in adults.history] == [
        (19, 2, "warning"),
        (19, 0, "good"),
    ]
    assert (adults.state, adults.unexpected, len(price.history)) == ("good", 2, 1)
    blind = quarantine.quality(watched.facts(evidence=Unknown("no answer")), "hotel_bookings", NOW)
    assert blind and not blind.known and not blind.expectations
    assert quarantine.quality(facts, "nobody", NOW) is None


def test_the_page_keeps_what_bytes_brought_first_when_they_come_again(house: House, monkeypatch: Any) -> None:
    repeated = {"again": 1, "came_again": True, "accepted": 0, "repeated": 17, "added": -17, "added_repeated": 17}
    hold_back(house, monkeypatch, outcome="accepted in part", quarantined=3, reasons={RULES[0]: 3}, **repeated)
    page = house.call("GET", "/data/hotel_bookings", "operator").text
    assert "Rows that wait in quarantine now: 3, of 1 of 1 recorded deliveries." in page
    first = "the same bytes came first at "
    assert first in page and ": 17 rows accepted, 0 repeated, 3 refused" in page
    hold_back(house, monkeypatch, outcome="accepted", quarantined=0, reasons={}, **repeated | {"again": 2})
    page = house.call("GET", "/data/hotel_bookings", "operator").text
    assert "Rows that wait in quarantine now: 0, of 0 of 1" in page and page.count(first) == 1


def test_a_delivery_without_a_row_to_judge_is_no_success() -> None:
    watched = Watched()
    watched.delivery(judged=0, unexpected={RULES[0]: 0}, fault="the file is empty")
    (expectation, _) = quarantine.expectations(watched.facts(), "hotel_bookings")
    assert expectation.state == "unknown" and expectation.history[0].share is None and expectation.has_plot


def test_a_refusal_is_drawn_beside_each_bound_that_it_was_held_against() -> None:
    watched = Watched()
    body = {"version": "3", "metrics": {"mae": 26.0}, "baselines": {"mae": 39.9}, "champion_metrics": {"mae": 22.0}}
    watched.record("refusal", "hotel_bookings", body | {"reasons": ["refused: mae"], "gate": GATE})
    watched.record("refusal", "other", body | {"metrics": {"mae": None}, "reasons": ["refused"], "gate": GATE})
    other, judged = models.models(watched.facts(), NOW).judgements
    assert other.plot is None and judged.plot is not None
    assert [(bound.rule, round(bound.value, 2), bound.kept) for bound in judged.plot.bounds] == [
        ("limit", 25.0, False),
        ("baseline", 31.92, True),
        ("champion", 22.44, False),
    ]
    for text in (Texts("en"), Texts("fr")):
        drawn = ElementTree.fromstring(str(charts.gate_plot("a<b", judged.plot, text)))  # noqa: S314 # ours
        assert (
            drawn.get("aria-label") == "a<b"
            and len([element for element in drawn.iter() if element.tag.endswith("rect")]) == 3
        )


def test_a_chart_of_an_expectation_has_a_mark_with_words_for_each_delivery() -> None:
    watched = Watched()
    watched.delivery()
    watched.delivery("cd" * 32, timedelta(hours=1))
    (expectation, _) = quarantine.expectations(watched.facts(), "hotel_bookings")
    drawn = str(charts.expectation_chart("share", expectation.history, Texts("en")))
    ElementTree.fromstring(drawn)  # noqa: S314 # ours
    assert drawn.count("<title>") == 2 and "2 of 19 rows broke it" in drawn


def test_rows_that_are_too_much_or_no_rows_are_not_opened() -> None:
    key = age.new_identity()
    assert sealed_rows.opened(sealed(key.recipient, "x"), key.secret, "hotel_bookings", DELIVERY)
    for answer in (None, {}, {"sealed": "A" * (sealed_rows.LARGEST + 1)}, {"sealed": "%%%"}, {"sealed": "QUJD"}):
        assert sealed_rows.opened(answer, key.secret, "hotel_bookings", DELIVERY) is None


def test_a_delivery_that_was_refused_as_a_whole_is_on_the_page(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = "missing columns: bearing"
    house.watched.delivery(
        "ef" * 32, outcome="refused", fault=fault, accepted=0, delivered=0, quarantined=0, reasons={}
    )
    monkeypatch.setattr(sources, "newest", house.watched.facts)
    page = house.call("GET", "/data/hotel_bookings", "admin").text
    assert f"<code>{'ef' * 6}</code>" in page.split('id="refused-as-a-whole"')[1] and fault in page
