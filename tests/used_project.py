"""A project in which sales use feature views of two other pipelines: readings of weather, and stations that change."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from rempart.settings import pipelines
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline

READINGS = """
name: readings
classification: internal
source: {prefix: readings/}
key: [reading]
moments: {measured: {column: measured_at}}
partition_by: measured_at
schema:
  reading: {type: integer, known: measured}
  measured_at: {type: timestamp, known: measured}
  station: {type: string, known: measured}
  celsius: {type: number, known: measured}
max_quarantined: 1
features:
  own: {kind: row, at: measured, calendar: {measured_at: [hour]}}
  lately:
    {kind: trailing, at: measured, description: Recent weather, by: [station], windows: [1d, 3d], mean: [celsius]}
prediction: {target: celsius, task: regression, at: measured}
holdout: {column: measured_at, start: 2026-02-01}
gate: {metric: mae, limit: 100, baseline_by: [measured_at.hour]}
"""
STATIONS = """
name: stations
classification: personal
source: {prefix: stations/}
key: [station]
on_conflict: history
version_by: changed_at
moments: {opening: {column: opened}}
partition_by: opened
schema:
  station: {type: string, known: opening}
  opened: {type: date, known: opening}
  changed_at: {type: timestamp, known: opening}
  height: {type: number, known: opening}
  zone: {type: category, values: [coast, hills], known: opening}
  visitors: {type: number, known: opening}
max_quarantined: 1
features:
  site: {kind: row, at: opening, columns: [height, zone]}
prediction: {target: visitors, task: regression, at: opening}
holdout: {column: opened, start: 2026-02-01}
gate: {metric: mae, limit: 1000, baseline_by: [zone]}
"""
SALES = """
name: sales
classification: personal
source: {prefix: sales/}
key: [sale]
moments: {sale: {column: sold_at}}
partition_by: sold_at
schema:
  sale: {type: integer, known: sale}
  sold_at: {type: timestamp, known: sale}
  nearest: {type: string, known: sale, nullable: true}
  amount: {type: number, known: sale}
  kind: {type: category, values: [till, web], known: sale}
max_quarantined: 1
features:
  own: {kind: row, at: sale, columns: [kind]}
  weather: {kind: used, from: readings.lately, key: {station: nearest}}
  place: {kind: used, from: stations.site, key: {station: nearest}, description: The nearest station}
expressions:
  warmer: weather.celsius_mean_1d - weather.celsius_mean_3d
prediction: {target: amount, task: regression, at: sale}
holdout: {column: sold_at, start: 2026-02-01}
gate: {metric: mae, limit: 1000, baseline_by: [kind]}
"""
PROJECT = (READINGS, STATIONS, SALES)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
Row = dict[str, Any]
_INSTANT = pa.timestamp("us", "UTC")


def spec(name: str) -> ModelPipeline:
    """A pipeline of the project in REMPART_HOME."""
    return pipelines.with_model(pipelines.load(project_root() / f"include/pipelines/{name}.yaml"))


def after(days: float) -> datetime:
    return FIRST + timedelta(days=days)


def reading(number: int, day: float, station: str = "a", celsius: float = 1.0) -> Row:
    return {"reading": number, "measured_at": after(day), "station": station, "celsius": celsius}


def station(name: str, opened: int, changed: float, height: float = 1.0, zone: str = "coast") -> Row:
    day: date = after(opened).date()
    return {
        "station": name,
        "opened": day,
        "changed_at": after(changed),
        "height": height,
        "zone": zone,
        "visitors": 1.0,
    }


def sale(number: int, day: float, nearest: str | None = "a", amount: float = 10.0) -> Row:
    return {"sale": number, "sold_at": after(day), "nearest": nearest, "amount": amount, "kind": "till"}


def table(name: str, rows: Iterable[Row]) -> pa.Table:
    """Rows of a pipeline, as a snapshot has them."""
    kinds = {"integer": pa.int64(), "timestamp": _INSTANT, "date": pa.date32(), "number": pa.float64()}
    columns = {column: kinds.get(of.type, pa.string()) for column, of in spec(name).columns.items()}
    return pa.Table.from_pylist(list(rows), pa.schema(list(columns.items())))


def csv(rows: Iterable[Row]) -> list[str]:
    """Rows as lines of a delivery."""
    return [",".join(_cell(value) for value in row.values()) for row in rows]


def _cell(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else "" if value is None else str(value)
