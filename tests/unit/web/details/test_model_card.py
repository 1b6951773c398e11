"""The page of a model card shows what the record tells, as text, and a version without a card is not found."""

from __future__ import annotations

import pytest

from tests.unit.models.card import carded
from tests.unit.web.test_routes import House, house

pytestmark = pytest.mark.airflow
__all__ = ["house"]  # the fixture
CARD = "/models/hotel_bookings/1/card"


def test_the_card_shows_the_record_in_the_readers_language(house: House) -> None:
    shown = house.call("GET", CARD, "viewer")
    assert shown.status_code == 200 and "unsafe-inline" not in shown.headers["content-security-policy"]
    for wanted in ("Price per room and night", "By stay__room: 2 groups have fewer than 30 rows", "Trial One", "22.5"):
        assert wanted in shown.text
    assert shown.text.count("<svg") == 5 and "style=" not in shown.text and "Erika" not in shown.text
    assert "Quelles sont ses limites ?" in house.call("GET", f"{CARD}?lang=fr", "viewer").text
    assert f'href="/airflow/rempart{CARD}"' in house.call("GET", "/models", "viewer").text
    told = house.call("GET", f"/api{CARD}", "viewer").json()
    assert told["sha256"] == "ee" * 32 and told["card"]["metrics"][0]["name"] == "mae"


def test_a_version_without_a_card_or_explanations_is_told(house: House) -> None:
    assert house.call("GET", "/models/hotel_bookings/2/card", "viewer").status_code == 404
    bare = carded.kept(explanations=None, decisions=[], standing="not judged", watched=[])
    house.watched.record("model-card", "hotel_bookings/2", bare)
    shown = house.call("GET", "/models/hotel_bookings/2/card", "viewer").text
    assert "were not measured for this version" in shown and "<svg" not in shown


def test_markup_in_a_card_is_shown_as_text(house: House) -> None:
    hostile = "<script>alert(1)</script>"
    body = carded.kept()
    card = body["card"]
    card["intended"] |= {"description": hostile, "owner": hostile, "holdout": hostile}
    for feature in (*card["features"], *card["explanations"]["importance"], *card["explanations"]["dependence"]):
        feature |= {"name": hostile} if "name" in feature else {"feature": hostile}
    for segment in card["explanations"]["segments"]:
        segment |= {"by": hostile}
        segment["groups"][0] |= {"label": hostile}
    house.watched.record("model-card", "hotel_bookings/1", body)
    shown = house.call("GET", CARD, "viewer").text
    assert hostile not in shown and "&lt;script&gt;alert(1)" in shown
