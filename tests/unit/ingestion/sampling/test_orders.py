"""The orders of dates that a draft proposes as expectations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.expectations import broken
from rempart.ingestion.sampling.facts import column_facts
from rempart.ingestion.sampling.orders import Order, orders
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sources import Dialect
from tests.unit.ingestion.drafts import folded

FIRST = date(2025, 1, 1)


def found(columns: Mapping[str, Sequence[str | None]]) -> tuple[Order, ...]:
    table = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    facts = [column_facts(name, table[name], None, Dialect()) for name in table.column_names]
    return orders(facts, table, Dialect())


def days(*after: int) -> list[str]:
    return [str(FIRST + timedelta(days=number)) for number in after]


def test_only_orders_that_follow_from_no_others_are_found() -> None:
    rows = range(100)
    columns = {"paid": days(*(n + 9 for n in rows)), "ordered": days(*rows), "sent": days(*(n + 1 for n in rows))}
    assert found(columns) == (Order("ordered", "sent", 100, 0), Order("sent", "paid", 100, 0))
    wide = {f"d{number:03}": days(*(n + number for n in rows)) for number in range(120)}
    assert len(found(wide)) == 39, "the pairs of all columns would take minutes"
    assert found({"a": columns["ordered"], "b": columns["ordered"]}) == (), "always the same day"
    assert found({"a": columns["ordered"], "at": [f"{day}T10:00Z" for day in columns["sent"]]}) == ()


@given(st.integers(0, 12), st.integers(0, 40))
def test_rows_that_break_an_order_and_rows_without_both_dates_are_counted(wrong: int, empty: int) -> None:
    ordered = days(*range(200))
    sent: list[str | None] = [*days(*(n + 3 if n >= wrong else n - 2 for n in range(200)))]
    sent[200 - empty :] = [None] * empty
    pairs = found({"ordered": ordered, "sent": sent})
    assert pairs == ((Order("ordered", "sent", 200 - empty, wrong),) if wrong <= 0.05 * (200 - empty) else ())


def test_the_draft_has_the_order_with_the_rows_that_break_it_and_they_are_refused(tmp_path: Path) -> None:
    ends = [n - 4 if n in (7, 9) else n + n % 5 for n in range(300)]
    rows = [
        f"{n},{first},{last},{n % 7}.5\n"
        for n, first, last in zip(range(300), days(*range(300)), days(*ends), strict=True)
    ]
    (file := tmp_path / "hires.csv").write_text("hire_id,start_day,end_day,price\n" + "".join(rows))
    text = draft_pipeline(file, target="price")
    asked = "reason: end_day is before start_day}    # CHECK: 2 of 300 rows break it; such rows go to quarantine"
    assert asked in folded(text)
    pipeline = ModelPipeline.model_validate(yaml.safe_load(text))
    table = pa.table(
        {
            "start_day": [FIRST + timedelta(days=n) for n in range(300)],
            "end_day": [None if n == 20 else FIRST + timedelta(days=end) for n, end in enumerate(ends)],
        }
    )
    rules = [rule for rule in pipeline.expectations if "before" in rule.reason]
    assert broken(rules, table) == {7: ["end_day is before start_day"], 9: ["end_day is before start_day"]}


def test_dates_are_proposed_as_moments_in_the_order_of_the_rows(tmp_path: Path) -> None:
    columns = [days(*(n + later for n in range(120))) for later in (9, 40, 0, 20)]
    cells = "".join(f"{n},{','.join(row)},{n % 7}\n" for n, row in enumerate(zip(*columns, strict=True)))
    (file := tmp_path / "loans.csv").write_text("loan,lent_on,returned_on,member_since,due_on,days\n" + cells)
    text = draft_pipeline(file, target="days")
    moments = folded(text).split("\nmoments:")[1].split("\npartition_by")[0].splitlines()[1:]
    named = [line.split(":")[0].strip("# ") for line in moments if "column: " in line]
    assert named == ["member_since", "event", "outcome", "due_on", "returned_on"]
    assert [line for line in moments if not line.startswith("  # ")] == ["  event: {column: lent_on}"]
