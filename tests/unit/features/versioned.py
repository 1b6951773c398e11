"""Stays with versions of rows, and by brute force what was valid at a moment."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from rempart.settings.pipeline import ModelPipeline, TrailingView
from tests.integration.test_features import FIRST_DAY, KINDS, booked, row
from tests.unit.features.stays import stays

Row = dict[str, Any]


def versioned(name: str = "stays", rule: str = "history") -> ModelPipeline:
    """The stays of `stays`, whose rows are valid from `seen`."""
    schema = stays().model_dump(by_alias=True, exclude_unset=True)["schema"]
    seen = {"type": "timestamp", "known": "booking"}
    return stays(name, schema={**schema, "seen": seen}, on_conflict=rule, version_by="seen")


def arrow(rows: list[Row]) -> pa.Table:
    schema = pa.schema([*KINDS.items(), ("seen", pa.timestamp("us", "UTC"))])
    return pa.Table.from_pylist(rows, schema=schema)


def random_versions(seed: int, count: int) -> list[Row]:
    """One to three versions of each stay: values, groups and the arrival itself may change, to earlier and later."""
    dice = random.Random(seed)  # noqa: S311 - test data
    rows = []
    for stay in range(count):
        day = dice.randrange(20)
        hours = sorted(dice.sample(range(-24, 24 * 12), dice.choice([1, 1, 2, 3])))
        for hour in hours:
            made = row(
                stay,
                day + dice.choice([0, 0, 1, 4, -6]),
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


def valid(versions: list[Row], at: datetime) -> Row | None:
    """The version of one stay that is valid at an instant: from its own time until that of the next one."""
    ends = [version["seen"] for version in versions[1:]] + [datetime.max.replace(tzinfo=UTC)]
    found = [version for version, end in zip(versions, ends, strict=True) if version["seen"] <= at < end]
    assert len(found) < 2
    return found[0] if found else None


def wanted(pipeline: ModelPipeline, rows: list[Row]) -> list[Row]:
    """By brute force, for each stay: its moment, target, and what was valid at the moment."""
    stays: dict[int, list[Row]] = {}
    for version in sorted(rows, key=lambda r: (r["stay"], r["seen"])):
        stays.setdefault(version["stay"], []).append(version)
    return [_example(pipeline, versions, list(stays.values())) for versions in stays.values()]


def _example(pipeline: ModelPipeline, versions: list[Row], stays: list[list[Row]]) -> Row:
    newest = versions[-1]
    at = instant(booked(newest))
    then = valid(versions, at)
    made: Row = {"stay": newest["stay"], "event_timestamp": at, "price": newest["price"], "arrival": newest["arrival"]}
    made["room"] = then["room"] if then else None
    for column in ("nights", "returning", "room"):
        made[f"stay__{column}"] = then[column] if then else None
    made["stay__arrival_month"] = then["arrival"].month if then else None
    made["stay__arrival_day_of_week"] = then["arrival"].isoweekday() if then else None
    for view in ("trend", "rooms"):
        found = trailing(pipeline, view, stays, then, at.date()) if then else None
        for feature in pipeline.features[view].features():
            made[f"{view}__{feature}"] = (found or {}).get(feature)
    return made


def trailing(pipeline: ModelPipeline, name: str, stays: list[list[Row]], entity: Row, day: date) -> Row | None:
    """A group's figures on a day: those of the last day on which its rows changed, for as long as the view shows."""
    view = pipeline.features[name]
    assert isinstance(view, TrailingView)

    def group(at: date) -> list[Row]:
        then = [valid(versions, instant(at)) for versions in stays]
        return [r for r in then if r and booked(r) < at and all(r[c] == entity[c] for c in view.by)]

    if any(entity[column] is None for column in view.by):
        return None
    longest = timedelta(days=max(view.days or ()))
    for changed in (day - timedelta(days=n) for n in range(longest.days + 2)):
        now, before = group(changed), group(changed - timedelta(days=1))
        begun = [r for r in now if r not in before and booked(r) >= changed - longest]
        replaced = [r for r in before if r not in now and booked(r) >= changed - timedelta(days=1) - longest]
        if begun or replaced:
            return _figures(view, now, changed)
    return None


def _figures(view: TrailingView, rows: list[Row], at: date) -> Row:
    """The figures of rows in the windows that end at a day."""
    made: Row = {}
    for days in view.days or ():
        window = [r for r in rows if booked(r) >= at - timedelta(days=days)]
        for column in view.mean:
            values = [r[column] for r in window if r[column] is not None]
            made[f"{column}_mean_{days}d"] = sum(values) / len(values) if values else None
        made[f"rows_{days}d"] = len(window)
    return made


def rounded(rows: list[Row]) -> list[Row]:
    """Rows to compare: the sums of two engines differ in their last digits."""
    return [{n: float(f"{v:.9g}") if isinstance(v, float) else v for n, v in sorted(given.items())} for given in rows]
