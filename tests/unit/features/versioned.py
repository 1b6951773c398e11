"""Stays with versions of rows, and by brute force what was valid at a moment."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import FIRST_DAY, KINDS, booked, expected, row
from tests.unit.features.stays import stays

Row = dict[str, Any]


def versioned(name: str = "stays") -> ModelPipeline:
    """The stays of `stays`, whose rows are valid from `seen`."""
    schema = stays().model_dump(by_alias=True, exclude_unset=True)["schema"]
    seen = {"type": "timestamp", "known": "booking"}
    return stays(name, schema={**schema, "seen": seen}, on_conflict="history", version_by="seen")


def arrow(rows: list[Row]) -> pa.Table:
    schema = pa.schema([*KINDS.items(), ("seen", pa.timestamp("us", "UTC"))])
    return pa.Table.from_pylist(rows, schema=schema)


def random_versions(seed: int, count: int) -> list[Row]:
    """One to three versions of each stay: values, groups and the arrival itself may change."""
    dice = random.Random(seed)  # noqa: S311 - test data
    rows = []
    for stay in range(count):
        day = dice.randrange(20)
        hours = sorted(dice.sample(range(-24, 24 * 12), dice.choice([1, 1, 2, 3])))
        for hour in hours:
            made = row(
                stay,
                day + dice.choice([0, 0, 1, 4]),
                lead=dice.choice([0, 3, 9]),
                price=dice.choice([None, round(dice.uniform(1, 300), 2)]),
                nights=dice.choice([None, 1, 2, 7]),
                house=dice.choice([None, "a", "ab"]),
                room=dice.choice(["b", "c"]),
                returning=dice.choice([None, True, False]),
            )
            rows.append(made | {"seen": instant(FIRST_DAY + timedelta(days=day)) + timedelta(hours=hour)})
    return rows


def instant(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def wanted(pipeline: ModelPipeline, rows: list[Row]) -> list[Row]:
    """By brute force, for each stay: its moment, target, and what was valid and known at the moment."""
    versions: dict[int, list[Row]] = {}
    for version in sorted(rows, key=lambda r: (r["stay"], r["seen"])):
        versions.setdefault(version["stay"], []).append(version)
    by_day = [_on_its_day(some) for some in versions.values()]
    return [_example(pipeline, some, by_day) for some in versions.values()]


def _visible(version: Row) -> datetime:
    return max(instant(booked(version)), version["seen"])


def _on_its_day(versions: list[Row]) -> Row:
    """The version that counts for the trailing features, as if it was booked on the day to which it belongs."""
    days = [max(booked(version), version["seen"].date()) for version in versions]
    day = min(days)
    chosen = [version for version, its in zip(versions, days, strict=True) if its == day][-1]
    return chosen | {"arrival": day + timedelta(days=chosen["lead"])}


def _example(pipeline: ModelPipeline, versions: list[Row], by_day: list[Row]) -> Row:
    newest = versions[-1]
    at = instant(booked(newest))
    valid = [version for version in versions if version["seen"] <= at][-1:]
    shown = sorted((v for v in versions if _visible(v) <= at), key=lambda v: (_visible(v), v["seen"]))[-1:]
    made: Row = {"stay": newest["stay"], "event_timestamp": at, "price": newest["price"], "arrival": newest["arrival"]}
    made["room"] = valid[0]["room"] if valid else None
    for column in ("nights", "returning", "room"):
        made[f"stay__{column}"] = shown[0][column] if shown else None
    made["stay__arrival_month"] = shown[0]["arrival"].month if shown else None
    made["stay__arrival_day_of_week"] = shown[0]["arrival"].isoweekday() if shown else None
    for view in ("trend", "rooms"):
        found = expected(pipeline, view, by_day, valid[0], at.date()) if valid else None
        for feature in pipeline.features[view].features():
            made[f"{view}__{feature}"] = (found or {}).get(feature)
    return made


def rounded(rows: list[Row]) -> list[Row]:
    """Rows to compare: the sums of two engines differ in their last digits."""
    return [{n: float(f"{v:.9g}") if isinstance(v, float) else v for n, v in sorted(given.items())} for given in rows]
