"""The sources: one suite over every kind. A new kind adds an entry to KINDS with a place to extract from.

The double below keeps the suite itself honest. Kind `sql` reads from memory here; the suite with real databases is
tests/integration/sql_source_suite.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.errors import CapabilityMissing
from rempart.ingestion.sources import csv_deliveries
from rempart.ingestion.sources.database import Relation
from rempart.ingestion.sources.port import Delivery, Extraction, Origin, Sink, Source, State
from rempart.ingestion.sources.registry import SOURCES
from rempart.ingestion.sources.row_memory import Row
from rempart.ingestion.sources.sql import SqlExtraction
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect
from tests.source_places import in_bucket, over_http, over_snapshots

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = [(f"row {n}", n) for n in range(7)]


class Killed(BaseException):
    """The process ended here."""


@dataclass
class MemorySink:
    """A landing bucket in memory; it may be killed before or after one of its deliveries."""

    stored: dict[str, bytes] = field(default_factory=dict)
    dies_at: int = -1
    stores_before_death: bool = False

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        body = b"".join(blocks)
        last, self.dies_at = self.dies_at == 0, self.dies_at - 1
        if not last or self.stores_before_death:
            self.stored[name] = body
        if last:
            raise Killed
        return Delivery(name, len(body), hashlib.sha256(body).hexdigest())


@dataclass
class Numbered:
    """The double: rows with a growing number, two to a delivery."""

    rows: list[tuple[str, int]]

    @property
    def origin(self) -> Origin:
        return Origin("this-machine", "memory", "FR", "FR")

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        new = [row for row in self.rows if row[1] > int(state.get("seen", "-1"))]
        made = []
        for start in range(0, len(new), 2):
            some = new[start : start + 2]
            text = "".join(f"{name},{number}\n" for name, number in some)
            made.append(sink.deliver(f"{some[0][1]}-{some[-1][1]}.csv", iter([text.encode()])))
        return Extraction(made, {"seen": str(new[-1][1])} if new else state)

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        raise CapabilityMissing("compare the keys of a double", "Use a source with `compare_keys`.")


@dataclass
class Rows:
    """A table in memory, and a transaction that reads it."""

    table: list[tuple[str, int]]

    @contextmanager
    def reading(self, relation: Relation) -> Iterator[Rows]:
        yield self

    def rows(self, *, since: int | None = None) -> Iterator[Row]:
        for name, number in sorted(self.table, key=lambda row: row[1]):
            if since is None or number >= since:
                yield number, f"{name},{number}".encode()

    def keys(self) -> Iterator[Row]:
        return iter([(number, name.encode()) for name, number in sorted(self.table)])

    def chosen(self, keys: Sequence[Sequence[str]]) -> Iterator[Row]:
        return iter([(number, f"{name},{number}".encode()) for name, number in self.table if [name] in keys])


def opened_sql(rows: list[tuple[str, int]]) -> Source:
    columns = {name: Column(type="string", known="made") for name in ("name", "number")}
    relation = Relation("rows", None, columns, ["name"], "number", timedelta(hours=1))
    return SqlExtraction(
        Rows(rows), relation, Dialect(), Origin("acme-cloud", "rows", "FR", "FR"), timedelta(minutes=1), 1 << 30
    )


KINDS: dict[str, Callable[[list[tuple[str, int]]], Source]] = {
    "double": Numbered,
    "sql": opened_sql,
    "http": over_http,
    "site": in_bucket,
    "files": in_bucket,
    "derived": over_snapshots,
}
"""Each registered kind, opened on a place with these rows (name, growing number)."""

kinds = pytest.mark.parametrize("opened", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def several_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_deliveries, "MOST_ROWS", 2)


WHOLE = {over_snapshots}
"""Kinds whose newest delivery holds all rows, and replaces the earlier ones."""


def rows_of(sink: MemorySink) -> list[bytes]:
    if any(name.endswith(".parquet") for name in sink.stored):
        return [str(row).encode() for body in sink.stored.values() for row in pq.read_table(BytesIO(body)).to_pylist()]
    return sorted(line for body in sink.stored.values() for line in body.splitlines() if line != b"name,number")


def test_every_registered_kind_is_held_to_this_suite() -> None:
    assert set(SOURCES) <= set(KINDS)


@kinds
def test_the_same_content_and_state_give_the_same_bytes(opened: Callable[..., Source]) -> None:
    first, second = MemorySink(), MemorySink()
    early, late = opened(ROWS).extract({}, first, NOW), opened(ROWS).extract({}, second, NOW.replace(year=2027))
    assert (first.stored, early) == (second.stored, late)
    assert first.stored


@kinds
def test_a_second_extraction_takes_only_what_is_new(opened: Callable[..., Source]) -> None:
    sink = MemorySink()
    state = opened(ROWS[:4]).extract({}, sink, NOW).state
    again = opened(ROWS[:4]).extract(state, sink, NOW)
    assert (again.deliveries, again.state) == ([], state)
    if opened in WHOLE:
        sink.stored.clear()
    opened(ROWS).extract(state, sink, NOW)
    assert len(rows_of(sink)) == len(set(rows_of(sink))) == len(ROWS)


@kinds
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dies_at=st.integers(0, 4), stores=st.booleans(), count=st.integers(0, 7))
def test_killed_anywhere_nothing_is_lost_and_repeated_bytes_have_the_same_name(
    opened: Callable[..., Source], dies_at: int, stores: bool, count: int
) -> None:
    sink, whole = MemorySink(dies_at=dies_at, stores_before_death=stores), MemorySink()
    try:
        opened(ROWS[:count]).extract({}, sink, NOW)
    except Killed:
        opened(ROWS[:count]).extract({}, sink, NOW)  # the state was not committed
    opened(ROWS[:count]).extract({}, whole, NOW)
    assert sink.stored == whole.stored


@kinds
def test_the_origin_is_evidence_without_a_secret(opened: Callable[..., Source]) -> None:
    origin = opened(ROWS).origin
    assert all((origin.operator, origin.place, origin.jurisdiction, origin.owner_jurisdiction))
    assert "@" not in origin.place
