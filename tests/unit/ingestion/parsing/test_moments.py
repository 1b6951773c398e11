"""A moment outside the calendar refuses its row alone, with the moment's name, and stops no load or prediction."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion import isolated
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.parsing import moments
from rempart.settings.pipeline import Pipeline

SCHEMA = {
    "row": {"type": "integer", "known": "seen"},
    "day": {"type": "date", "known": "seen", "nullable": True},
    "at": {"type": "timestamp", "known": "seen"},
    "days": {"type": "integer", "known": "seen", "nullable": True},
    "hours": {"type": "integer", "known": "seen", "nullable": True},
    "minutes": {"type": "integer", "known": "seen", "nullable": True},
}
KINDS = pa.schema(
    [
        ("row", pa.int64()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        *((n, pa.int64()) for n in ("days", "hours", "minutes")),
    ]
)
ROW: dict[str, Any] = {
    "row": 1,
    "day": date(2026, 1, 1),
    "at": datetime(2026, 1, 1, tzinfo=UTC),
    "days": 0,
    "hours": 0,
    "minutes": 0,
}


def spec(**moment: Any) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "visits",
            "classification": "internal",
            "source": {"prefix": "visits/"},
            "key": ["row"],
            "moments": {"seen": {"column": "at"}, "asked": moment},
            "partition_by": "at",
            "schema": SCHEMA,
        }
    )


def refused(pipeline: Pipeline, *rows: dict[str, Any]) -> list[int]:
    found = moments.beyond(pa.Table.from_pylist([ROW | row for row in rows], KINDS), pipeline)
    assert all(why == ["moment 'asked': it lies before the year 1 or after the year 9999"] for why in found.values())
    return sorted(found)


OFFSETS = st.integers(-(10**7), 10**7) | st.integers(-(10**18) + 1, 10**18 - 1) | st.none()


@pytest.mark.parametrize("column", ["day", "at"])
@given(day=st.dates(), days=OFFSETS, hours=OFFSETS, minutes=OFFSETS)
def test_what_python_cannot_count_is_refused(
    column: str, day: date, days: int | None, hours: int | None, minutes: int | None
) -> None:
    pipeline = spec(column=column, minus_days="days", minus_hours="hours", minus_minutes="minutes")
    at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    row = {"day": day, "at": at, "days": days, "hours": hours, "minutes": minutes}
    if None in (days, hours, minutes):
        assert refused(pipeline, row) == []
        return
    assert days is not None and hours is not None and minutes is not None
    micros = (days * 1440 + hours * 60 + minutes) * 60_000_000
    first, end = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
    wanted = (at - first) // timedelta(microseconds=1) - micros
    last = (end - first) // timedelta(microseconds=1)
    is_inside = 0 <= wanted <= last and abs(days) <= 4e6 and abs(hours) <= 1e8 and abs(minutes) < 2**31
    assert refused(pipeline, row) == ([] if is_inside else [0])


def test_a_fixed_offset_and_other_rows_of_the_file() -> None:
    early, late = ROW | {"day": date(1, 1, 1)}, ROW | {"day": date(9999, 12, 31)}
    assert refused(spec(column="day", minus="1 days"), ROW, early, late, {"day": None}) == [1]
    assert refused(spec(column="day", plus="1 days"), ROW, early, late, {"day": None}) == [2]
    assert refused(spec(column="day"), early, late) == [], "a day that stands for ever is no fault"


def test_columns_that_are_not_there_are_passed_over() -> None:
    table = pa.Table.from_pylist([ROW], KINDS).drop_columns(["days"])
    assert moments.beyond(table, spec(column="day", minus_days="days")) == {}


def test_a_delivery_is_read_but_for_such_rows(tmp_path: Path) -> None:
    """In the process that reads deliveries."""
    pipeline = spec(column="day", minus="1 days 2 hours", minus_days="days")
    lines = [
        f"{n},2026-01-01,2026-01-01T00:00:00Z,{days},0,0" for n, days in enumerate(["1", "999999999999", "-3000000"])
    ]
    (file := tmp_path / "visits.csv").write_text("\n".join([",".join(SCHEMA), *lines, ""]))
    found = isolated.stage(file, file.name, pipeline, Limits(), tmp_path / "out")
    assert found.fault is None and found.good == 1
    reason = "moment 'asked': it lies before the year 1 or after the year 9999"
    assert [(row.line, tuple(row.reasons)) for row in found.refused] == [(3, (reason,)), (4, (reason,))]
