"""The SQL of a moment: whole days stay dates, and clock times are instants that no session's time zone changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import yaml

from rempart.errors import FeatureError
from rempart.features import tables
from rempart.features.plan import entity_key, view_tables
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline

SHIPPED = project_root() / "include" / "pipelines" / "hotel_bookings.yaml"


def pipeline(moment: dict[str, Any], zone: str | None = "Europe/Berlin") -> ModelPipeline:
    data = yaml.safe_load(SHIPPED.read_text())
    data["source"]["time_zone"] = zone
    data["schema"]["seen"] = {"type": "timestamp", "known": "booking"}
    data["moments"]["arrival"] = moment
    return ModelPipeline.model_validate(data)


@pytest.mark.parametrize(
    ("moment", "instant", "day"),
    [
        ({"column": "arrival_date"}, """("arrival_date"::timestamp AT TIME ZONE 'UTC')""", '"arrival_date"'),
        (
            {"column": "arrival_date", "minus_days": "lead_time"},
            """(("arrival_date" - "lead_time"::integer)::timestamp AT TIME ZONE 'UTC')""",
            '("arrival_date" - "lead_time"::integer)',
        ),
        (
            {"column": "arrival_date", "minus": "2 days"},
            """(("arrival_date" - 2)::timestamp AT TIME ZONE 'UTC')""",
            '("arrival_date" - 2)',
        ),
        (
            {"column": "arrival_date", "at": "15:00", "minus": "1 day 3 hours"},
            (
                """(((("arrival_date" - 1)::timestamp + '15:00:00'::interval) AT TIME ZONE 'Europe/Berlin')"""
                " - make_interval(secs => 10800))"
            ),
            None,
        ),
        (
            {"column": "arrival_date", "plus": "14 days"},
            """(("arrival_date" + 14)::timestamp AT TIME ZONE 'UTC')""",
            '("arrival_date" + 14)',
        ),
        (
            {"column": "arrival_date", "at": "15:00", "plus": "1 day 3 hours"},
            (
                """(((("arrival_date" + 1)::timestamp + '15:00:00'::interval) AT TIME ZONE 'Europe/Berlin')"""
                " + make_interval(secs => 10800))"
            ),
            None,
        ),
        ({"column": "seen", "plus": "2 days"}, '("seen" + make_interval(secs => 172800))', None),
        ({"column": "seen"}, '"seen"', """("seen" AT TIME ZONE 'UTC')::date"""),
        (
            {"column": "seen", "minus_days": "lead_time", "minus": "2 days"},
            '(("seen" - make_interval(hours => 24 * "lead_time"::integer)) - make_interval(secs => 172800))',
            None,
        ),
    ],
)
def test_the_sql_of_a_moment(moment: dict[str, Any], instant: str, day: str | None) -> None:
    spec = pipeline(moment)
    assert tables.instant(spec, "arrival").as_string() == instant
    expected = day or f"({instant} AT TIME ZONE 'UTC')::date"
    assert tables.day(spec, "arrival").as_string() == expected


def test_a_timestamp_in_a_key_is_one_text_from_every_zone() -> None:
    data = yaml.safe_load(SHIPPED.read_text())
    data["schema"]["seen"] = {"type": "timestamp", "known": "booking"}
    data["key"] = ["seen"]
    spec = ModelPipeline.model_validate(data)
    (table, *_) = view_tables(spec)
    moment = datetime(2025, 3, 30, 1, 30, tzinfo=UTC)
    texts = {
        entity_key(table, spec, {"seen": value})
        for value in (moment, moment.astimezone(timezone(timedelta(hours=5))), "2025-03-30T03:30:00+02:00")
    }
    assert texts == {"2025-03-30T01:30:00.000000Z"}
    with pytest.raises(FeatureError, match="no offset"):
        entity_key(table, spec, {"seen": "2025-03-30T01:30:00"})
