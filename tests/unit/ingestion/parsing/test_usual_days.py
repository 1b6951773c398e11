"""A time that was typed wrong decides neither what a model is tested on, nor which rows are accepted."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.parsing.usual_days import LAST_YEAR, usual
from tests.unit.ingestion.drafts import unbroken
from tests.unit.ingestion.test_draft import load, write

FIRST = date(2024, 1, 1)


def days(count: int, *odd: date) -> Counter[date]:
    return Counter([FIRST + timedelta(days=n // 3) for n in range(count)] + list(odd))


@given(st.dictionaries(st.dates(), st.integers(1, 50), min_size=1))
def test_each_row_is_usual_or_counted_and_nearly_all_are_usual(rows: dict[date, int]) -> None:
    found = usual(rows)
    near = {day: number for day, number in rows.items() if day.year <= LAST_YEAR} or rows
    assert set(found.days) <= set(near) and list(found.days) == sorted(found.days)
    assert found.odd == sum(number for day, number in near.items() if day not in found.days)
    assert found.odd <= sum(near.values()) / 50 and found.days[-1].year <= found.last_year
    assert all(day.year > found.last_year for day in near if day > found.days[-1])


def test_a_day_years_from_all_others_is_odd_and_a_sparse_past_is_not() -> None:
    assert usual(days(1500, date(1900, 1, 1), date(2062, 1, 1))) == usual(days(1500)).__class__(
        sorted(days(1500)), 2035, 2
    )
    assert usual(days(1500, date(2028, 6, 1))).last_year == 2027
    past = [FIRST - timedelta(days=40 * n) for n in range(1, 30)]
    assert usual(days(1500, *past)).odd == 0 and usual(days(1500, *past)).last_year == LAST_YEAR
    assert usual(days(60, date(2062, 1, 1))).odd == 0, "one of a few rows"


def test_a_draft_tests_a_model_on_the_newest_usual_days_and_asks_about_the_others(tmp_path: Path) -> None:
    rows = [f"T{n},{FIRST + timedelta(days=n // 3)},{n % 30}" for n in range(1500)]
    clean = load(draft_pipeline(write(tmp_path / "tickets.csv", "\n".join(["ticket,day,price", *rows, ""]))))
    rows[700], rows[701] = "T700,1900-01-01,3", "T701,2062-01-01,4"
    text = draft_pipeline(write(tmp_path / "tickets.csv", "\n".join(["ticket,day,price", *rows, ""])))
    assert load(text).holdout == clean.holdout and load(text).holdout.last == timedelta(days=99)
    assert "CHECK: 2 rows are outside, years from all others; such rows go to quarantine" in unbroken(text)
    assert "column: day, min_value: 2024-01-01, max_value: 2035-12-31" in text
