"""A training set of rows with versions shows what was valid at each moment, and nothing of a later version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import duckdb
import pytest

from rempart.features import tables
from rempart.features.in_memory import training_set
from rempart.features.labels import KNOWN_AT
from rempart.features.parquet_store import loading, scratch
from rempart.features.plan import view_tables
from rempart.features.views import select_view
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import FIRST_DAY, booked, random_rows, row
from tests.unit.features.stays import stays
from tests.unit.features.versioned import arrow, instant, random_versions, rounded, versioned, wanted


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_no_leak_brute_force(seed: int) -> None:
    pipeline, rows = versioned(), random_versions(seed, 120)
    made = training_set(pipeline, arrow(rows)).drop_columns([KNOWN_AT]).to_pylist()
    assert len(made) < len(rows)
    inputs = ["stay", "event_timestamp", "price", "arrival", "room", *pipeline.model_inputs()]
    assert list(made[0]) == inputs
    brute = [{name: given[name] for name in inputs} for given in wanted(pipeline, rows)]
    assert rounded(made) == rounded(brute)


def version(stay: int, hours: int, **values: Any) -> dict[str, Any]:
    """A stay booked on the third day, valid from so many hours after the booking."""
    return row(stay, 2, **values) | {"seen": instant(FIRST_DAY) + timedelta(days=2, hours=hours)}


def test_a_later_version_changes_the_target_and_no_feature() -> None:
    pipeline = versioned()
    first = [version(stay, -1, nights=2, price=100.0) for stay in (1, 2)]
    before = training_set(pipeline, arrow(first)).to_pylist()
    later = version(1, 1, nights=99, price=200.0, room="z", house="red")
    after = training_set(pipeline, arrow([*first, later])).to_pylist()
    assert [given["price"] for given in after] == [200.0, 100.0]
    other = {"price": 0, KNOWN_AT: None}
    assert [given | other for given in after] == [given | other for given in before]
    assert after[0]["stay__nights"] == 2


def test_of_a_row_that_was_recorded_after_its_moment_nothing_was_known() -> None:
    (made,) = training_set(versioned(), arrow([version(1, 1)])).to_pylist()
    assert made["price"] == 100.0
    assert {made[name] for name in versioned().model_inputs()} == {None}


def postponed() -> list[dict[str, Any]]:
    """A stay of the 11th day that is moved to the 4th on the 3rd, and to the 13th on the 16th."""
    seen = [instant(FIRST_DAY) + timedelta(days=days) for days in (0, 2, 15)]
    first = row(1, 10, lead=0, nights=1, price=10.0, room="b", house="a")
    second = row(1, 3, lead=0, nights=2, price=20.0, room="c", house="a")
    third = row(1, 12, lead=0, nights=3, price=30.0, room="b", house="a")
    return [version | {"seen": at} for version, at in zip((first, second, third), seen, strict=True)]


def test_a_version_that_moves_the_moment_back_stands_for_the_row_from_its_own_time_on() -> None:
    (made,) = training_set(versioned(), arrow(postponed())).to_pylist()
    assert (made["price"], made["event_timestamp"]) == (30.0, instant(FIRST_DAY + timedelta(days=12)))
    assert (made["room"], made["stay__nights"]) == ("c", 2)


def test_the_last_row_of_a_view_is_the_newest_version_wherever_its_moment_is() -> None:
    pipeline, rows = versioned(), postponed()
    shown = content(pipeline, rows[:2], "stay")
    assert [given["nights"] for given in sorted(shown, key=lambda given: given["event_timestamp"])] == [1, 2]


def test_a_postponed_row_counts_on_the_day_that_its_valid_version_names() -> None:
    def trend(*rows: dict[str, Any]) -> dict[int, tuple[Any, Any]]:
        shown = content(versioned(), list(rows), "trend")
        days = {(given["event_timestamp"] - instant(FIRST_DAY)).days: given for given in shown}
        return {day: (given["rows_3d"], given["price_mean_3d"]) for day, given in sorted(days.items())}

    first, second, third = postponed()
    assert trend(first) == {11: (1, 10.0)}
    assert trend(first, second) == {4: (1, 20.0)}
    late = row(2, 12, lead=0, price=50.0, house="a") | {"seen": instant(FIRST_DAY)}
    assert trend(first, second, third, late) == {4: (1, 20.0), 13: (1, 50.0), 15: (2, 40.0)}
    moved_on = third | {"arrival": third["arrival"] + timedelta(days=8)}
    assert trend(first, second, moved_on) == {4: (1, 20.0), 21: (1, 30.0)}, "no window held the row when it was moved"


def test_rows_with_one_version_that_was_recorded_in_time_have_the_features_of_rows_without_versions() -> None:
    rows = random_rows(7, 150)
    timely = [given | {"seen": instant(booked(given) - timedelta(days=1))} for given in rows]
    with_versions = training_set(versioned(), arrow(timely)).drop_columns([KNOWN_AT]).to_pylist()
    assert rounded(with_versions) == rounded(training_set(stays(), arrow(timely)).to_pylist())


def content(pipeline: ModelPipeline, rows: list[dict[str, Any]], view: str) -> list[dict[str, Any]]:
    """The rows of a view's table."""
    (table,) = [given for given in view_tables(pipeline) if given.view == view]
    names = ", ".join(f'"{name}"' for name, _ in tables.view_columns(table))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(scratch._POSTGRESQL)
        loading._load_rows(connection, pipeline, arrow(rows).to_reader())
        selected = loading.in_duckdb(select_view(pipeline, table))
        return connection.cursor().sql(f"SELECT * FROM ({selected}) v ({names})").to_arrow_table().to_pylist()
