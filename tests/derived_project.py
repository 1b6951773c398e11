"""A project with two pipelines and one that is derived from both, and a platform in memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rempart.flows.ingestion.extract import ExtractResult, extract
from rempart.flows.ingestion.ingest import IngestResult, ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings import pipelines
from rempart.settings.config import project_root
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site

NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)
"""The site in memory has the real clock: what is kept until then stays."""
TRIPS = """
name: trips
classification: personal
source: {prefix: trips/}
key: [trip]
moments: {begin: {column: started}}
partition_by: started
schema:
  trip: {type: integer, known: begin}
  started: {type: timestamp, known: begin}
  rider: {type: string, known: begin}
  km: {type: number, known: begin}
max_quarantined: 1
features: {own: {kind: row, at: begin, calendar: {started: [hour]}}}
prediction: {target: km, task: regression, at: begin}
holdout: {column: started, start: 2026-01-03}
gate: {metric: mae, limit: 10, baseline_by: [started.hour]}
"""
WEATHER = """
name: weather
classification: public
source: {prefix: weather/}
key: [hour]
moments: {seen: {column: hour}}
partition_by: hour
schema:
  hour: {type: timestamp, known: seen}
  rain: {type: number, known: seen}
max_quarantined: 1
features: {own: {kind: row, at: seen, calendar: {hour: [hour]}}}
prediction: {target: rain, task: regression, at: seen}
holdout: {column: hour, start: 2026-01-03}
gate: {metric: mae, limit: 10, baseline_by: [hour.hour]}
"""
WET = """
name: wet_trips
classification: personal
source: {kind: derived, prefix: wet_trips/, inputs: [trips, weather], sql: include/sql/wet_trips.sql}
key: [hour]
moments: {begin: {column: hour}}
partition_by: hour
schema:
  hour: {type: timestamp, known: begin}
  rain: {type: number, known: begin}
  km: {type: number, known: begin}
  trips: {type: integer, known: begin}
expectations:
  - {expect: expect_column_values_to_be_between, column: km, min_value: 0, max_value: 1000, reason: km out of range}
max_quarantined: 0.5
features: {own: {kind: row, at: begin, columns: [rain]}}
prediction: {target: km, task: regression, at: begin}
holdout: {column: hour, start: 2026-01-03}
gate: {metric: mae, limit: 10, baseline_by: [hour.hour]}
"""
SQL = """
-- kilometres of all trips of an hour, and its rain: no rider is in the result
SELECT w.hour, w.rain, sum(t.km) AS km, count(*) AS trips
FROM trips AS t
JOIN weather AS w ON w.hour = date_trunc('hour', t.started)
GROUP BY w.hour, w.rain
"""
DAILY = """
name: daily
classification: personal
source: {kind: derived, prefix: daily/, inputs: [wet_trips], sql: include/sql/daily.sql}
key: [day]
moments: {begin: {column: day}}
partition_by: day
schema:
  day: {type: date, known: begin}
  km: {type: number, known: begin}
max_quarantined: 0.5
features: {own: {kind: row, at: begin, calendar: {day: [month]}}}
prediction: {target: km, task: regression, at: begin}
holdout: {column: day, start: 2026-01-03}
gate: {metric: mae, limit: 10, baseline_by: [day.month]}
"""
DAILY_SQL = "SELECT CAST(hour AS DATE) AS day, sum(km) AS km FROM wet_trips GROUP BY ALL"


def write_project(folder: Path, *texts: str, sql: dict[str, str] | None = None) -> None:
    """Write a project with the shipped rempart.yaml and these pipeline files."""
    source = Path(__file__).parent.parent
    shutil.copy(source / "rempart.yaml", folder / "rempart.yaml")
    if not (folder / "include/operators").exists():
        shutil.copytree(source / "include/operators", folder / "include/operators")
    for name in ("pipelines", "sql"):
        (folder / "include" / name).mkdir(parents=True, exist_ok=True)
    for text in texts or (TRIPS, WEATHER, WET):
        (folder / f"include/pipelines/{yaml.safe_load(text)['name']}.yaml").write_text(text)
    for name, query in ({"wet_trips": SQL} if sql is None else sql).items():
        (folder / f"include/sql/{name}.sql").write_text(query)


def changed(text: str, **keys: Any) -> str:
    """A pipeline file with other values for some keys."""
    return yaml.safe_dump({**yaml.safe_load(text), **keys}, sort_keys=False)


@dataclass
class World:
    """A platform in memory, in the project of REMPART_HOME."""

    platform: Platform

    @property
    def home(self) -> Site:
        return self.platform.sites["primary"]

    def pipeline(self, name: str) -> Pipeline:
        return pipelines.load(project_root() / f"include/pipelines/{name}.yaml")

    def deliver(self, name: str, file: str, rows: Sequence[str]) -> IngestResult:
        """Take rows into a pipeline whose files arrive by themselves."""
        spec = self.pipeline(name)
        text = "\n".join([",".join(spec.columns), *rows, ""])
        self.home.write("landing", f"{spec.source.prefix}{file}.csv", text.encode())
        return ingest(self.platform, spec)

    def derive(self, name: str = "wet_trips") -> tuple[ExtractResult, IngestResult]:
        spec = self.pipeline(name)
        return extract(self.platform, spec), ingest(self.platform, spec)

    def snapshot(self, name: str = "wet_trips") -> snapshots.Snapshot | None:
        return snapshots.current(self.home, "lake", name)

    def rows(self, name: str = "wet_trips") -> list[tuple[Any, ...]]:
        found = self.snapshot(name)
        if found is None:
            return []
        return [tuple(row.values()) for row in snapshots.load_table(self.home, "lake", found).to_pylist()]


def trip(number: int, hour: int, km: float, rider: str = "r", day: int = 1) -> str:
    return f"{number},2026-01-{day:02}T{hour:02}:15:00Z,{rider},{km}"


def weather(*rain: float, day: int = 1) -> list[str]:
    """One row for each hour of a day, from midnight on."""
    return [f"2026-01-{day:02}T{hour:02}:00:00Z,{found}" for hour, found in enumerate(rain)]
