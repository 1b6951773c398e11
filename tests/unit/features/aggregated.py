"""Orders of shops with every aggregate and delay, and their features by the definition, in plain Python."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from rempart.settings.learning import Aggregate, window_length
from rempart.settings.pipeline import ModelPipeline, TrailingView

Row = dict[str, Any]
START = datetime(2020, 2, 27, tzinfo=UTC)  # windows cross 29 February
DAY, TICK = timedelta(days=1), timedelta(microseconds=1)
KINDS = {
    "order": pa.int64(),
    "ordered": pa.timestamp("us", "UTC"),
    "day": pa.date32(),
    "shipped": pa.date32(),
    "settled": pa.timestamp("us", "UTC"),
    "seen": pa.timestamp("us", "UTC"),
    "shop": pa.string(),
    "amount": pa.float64(),
    "units": pa.int64(),
    "channel": pa.string(),
    "weight": pa.float64(),
    "fraud": pa.bool_(),
    "paid": pa.float64(),
}
AGGREGATES: dict[str, Any] = {
    "sum": ["amount", "weight"],
    "mean": ["amount", "paid"],
    "min": ["amount", "paid"],
    "max": ["units", "weight"],
    "std": ["amount"],
    "count": ["paid", "channel"],
    "last": ["units", "channel", "fraud"],
    "distinct": ["channel", "fraud"],
    "share": ["fraud", "channel=web"],
    "since_last": True,
}


VALUES: dict[str, list[Any]] = {
    "amount": [None, 0.1, 2.5, -7.25, 1e6],
    "units": [None, 1, 2, 40],
    "channel": [None, "web", "shop", "fair"],
    "weight": [None, 0.5, 3.0],
    "fraud": [None, True, False],
    "paid": [None, 1.0, 10.0, 12.5],  # the target: without it, an order is open
}


DECIMALS = ("amount", "weight", "paid")
"""Numbers that a pipeline may declare as decimals; two of them are known later than their row."""


def orders(
    name: str = "orders", *, at: str = "order", history: bool = False, decimals: bool = False, **view: Any
) -> ModelPipeline:
    """The pipeline; `view` has `windows` or `days`. The moment of an order is an instant, or with `at: day` a day."""
    schema: dict[str, dict[str, Any]] = {
        "order": {"type": "integer", "known": "day"},
        "ordered": {"type": "timestamp", "known": "day"},
        "day": {"type": "date", "known": "day"},
        "shipped": {"type": "date", "known": "ship", "nullable": True},
        "settled": {"type": "timestamp", "known": "settle", "nullable": True},
        "seen": {"type": "timestamp", "known": "day"},
        "shop": {"type": "string", "known": "day", "nullable": True},
        "amount": {"type": "number", "known": "day", "nullable": True},
        "units": {"type": "integer", "known": "day", "nullable": True},
        "channel": {"type": "category", "known": "day", "values": ["web", "shop", "fair"], "nullable": True},
        "weight": {"type": "number", "known": "ship", "nullable": True},
        "fraud": {"type": "boolean", "known": "settle", "nullable": True},
        "paid": {"type": "number", "known": "settle", "nullable": True},
    }
    for column in DECIMALS if decimals else ():
        schema[column] |= {"type": "decimal", "precision": 12, "scale": 3}
    sections: dict[str, Any] = {
        "name": name,
        "classification": "internal",
        "source": {"prefix": "orders/"},
        "on_conflict": "newest",
        "key": ["order"],
        "moments": {
            "day": {"column": "day"},
            "order": {"column": "ordered"},
            "ship": {"column": "shipped"},
            "settle": {"column": "settled"},
        },
        "partition_by": "day",
        "schema": schema,
        "features": {
            "own": {"kind": "row", "at": at, "columns": ["units"]},
            "past": {"kind": "trailing", "at": at, "by": ["shop"], **AGGREGATES, **view},
        },
        "prediction": {"target": "paid", "task": "regression", "at": at},
        "holdout": {"column": "day", "last": "1d"},
        "gate": {"metric": "mae", "limit": 1.0, "baseline_by": ["channel"]},
    }
    if history:
        sections |= {"on_conflict": "history", "version_by": "seen"}
    return ModelPipeline.model_validate(sections)


def arrow(rows: list[Row], decimals: Collection[str] = ()) -> pa.Table:
    """The rows as a snapshot has them, where these columns are declared as decimals."""
    kinds = KINDS | dict.fromkeys(decimals, pa.decimal128(12, 3))
    return pa.Table.from_pylist(rows, schema=pa.schema(KINDS.items())).cast(pa.schema(kinds.items()))


def random_orders(dice: random.Random, count: int, *, versions: bool) -> list[Row]:
    """Orders of few times, so that moments are equal, or at the ends of windows, or a tick offset them."""

    def any_time() -> datetime:
        offset = dice.choice([timedelta(), timedelta(), timedelta(minutes=30), TICK, -TICK])
        return START + timedelta(hours=6 * dice.randrange(20)) + offset

    made: dict[tuple[int, datetime], Row] = {}
    for number in range(count):
        for _ in range(dice.choice([1, 2, 3]) if versions else 1):
            ordered, seen, shipped = any_time(), any_time(), dice.choice([None, any_time()])
            made[number, seen] = {
                "order": number,
                "ordered": ordered,
                "day": ordered.date(),
                "shipped": shipped and shipped.date(),
                "settled": dice.choice([None, any_time()]),
                "seen": seen,
                "shop": dice.choice([None, "a", "a", "b"]),
                **{name: dice.choice(values) for name, values in VALUES.items()},
            }
    return list(made.values())


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


class Definition:
    """The features of the view `past`, from what docs/adr/0106-windows.md says."""

    def __init__(self, pipeline: ModelPipeline, rows: list[Row]) -> None:
        view = pipeline.features["past"]
        assert isinstance(view, TrailingView)
        self.view, self.days = view, view.days is not None
        self.whole = self.days or view.at == "day"
        self.history = pipeline.conflict_rule == "history"
        self.keys: dict[int, list[Row]] = {}
        for row in sorted(rows, key=lambda row: (row["order"], row["seen"])):
            self.keys.setdefault(row["order"], []).append(row)

    def moment(self, row: Row) -> datetime:
        return midnight(row["day"]) if self.view.at == "day" else row["ordered"]

    def examples(self) -> Iterator[tuple[int, datetime, str | None]]:
        """Each order whose target is known, its moment, and its shop as known at that moment."""
        for key, versions in self.keys.items():
            if versions[-1]["paid"] is None:
                continue
            at = self.moment(versions[-1])
            known = [row for row in versions if not self.history or row["seen"] <= at]
            yield key, at, known[-1]["shop"] if known else None

    def features(self, shop: str | None, at: datetime) -> Row:
        """The features of a prediction at an instant, by the definition."""
        unknown = dict.fromkeys(self.view.features())
        now = at
        if self.whole:
            now = midnight(at.date())
        changes = [t for t in self.changes(shop) if t <= now]
        if shop is None or not changes:
            return unknown
        told = max(changes) if self.days else now
        if self.days and told < at - timedelta(days=max(self.view.days or ()) + 1):
            return unknown
        made = {each.feature: self.value(each, shop, told) for each in self.view.aggregates()}
        rows = [self.moment(row) for row in self.rows(shop, told, max(self.view.spans, key=window_length))]
        last = max(rows, default=None)
        if last is not None and self.whole:
            last = midnight(last.date())
        return made | {"days_since_last": None if last is None else (now - last) / DAY}

    def changes(self, shop: str | None) -> Iterator[datetime]:
        """The times at which a row of a shop, or its value, begins to count, and at which a counted one is replaced."""
        longest = max(map(window_length, self.view.spans))
        for versions in self.keys.values():
            for i, row in enumerate(versions):
                if row["shop"] != shop:
                    continue
                until = versions[i + 1]["seen"] if i + 1 < len(versions) else datetime.max.replace(tzinfo=UTC)
                past = self.up(until)
                end = min(self.after(self.moment(row)) + longest, past)
                begins = [self.begin(row, known) for known in (None, "ship", "settle")]
                counted = [begin for begin in begins if begin is not None and begin < end]
                yield from counted
                if counted and any(
                    self.begin(row, None) < min(self.after(self.moment(row)) + window_length(w), past) == past  # type: ignore[operator]
                    for w in self.view.spans
                ):
                    yield past

    def begin(self, row: Row, known: str | None) -> datetime | None:
        times = [self.after(self.moment(row))]
        if self.history:
            times.append(self.up(row["seen"]))
        if known == "ship":
            if row["shipped"] is None:
                return None
            times.append(midnight(row["shipped"]) + DAY)
        if known == "settle":
            if row["settled"] is None:
                return None
            times.append(self.after(row["settled"]))
        return max(times)

    def after(self, at: datetime) -> datetime:
        """The first time at which what is known at an instant may be used."""
        return midnight(at.date()) + DAY if self.whole else at + TICK

    def up(self, at: datetime) -> datetime:
        """The first time at which what is valid from an instant on is valid."""
        if not self.whole or at.year == 9999:
            return at
        return midnight((at + DAY - TICK).date())

    def rows(self, shop: str, now: datetime, window: str) -> list[Row]:
        """The rows that count at a time: of their group, before it, in the window, and valid."""
        found = []
        for versions in self.keys.values():
            valid = [row for row in versions if not self.history or row["seen"] <= now][-1:]
            for row in valid:
                at = self.moment(row)
                if self.whole:
                    at = midnight(at.date())
                if row["shop"] == shop and now - window_length(window) <= at < now:
                    found.append(row)
        return found

    def known(self, row: Row, column: str, now: datetime) -> bool:
        if row[column] is None:
            return False
        if column == "weight":
            return row["shipped"] is not None and midnight(row["shipped"]) + DAY <= now
        if column in ("fraud", "paid"):
            settled = row["settled"]
            if settled is not None and self.whole:
                settled = midnight(settled.date())
            return settled is not None and settled < now
        return True

    def value(self, each: Aggregate, shop: str, now: datetime) -> Any:
        rows = self.rows(shop, now, each.window)
        if each.function == "rows":
            return len(rows)
        column = each.column or ""
        rows = [row for row in rows if self.known(row, column, now)]
        values = [row[column] for row in rows]
        match each.function:
            case "sum":
                return math.fsum(values)
            case "mean":
                return math.fsum(values) / len(values) if values else None
            case "min":
                return min(values, default=None)
            case "max":
                return max(values, default=None)
            case "std":
                return statistics.stdev(values) if len(values) > 1 else None
            case "count":
                return len(values)
            case "distinct":
                return len(set(values))
            case "share":
                wanted = each.value if each.value is not None else True
                return sum(value == wanted for value in values) / len(values) if values else None
        latest = max(rows, key=lambda row: (self.tick(row), row["order"], row["seen"]), default=None)
        return latest and latest[column]

    def tick(self, row: Row) -> datetime:
        at = self.moment(row)
        return midnight(at.date()) if self.whole else at


def same(left: Row, right: Row) -> bool:
    """Whether two sets of features are equal, floats to rounding."""
    return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-6)
    return type(left) is type(right) and left == right
