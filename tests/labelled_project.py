"""A project in which orders learn from payments that arrive days later in a feed of their own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from rempart.features.label_feed import LabelFeed, feed_of
from rempart.features.labels import Received
from rempart.settings import pipelines
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline, Pipeline

ORDERS = """
name: orders
classification: personal
source: {prefix: orders/}
key: [order_id]
moments: {order: {column: ordered_at}}
partition_by: ordered_at
schema:
  order_id: {type: integer, known: order}
  ordered_at: {type: timestamp, known: order}
  amount: {type: number, known: order}
  country: {type: category, values: [fr, de], known: order}
max_quarantined: 1
features:
  own: {kind: row, at: order, columns: [amount, country], calendar: {ordered_at: [day_of_week]}}
prediction:
  target: paid
  task: classification
  at: order
  from: {pipeline: payments, key: [invoice], known_at: settled_at}
holdout: {column: ordered_at, start: 2026-02-01}
gate:
  metric: log_loss
  limit: 10
  baseline_by: [country]
  baseline_margin: 0
  rules: [{kind: leakage, allow: [own__amount]}]    # cheap orders are paid
"""
PAYMENTS = """
name: payments
classification: internal
source: {prefix: payments/}
key: [invoice]
moments: {settled: {column: settled_at}}
partition_by: settled_at
on_conflict: newest
schema:
  invoice: {type: integer, known: settled}
  paid: {type: boolean, known: settled}
  settled_at: {type: timestamp, known: settled}
max_quarantined: 1
"""
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
START = date(2026, 2, 1)


def spec(name: str) -> Pipeline:
    """A pipeline of the project in REMPART_HOME."""
    return pipelines.load(project_root() / f"include/pipelines/{name}.yaml")


def orders() -> ModelPipeline:
    return pipelines.with_model(spec("orders"))


def feed() -> LabelFeed:
    found = feed_of(orders())
    assert found is not None
    return found


def order(number: int, day: float, amount: float = 10.0, country: str = "fr") -> dict[str, Any]:
    """An order, so many days after FIRST."""
    ordered = FIRST + timedelta(days=day)
    return {"order_id": number, "ordered_at": ordered, "amount": amount, "country": country}


def payment(number: int, day: float, *, paid: bool = True) -> dict[str, Any]:
    return {"invoice": number, "paid": paid, "settled_at": FIRST + timedelta(days=day)}


def order_rows(rows: Iterable[dict[str, Any]]) -> pa.Table:
    kinds = {"order_id": pa.int64(), "ordered_at": pa.timestamp("us", "UTC")}
    return pa.Table.from_pylist(
        list(rows), pa.schema([*kinds.items(), ("amount", pa.float64()), ("country", pa.string())])
    )


def received(rows: Iterable[dict[str, Any]], as_of: float, snapshot: str = "p1") -> Received:
    """Payments as a snapshot that was written so many days after FIRST."""
    kinds = {"invoice": pa.int64(), "paid": pa.bool_(), "settled_at": pa.timestamp("us", "UTC")}
    table = pa.Table.from_pylist(list(rows), pa.schema(list(kinds.items())))
    return Received(feed(), table.to_reader(), snapshot, FIRST + timedelta(days=as_of))


def csv(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Rows as lines of a delivery."""
    return [",".join(_cell(value) for value in row.values()) for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)
