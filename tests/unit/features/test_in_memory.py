"""The training set without a server equals the brute force that the feature store is held to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from rempart.errors import FeatureError
from rempart.features.in_memory import training_set
from rempart.flows.training.train import without_late
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import arrow, booked, expected, random_rows, row
from tests.unit.features.stays import stays


@pytest.mark.parametrize("seed", [1, 2])
def test_no_leak_brute_force(seed: int) -> None:
    pipeline, rows = stays(), random_rows(seed, 150)
    table = training_set(pipeline, arrow(rows))
    assert table.column_names == ["stay", "event_timestamp", "price", "arrival", "room", *pipeline.model_inputs()]
    assert table["stay"].to_pylist() == [r["stay"] for r in rows]
    for made, given in zip(table.to_pylist(), rows, strict=True):
        assert made["event_timestamp"] == datetime.combine(booked(given), datetime.min.time(), UTC)
        assert (made["price"], made["stay__nights"], made["stay__returning"]) == (
            given["price"],
            given["nights"],
            given["returning"],
        )
        assert made["stay__arrival_day_of_week"] == given["arrival"].isoweekday()
        for view in ("trend", "rooms"):
            wanted = expected(pipeline, view, rows, given, booked(given)) or {}
            for feature in pipeline.features[view].features():
                value, found = wanted.get(feature), made[f"{view}__{feature}"]
                assert found == (value if value is None else pytest.approx(value, rel=1e-9)), (feature, given["stay"])


def test_a_row_without_a_moment_is_refused() -> None:
    with pytest.raises(FeatureError, match="1 row is without a moment"):
        training_set(stays(), arrow([row(1, 0), row(2, 1) | {"arrival": None}]))


def timed() -> ModelPipeline:
    """Readings of sensors at clock times; the moment of the prediction is some hours and minutes before."""
    sections: dict[str, Any] = {
        "name": "readings",
        "classification": "internal",
        "source": {"prefix": "readings/", "time_zone": "Europe/Berlin"},
        "key": ["taken"],
        "moments": {
            "before": {"column": "taken", "minus": "1 day 2 hours", "minus_minutes": "early"},
            "taken": {"column": "taken"},
        },
        "partition_by": "taken",
        "schema": {
            "taken": {"type": "timestamp", "known": "before"},
            "early": {"type": "integer", "known": "before"},
            "price": {"type": "decimal", "precision": 9, "scale": 2, "known": "taken"},
        },
        "features": {
            "own": {"kind": "row", "at": "before", "columns": ["early"], "calendar": {"taken": ["hour", "week"]}}
        },
        "prediction": {"target": "price", "task": "regression", "at": "before"},
        "holdout": {"column": "taken", "last": "2d"},
        "gate": {"metric": "mae", "limit": 1.0, "baseline_by": ["taken.hour"]},
    }
    return ModelPipeline.model_validate(sections)


def test_an_outcome_that_is_known_a_fixed_time_after_its_row_is_learned_from_only_then() -> None:
    """Of 40 rows, one a day, those of the last 30 are held out. The outcome of a row is known 7 days after it."""
    sections = timed().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    sections["moments"] = {"taken": {"column": "taken"}, "outcome": {"column": "taken", "plus": "7 days"}}
    sections["schema"]["early"]["known"] = sections["schema"]["taken"]["known"] = "taken"
    sections["schema"]["price"]["known"] = "outcome"
    sections["features"]["own"]["at"] = sections["prediction"]["at"] = "taken"
    sections["holdout"] = {"column": "taken", "start": "2026-03-11"}
    spec = ModelPipeline.model_validate(sections)
    taken = [datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(days=number) for number in range(40)]
    table = pa.table(
        {
            "taken": pa.array(taken, pa.timestamp("us", "UTC")),
            "early": pa.array(range(40), pa.int64()),
            "price": pa.array(["1.25"] * 40).cast(pa.decimal128(9, 2)),
        }
    )
    made = training_set(spec, table)
    assert made["_known_at"].to_pylist() == [each + timedelta(days=7) for each in taken]
    learned = without_late(spec, made)["taken"].to_pylist()
    assert learned == taken[:3] + taken[10:], "what was taken on 4 to 10 March became known on the 11th or later"


def test_a_trailing_view_reads_an_outcome_only_once_its_fixed_time_is_over() -> None:
    sections = {
        "name": "repairs", "classification": "internal", "source": {"prefix": "repairs/"}, "key": ["job"],
        "moments": {"event": {"column": "day"}, "outcome": {"column": "day", "plus": "5 days"}}, "partition_by": "day",
        "schema": {
            "job": {"type": "integer", "known": "event"},
            "branch": {"type": "category", "known": "event", "values": ["a"]},
            "day": {"type": "date", "known": "event"}, "hours": {"type": "number", "known": "outcome"},
        },
        "features": {
            "own": {"kind": "row", "columns": ["branch"]},
            "trend": {"kind": "trailing", "by": ["branch"], "days": [30], "mean": ["hours"]},
        },
        "prediction": {"target": "hours", "task": "regression", "at": "event"},
        "holdout": {"column": "day", "last": "2d"}, "gate": {"metric": "mae", "limit": 1, "baseline_by": ["branch"]},
    }  # fmt: skip
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(9)]
    table = pa.table(
        {"job": pa.array(range(9), pa.int64()), "branch": ["a"] * 9, "day": days, "hours": [float(n) for n in range(9)]}
    )
    made = training_set(ModelPipeline.model_validate(sections), table)["trend__hours_mean_30d"].to_pylist()
    assert made == [None] * 6 + [0.0, 0.5, 1.0], "that of 1 January is known at the end of the 6th"
    sections["moments"] = dict(reversed(sections["moments"].items()))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"moments\.event: it is earlier than 'outcome', which stands before it"):
        ModelPipeline.model_validate(sections)


def test_clock_times_and_offsets_are_those_of_the_offline_store() -> None:
    taken = [datetime(2026, 3, 28, 23, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC)]
    table = pa.table(
        {
            "taken": pa.array(taken, pa.timestamp("us", "UTC")),
            "early": pa.array([0, 15], pa.int64()),
            "price": pa.array(["1.25", "2.50"]).cast(pa.decimal128(9, 2)),
        }
    )
    made = training_set(timed(), table).to_pylist()
    assert [r["event_timestamp"] for r in made] == [
        taken[0] - timedelta(hours=26),
        taken[1] - timedelta(hours=26, minutes=15),
    ]
    assert [r["own__taken_hour"] for r in made] == [0, 3]  # in Berlin, where clocks went from 2 to 3
    assert [r["own__taken_week"] for r in made] == [date(2026, 3, 29).isocalendar().week] * 2
    assert [r["price"] for r in made] == [1.25, 2.5]
