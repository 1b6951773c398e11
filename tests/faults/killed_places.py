"""Places that a pipeline takes rows from, on real servers: each can be changed, and tells what it holds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg
import yaml

from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sites.port import Site
from tests.derived_project import write_project
from tests.http_service import Reply, Request, Service, serving
from tests.mariadb_server import MariadbServer

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LARGEST = 1000.0
PIPELINE = """
name: {name}
classification: personal
source: {source}
key: [meter]
moments: {{read: {{column: day}}}}
partition_by: day
schema:
  meter: {{type: string, known: read}}
  day: {{type: date, known: read}}
  kwh: {{type: number, known: read}}
  seen: {{type: timestamp, known: read}}
expectations:
  - {{expect: expect_column_values_to_be_between, column: kwh, min_value: 0, max_value: 1000, reason: kwh out of range}}
max_quarantined: 1
{rule}
features: {{own: {{kind: row, at: read, calendar: {{day: [month]}}}}}}
prediction: {{target: kwh, task: regression, at: read}}
holdout: {{column: day, start: 2026-02-01}}
gate: {{metric: mae, limit: 10, baseline_by: [day.month]}}
"""
NEWEST = "on_conflict: newest\nversion_by: seen"
TABLE = "CREATE TABLE readings (meter varchar(20) PRIMARY KEY, day date, kwh {number}, seen {time})"


class Reading(NamedTuple):
    """A row. One with a negative `kwh` is refused."""

    meter: str
    day: date
    kwh: float
    seen: datetime

    def csv(self) -> str:
        return f"{self.meter},{self.day},{self.kwh},{self.seen.isoformat()}"

    def json(self) -> dict[str, Any]:
        return {"meter": self.meter, "day": str(self.day), "kwh": self.kwh, "seen": self.seen.isoformat()}


def text_of(rows: Iterable[Reading]) -> bytes:
    """A delivery of CSV."""
    return "".join(f"{line}\n" for line in ["meter,day,kwh,seen", *(row.csv() for row in rows)]).encode()


def pipeline(name: str, rule: str = "", **source: Any) -> ModelPipeline:
    declared = json.dumps({"prefix": f"{name}/", **source})
    return ModelPipeline.model_validate(yaml.safe_load(PIPELINE.format(name=name, source=declared, rule=rule)))


@dataclass
class Rows:
    """The newest row of each meter, and how they change: new rows, a changed one, a late one, and a refused one."""

    held: dict[str, Reading] = field(default_factory=dict)
    tick: int = 0

    def change(self, draw: random.Random) -> list[Reading]:
        """Change the rows. Return those that are new or changed."""
        changed = [self._row(f"m{self.tick + 1}", draw) for _ in range(draw.randint(2, 5))]
        changed.append(self._row(f"late{self.tick}", draw, -timedelta(minutes=draw.randint(1, 4))))
        changed.append(self._row(f"bad{self.tick}", draw)._replace(kwh=-1.0))
        good = sorted(meter for meter, row in self.held.items() if row.kwh >= 0)
        if good:
            changed.append(self._row(draw.choice(good), draw))
        self.held |= {row.meter: row for row in changed}
        return list({row.meter: row for row in changed}.values())

    def _row(self, meter: str, draw: random.Random, shift: timedelta = timedelta(0)) -> Reading:
        self.tick += 1
        day = date(2026, 1 + draw.randrange(3), 1)
        return Reading(meter, day, draw.randint(0, 100) / 4, FIRST + timedelta(minutes=self.tick) + shift)

    @property
    def good(self) -> set[tuple[Any, ...]]:
        return {tuple(row) for row in self.held.values() if row.kwh >= 0}

    @property
    def bad(self) -> set[str]:
        return {row.meter for row in self.held.values() if row.kwh < 0}


class Place(Protocol):
    """A place with rows, and the pipeline that takes them."""

    pipeline: Pipeline

    def change(self, draw: random.Random) -> None: ...

    def good(self) -> set[tuple[Any, ...]]:
        """The rows that the snapshot must hold."""
        ...

    def bad(self) -> set[str]:
        """The meters of the rows that quarantine must hold."""
        ...


@dataclass
class _WithRows:
    pipeline: Pipeline
    rows: Rows = field(default_factory=Rows)

    def good(self) -> set[tuple[Any, ...]]:
        return self.rows.good

    def bad(self) -> set[str]:
        return self.rows.bad


@dataclass
class PostgresqlTable(_WithRows):
    owner: Connection = field(kw_only=True)

    def change(self, draw: random.Random) -> None:
        with psycopg.connect(self.owner.postgresql_url()) as opened, opened.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO readings VALUES (%s, %s, %s, %s) ON CONFLICT (meter) "
                "DO UPDATE SET day = EXCLUDED.day, kwh = EXCLUDED.kwh, seen = EXCLUDED.seen",
                self.rows.change(draw),
            )


@dataclass
class MariadbTable(_WithRows):
    server: MariadbServer = field(kw_only=True)

    def change(self, draw: random.Random) -> None:
        rows = [(*row[:3], row.seen.replace(tzinfo=None)) for row in self.rows.change(draw)]
        self.server.execute("REPLACE INTO readings VALUES (%s, %s, %s, %s)", rows)


@dataclass
class Bucket(_WithRows):
    """Files in a bucket: each has what changed; now and then one comes again under another name."""

    site: Site = field(kw_only=True)
    bucket: str = field(kw_only=True)
    files: int = 0

    def change(self, draw: random.Random) -> None:
        body = text_of(self.rows.change(draw))
        for _ in range(draw.randint(1, 2)):
            self.files += 1
            self.site.write(self.bucket, f"{self.pipeline.source.prefix}{self.files:03}.csv", body)


@dataclass
class Derived(_WithRows):
    """The rows of a query over another pipeline, which takes its files undisturbed. `take` ingests them."""

    base: Bucket = field(kw_only=True)
    take: Any = field(kw_only=True)

    def change(self, draw: random.Random) -> None:
        self.base.change(draw)
        self.take(self.base.pipeline)

    def good(self) -> set[tuple[Any, ...]]:
        return {row for row in self._derived() if row[2] <= LARGEST}

    def bad(self) -> set[str]:
        return {row[0] for row in self._derived() if row[2] > LARGEST}

    def _derived(self) -> Iterator[tuple[Any, ...]]:
        for meter, day, kwh, seen in self.base.good():
            yield meter, day, kwh * 50, seen


DERIVED = "SELECT meter, day, kwh * 50 AS kwh, seen FROM base"


def derived(folder: Path, base: Bucket, take: Any) -> Derived:
    """A project with a pipeline derived from another one."""
    text = PIPELINE.replace("{rule}", "")
    source = '{"kind": "derived", "prefix": "derived/", "inputs": ["base"], "sql": "include/sql/derived.sql"}'
    first = PIPELINE.format(name="base", source='{"prefix": "base/"}', rule=NEWEST)
    write_project(folder, first, text.format(name="derived", source=source), sql={"derived": DERIVED})
    return Derived(pipelines.load(folder / "include/pipelines/derived.yaml"), base=base, take=take)


@dataclass
class Api(_WithRows):
    """An HTTP service. `draw` decides which answers are faults."""

    draw: random.Random = field(kw_only=True)
    faults: int = 0

    def change(self, draw: random.Random) -> None:
        self.rows.change(draw)

    def answer(self, asked: Request) -> Reply:
        whole = self.whole(asked)
        if self.draw.random() < 0.2:
            self.faults += 1
            status = self.draw.choice([500, 503, 429, 200])
            if status != 200:
                return Reply(b"busy", status, {"Retry-After": "0"})
            return Reply(whole.body, whole.status, whole.headers, cut=len(whole.body) // 2)
        return whole

    def whole(self, asked: Request) -> Reply:
        """Three rows after a row, by time and meter, and the address of the next page."""
        since = datetime.fromisoformat(asked.query.get("since", FIRST.isoformat()))
        after = (asked.query.get("seen", ""), asked.query.get("meter", ""))
        rows = sorted(self.rows.held.values(), key=lambda row: (row.seen.isoformat(), row.meter))
        rows = [row for row in rows if row.seen >= since and (row.seen.isoformat(), row.meter) > after]
        some, more = rows[:3], len(rows) > 3
        found: dict[str, Any] = {"items": [row.json() for row in some], "next": None}
        if more:
            seen, meter = some[-1].seen.isoformat(), some[-1].meter
            found["next"] = f"/rows?seen={seen.replace('+', '%2B')}&meter={meter}"
        return Reply(json.dumps(found).encode())


@dataclass
class File(Api):
    """One file at an address, with an ETag, whose download can go on where it was cut."""

    def whole(self, asked: Request) -> Reply:
        body = text_of(self.rows.held.values())
        etag = f'"{self.rows.tick}"'
        if asked.headers.get("if-none-match") == etag:
            return Reply(status=304, headers={"ETag": etag})
        wanted = asked.headers.get("range")
        if wanted and asked.headers.get("if-range") == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            span = {"ETag": etag, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return Reply(body[start:], 206, span)
        return Reply(body, 200, {"ETag": etag})


@contextmanager
def service(kind: type[Api], draw: random.Random) -> Iterator[tuple[Api, Service]]:
    """A place behind HTTP, and its running service."""
    found: list[Api] = []
    with serving(lambda asked: found[0].answer(asked)) as running:
        if kind is File:
            spec = pipeline("download", NEWEST, kind="http", url=f"{running.url}/readings.csv", download=True,
                            format="csv")  # fmt: skip
        else:
            spec = pipeline("http", kind="http", url=f"{running.url}/rows", records="items",
                            pagination={"by": "next_url", "field": "next"},
                            cursor={"column": "seen", "overlap": "10m"}, cursor_parameter="since")  # fmt: skip
        found.append(kind(spec, draw=draw))
        yield found[0], running


def declared(config: Any, **places: Mapping[str, Any]) -> Any:
    """The configuration with more connections and origins."""
    data = config.model_dump(by_alias=True, exclude_unset=True)
    return type(config).model_validate(data | places)
