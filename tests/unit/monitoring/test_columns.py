"""Which columns moved: rates of false alarms and of shifts found, seasons, nulls, unknown values, too few rows."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bench import monitor
from rempart.monitoring import columns, counting
from rempart.monitoring.columns import ColumnVerdict
from rempart.monitoring.profiles import Column, ColumnProfile, Profile, references
from rempart.settings.champions.monitoring import Monitoring

ROOM = Column("room", "category", ("plain", "sea", "suite"))
LEAD = Column("lead", "number")
RULES = Monitoring()


def profiles(*tables: pa.Table, of: Sequence[Column] = (LEAD, ROOM)) -> list[Profile]:
    """The profiles of tables with a column `day`, on the grid of the first."""
    grid = counting.edges(counting.batches(tables[0]), tables[0].num_rows, of)
    return [counting.profile(counting.batches(table), of, grid, "day") for table in tables]


def rows(count: int, seed: int, year: int = 2025, *, months: Sequence[int] = range(1, 13), **changes: Any) -> pa.Table:
    random = np.random.default_rng(seed)
    chosen = [months[place % len(months)] for place in range(count)]
    made: dict[str, Any] = {
        "lead": random.normal(50, 10, count),
        "room": np.array(ROOM.values)[random.choice(3, count, p=[0.6, 0.3, 0.1])],
        "day": [datetime.date(year, month, 1 + place % 28) for place, month in enumerate(chosen)],
    }
    for name, change in changes.items():
        made[name] = change(made[name], np.array(chosen))
    return pa.table(made)


def judged(before: pa.Table, after: pa.Table, rules: Monitoring = RULES) -> Mapping[str, ColumnVerdict]:
    training, window = profiles(before, after)
    return {verdict.column: verdict for verdict in columns.judge(training, window, rules)}


def test_windows_in_which_nothing_moved_are_green_and_a_shift_is_found(tmp_path: Path) -> None:
    before, same, moved = monitor.simulated(tmp_path, 20)
    quiet, _ = monitor.verdicts(before, same)
    shifted, _ = monitor.verdicts(before, moved)
    assert [monitor.alarms(quiet), monitor.hits(shifted), monitor.alarms(shifted)] == [0, 20, 20]
    assert shifted[0][0].column == "c0" and shifted[0][0].findings == ("values",)
    assert all(not column.findings for column in shifted[0][1:])


def test_counts_are_those_of_numpy() -> None:
    table = rows(2_000, 1, lead=lambda lead, _: np.round(lead))
    ((lead, _),) = [tuple(found.values()) for found in profiles(table)]
    values = table["lead"].to_numpy()
    wanted: list[int] = []
    for below, edge in zip([-np.inf, *lead.edges], lead.edges, strict=False):
        wanted += [int(((values > below) & (values < edge)).sum()), int((values == edge).sum())]
    assert list(lead.total()) == [*wanted, int((values > lead.edges[-1]).sum())]
    assert lead.rows == 2_000 and lead.periods == tuple(f"2025-{month:02}" for month in range(1, 13))
    assert (min(lead.edges), max(lead.edges)) == (values.min(), values.max())


def test_a_season_of_the_training_data_is_no_drift_but_another_level_is() -> None:
    def seasonal(lead: Any, month: Any) -> Any:
        return lead + 30 * (month > 5) * (month < 9)

    before = rows(12_000, 1, lead=seasonal)
    summer = judged(before, rows(3_000, 2, 2026, months=(6, 7, 8), lead=seasonal))
    assert not summer["lead"].findings and summer["lead"].moved is not None and summer["lead"].moved < RULES.moved
    further = rows(3_000, 2, 2026, months=(6, 7, 8), lead=lambda lead, month: seasonal(lead, month) * 1.6)
    assert judged(before, further)["lead"].findings == ("values",)


def test_a_history_that_grows_is_compared_with_its_last_months() -> None:
    grown = rows(12_000, 1, lead=lambda lead, month: lead + 20 * np.minimum(month, 8))
    after = rows(3_000, 2, 2026, months=(1, 2, 3), lead=lambda lead, _: lead + 160)
    assert not judged(grown, after)["lead"].findings


def test_a_large_window_does_not_alarm_on_a_trifle() -> None:
    before, after = rows(100_000, 1), rows(100_000, 2, 2026, lead=lambda lead, _: lead + 0.8)
    found = judged(before, after)["lead"]
    assert found.p < 1e-6 and not found.findings
    assert judged(before, after, Monitoring(moved=0.02))["lead"].findings == ("values",)


def test_nulls_and_values_outside_of_the_list_are_findings() -> None:
    after = rows(
        2_000,
        2,
        2026,
        lead=lambda lead, _: pa.array(lead, mask=np.arange(len(lead)) % 5 == 0),
        room=lambda room, _: np.where(np.arange(len(room)) % 50 == 0, "a cellar", room),
    )
    found = judged(rows(10_000, 1), after)
    assert found["lead"].findings == ("nulls",) and found["lead"].nulls == pytest.approx(0.2)
    assert found["room"].findings == ("unknown values",) and found["room"].unknown == pytest.approx(0.02)
    assert "a cellar" not in str(found)


def test_numbers_that_are_no_numbers_count_as_missing() -> None:
    bad = rows(600, 1, lead=lambda lead, _: np.where(np.arange(len(lead)) % 3 == 0, np.nan, lead))
    ((lead, _),) = [tuple(found.values()) for found in profiles(bad)]
    assert lead.missing == 200 and lead.rows == 600


def test_too_few_values_are_unknown_and_never_green() -> None:
    after = rows(1_000, 2, 2026, lead=lambda lead, _: pa.array(lead, mask=np.arange(len(lead)) > 100))
    found = judged(rows(10_000, 1), after)["lead"]
    assert found.moved is None and found.allowed is None and found.findings == ("nulls",)


def test_without_a_time_all_rows_are_the_reference() -> None:
    timeless = [
        table.set_column(2, "day", pa.nulls(table.num_rows, pa.date32()))
        for table in (rows(5_000, 1), rows(1_000, 2, lead=lambda lead, _: lead + 4))
    ]
    assert judged(*timeless)["lead"].findings == ("values",)


def test_the_reference_is_the_season_or_all_and_what_was_just_before() -> None:
    periods = ("2024-06", "2024-12", "2025-01", "2025-02")
    whole = ColumnProfile(ROOM, (), periods, ((300, 0, 0, 0),) * 4, (0,) * 4)
    chosen = [found.periods for found in references(whole, ["2025-06", "2025-07"], 200)]
    assert chosen == [("2024-06",), ("2025-01", "2025-02")]
    assert [found.periods for found in references(whole, ["2025-06"], 400)] == [periods]
    assert [found.periods for found in references(whole, ["2025-01"], 200)] == [
        ("2024-06", "2024-12", "2025-02"),
        ("2024-12",),
    ]
