"""Trailing views on real databases: PostgreSQL gives what DuckDB gives, and the online store what holds at its time."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rempart.features import in_memory, offline, training_set
from rempart.features.databases import FeatureDatabases
from rempart.features.freshness.content import read_content
from rempart.flows.training.materialize import materialize_rows
from tests.integration.test_features import NOW
from tests.online_rows import online_rows
from tests.unit.features import aggregated
from tests.unit.features.aggregated import orders

pytestmark = pytest.mark.stores


@pytest.mark.parametrize("history", [False, True])
def test_each_aggregate_is_that_of_the_training_set_without_a_server(
    feature_databases: FeatureDatabases, *, history: bool
) -> None:
    """Both run one SQL; tests/unit/features/test_aggregates.py holds it to the definition."""
    dice = random.Random(7)  # noqa: S311 - test data
    for number, view in enumerate(({"windows": ["30m", "2d"]}, {"windows": ["2d"], "at": "day"}, {"days": [1, 3]})):
        pipeline = orders(f"orders{number}{'h' * history}", history=history, **view)
        rows = aggregated.random_orders(dice, 60, versions=history)
        materialize_rows(feature_databases, pipeline, aggregated.arrow(rows).to_reader(), "s1", NOW)
        stored = training_set.point_in_time(feature_databases, pipeline)[0].to_pylist()
        tried = in_memory.training_set(pipeline, aggregated.arrow(rows)).to_pylist()
        assert len(stored) == len(tried)
        assert all(map(aggregated.same, stored, tried))


def test_what_left_a_window_leaves_the_online_store_as_time_passes(feature_databases: FeatureDatabases) -> None:
    pipeline, start = orders("orders_online", windows=["6h", "2d"]), aggregated.START
    rows = aggregated.random_orders(random.Random(3), 2, versions=False)  # noqa: S311 - test data
    for number, row in enumerate(rows):
        row |= {"shop": "a", "units": number, "ordered": start + timedelta(hours=10 * number), "day": start.date()}

    def newest() -> timedelta | None:
        """From the first row's moment to the newest of which the online values tell, by the view's age."""
        _, content = read_content(feature_databases, pipeline)
        (past,) = (view for view in content if view.view == "past")
        return past.newest and past.newest - start

    def told(hours: int) -> tuple[Any, ...]:
        at = start + timedelta(hours=hours)
        materialize_rows(feature_databases, pipeline, aggregated.arrow(rows).to_reader(), "s1", at)
        (found,) = online_rows(feature_databases, pipeline, "past", [{"shop": "a"}], at)
        return tuple(found[name] for name in ("rows_6h", "rows_2d", "days_since_last", "units_last_2d"))

    assert told(0) == (None, None, None, None), "the first row counts only after its moment"
    assert told(1) == (1, 1, 1 / 24, 0)
    assert told(8) == (0, 1, 8 / 24, 0)
    assert newest() == timedelta(), "a value that left its window makes nothing newer, and a planned row counts later"
    assert told(12) == (1, 2, 2 / 24, 1)
    assert told(49) == (0, 1, 39 / 24, 1)
    assert newest() == timedelta(hours=10)
    assert told(80) == (0, 0, None, None)


@pytest.mark.parametrize("history", [False, True])
def test_a_load_that_makes_the_entities_of_changed_rows_gives_what_a_load_of_all_gives(
    feature_databases: FeatureDatabases, monkeypatch: pytest.MonkeyPatch, *, history: bool
) -> None:
    monkeypatch.setattr(offline, "LARGEST_PART", 0)  # so few rows would all be made anew
    dice = random.Random(5)  # noqa: S311 - test data
    pipeline = orders(f"orders_part{'h' * history}", history=history, windows=["30m", "2d"])
    pool = {
        (row["order"], row["seen"] if history else None): row
        for row in aggregated.random_orders(dice, 60, versions=history)
    }
    there = set(dice.sample(sorted(pool), 30))

    def load(minute: int) -> int:
        rows = aggregated.arrow([pool[key] for key in sorted(there)])
        return offline.load(feature_databases, pipeline, rows.to_reader(), "s", NOW + timedelta(minutes=minute)).changed

    load(0)
    for number in range(1, 7):
        there ^= set(dice.sample(sorted(pool), 4))  # some rows come, some go
        for key in dice.sample(sorted(there), 3):
            pool[key] |= {"amount": float(number), "shop": dice.choice([None, "a", "b", "c"])}
        assert load(2 * number)
        with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
            opened.execute("UPDATE feature_views SET made_by = NULL WHERE pipeline = %s", (pipeline.name,))
        assert load(2 * number + 1) == 0, "all rows made anew are as they were"
