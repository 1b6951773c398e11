"""What kind `sql` does with a real server: one suite, which each database's module runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import pyarrow as pa
import pytest
import yaml

from rempart.errors import IngestError, PlacementDenied, SourceUnavailable
from rempart.ingestion import reading
from rempart.ingestion.cells import convert
from rempart.ingestion.sources import csv_deliveries
from rempart.ingestion.sources.port import Delivery, Extraction, Source, Surroundings
from rempart.ingestion.sources.registry import opener_of
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.policy import Decision

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PIPELINE = """
name: orders
classification: personal
source: {{prefix: orders/, kind: sql, connection: shop, {source}}}
on_conflict: refuse
key: [id, part]
moments: {{made: {{column: day}}}}
partition_by: day
schema:
  id: {{type: integer, known: made}}
  part: {{type: string, known: made}}
  day: {{type: date, known: made}}
  price: {{type: decimal, precision: 12, scale: 2, known: made, nullable: true}}
  weight: {{type: number, known: made, nullable: true}}
  paid: {{type: boolean, known: made, nullable: true}}
  changed_at: {{type: timestamp, known: made}}
  note: {{type: string, known: made, nullable: true}}
features: {{own: {{kind: row, at: made, columns: [paid]}}}}
prediction: {{target: id, task: regression, at: made}}
holdout: {{column: day, start: 2026-02-01}}
gate: {{metric: mae, limit: 10, baseline_by: [paid]}}
"""
COLUMNS = ("id", "part", "day", "price", "weight", "paid", "changed_at", "note")
NOTES = [None, "", 'a "quoted", text', "two\nlines\r\nand three", "\\.", "\\N", "é € 𝄞 ", " blank ", "%s", "'; DROP"]
Row = tuple[int, str, date, Decimal | None, float | None, bool | None, datetime, str | None]


class Server(Protocol):
    """A server with a table `orders` that its owner writes, and a connection of a role that can only read."""

    reader: Connection

    def put(self, rows: Sequence[Row]) -> None: ...

    def execute(self, statement: str) -> None: ...

    def read_columns_alone(self, columns: Sequence[str]) -> Connection:
        """The connection of a role whose only right is to read these columns of `orders`."""
        ...

    def write_as_reader(self) -> None:
        """Try to write with the connection's role. Raises the driver's error."""
        ...


class Killed(BaseException):
    """The process ended here."""


@dataclass
class Landing:
    """A landing bucket in memory, whose process may die within a delivery."""

    stored: dict[str, bytes] = field(default_factory=dict)
    dies_at: int = -1

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        body = b""
        for block in blocks:
            body += block
            self.dies_at -= 1
            if self.dies_at == 0:
                raise Killed
        self.stored[name] = body
        return Delivery(name, len(body), hashlib.sha256(body).hexdigest())


def order(number: int, at: datetime = NOW, note: str | None = None) -> Row:
    return number, f"p{number}", date(2026, 1, 1), Decimal("12.50"), 0.1, number % 2 == 0, at, note


def pipeline(source: str = "table: orders, cursor: {column: changed_at, overlap: 10m}") -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(PIPELINE.format(source=source)))


def around(connection: Connection, record: Callable[[Decision], None] | None = None) -> Surroundings:
    declared = {"operator": "this-machine", "service": "machine", "region": "local", "hosts": ["127.0.0.1"]}
    known = config.load()
    settings = known.model_dump(by_alias=True, exclude_unset=True) | {"connections": {"shop": declared}}
    return Surroundings(type(known).model_validate(settings), lambda name: connection, NOW, record or _allowed)


def _allowed(decision: Decision) -> None:
    """The decision itself is tested beside the servers."""


def opened(spec: ModelPipeline, connection: Connection) -> Source:
    opener = opener_of(spec)
    assert opener is not None
    return opener(spec, around(connection))


def typed(spec: ModelPipeline, landing: Landing) -> pa.Table:
    """Read the deliveries as ingestion does. No row is refused."""
    tables = []
    for name in sorted(landing.stored):
        read = reading.read(name, landing.stored[name], spec.source, list(spec.columns))
        assert (read.fault, read.refused) == (None, ())
        table, faults = convert(read.table, spec.columns, required=set(spec.key), dialect=spec.source)
        assert faults == {}
        tables.append(table)
    return pa.concat_tables(tables) if tables else pa.table({name: [] for name in COLUMNS})


def ids(spec: ModelPipeline, *landings: Landing) -> list[int]:
    return sorted(number for landing in landings for number in typed(spec, landing)["id"].to_pylist())


class SqlSourceSuite:
    @pytest.fixture
    def server(self) -> Server:
        raise NotImplementedError

    def test_each_value_arrives_as_the_database_holds_it(self, server: Server) -> None:
        rows = [order(n, NOW + timedelta(microseconds=n), note) for n, note in enumerate(NOTES)]
        rows.append((99, "Z", date(1999, 12, 31), Decimal("-99999999.01"), -1.5e-7, None, NOW, None))
        rows.append((98, "a", date(2026, 1, 1), None, None, None, NOW + timedelta(days=-9), None))
        server.put(rows)
        spec, landing = pipeline(), Landing()
        opened(spec, server.reader).extract({}, landing, NOW)
        found = sorted(typed(spec, landing).to_pylist(), key=lambda row: row["id"])
        wanted = [dict(zip(COLUMNS, row, strict=True)) for row in sorted(rows)]
        for row in wanted:
            row["note"] = row["note"] or None  # an empty text is no value
        assert found == wanted

    def test_the_same_rows_are_the_same_bytes(self, server: Server) -> None:
        server.put([order(n, NOW - timedelta(seconds=n % 3)) for n in range(50)])
        early, late = Landing(), Landing()
        first = opened(pipeline(), server.reader).extract({}, early, NOW)
        assert opened(pipeline(), server.reader).extract({}, late, NOW + timedelta(days=1)) == first
        assert early.stored == late.stored

    def test_a_commit_within_the_overlap_is_taken_and_no_row_twice(self, server: Server) -> None:
        spec, first, second, third = pipeline(), Landing(), Landing(), Landing()
        server.put([order(n, NOW - timedelta(hours=n)) for n in range(5)])
        state = opened(spec, server.reader).extract({}, first, NOW).state
        server.put([order(10, NOW - timedelta(minutes=9)), order(11, NOW + timedelta(minutes=1))])
        state = opened(spec, server.reader).extract(state, second, NOW + timedelta(minutes=2)).state
        assert ids(spec, second) == [10, 11]
        again = opened(spec, server.reader).extract(state, third, NOW + timedelta(minutes=3))
        assert (again.deliveries, again.state) == ([], state)
        server.execute("UPDATE orders SET note = 'changed' WHERE id = 11")
        opened(spec, server.reader).extract(state, third, NOW + timedelta(minutes=3))
        assert ids(spec, third) == [11]

    def test_a_table_that_is_read_whole_gives_each_row_once(self, server: Server) -> None:
        spec, first, second = pipeline("table: orders"), Landing(), Landing()
        server.put([order(n) for n in range(5)])
        state = opened(spec, server.reader).extract({}, first, NOW).state
        server.put([order(3000, NOW - timedelta(days=300))])
        opened(spec, server.reader).extract(state, second, NOW)
        assert (ids(spec, first), ids(spec, second)) == ([0, 1, 2, 3, 4], [3000])

    def test_killed_within_any_delivery_nothing_is_lost(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csv_deliveries, "MOST_ROWS", 3)
        spec, whole = pipeline(), Landing()
        server.put([order(n, NOW - timedelta(hours=n)) for n in range(8)])
        opened(spec, server.reader).extract({}, whole, NOW)
        assert len(whole.stored) == 3
        for step in range(1, 11):
            landing = Landing(dies_at=step)
            with pytest.raises(Killed):
                opened(spec, server.reader).extract({}, landing, NOW)
            landing.dies_at = -1
            opened(spec, server.reader).extract({}, landing, NOW)
            assert landing.stored == whole.stored

    def test_a_comparison_finds_deleted_and_late_rows(self, server: Server) -> None:
        spec, landing = pipeline(), Landing()
        rows = [order(n, NOW - timedelta(hours=n)) for n in range(20)]
        server.put([*rows, (5, "É", *order(5)[2:]), (5, "é", *order(5)[2:]), (5, "Z", *order(5)[2:])])
        source = opened(spec, server.reader)
        state = source.extract({}, landing, NOW).state
        table = typed(spec, landing)
        known = sorted(zip(table["id"].to_pylist(), table["part"].to_pylist(), strict=True))
        assert source.compare_keys(iter(known), state, Landing()) == Extraction([], state)
        server.execute("DELETE FROM orders WHERE id = 7")
        server.put([order(70, NOW - timedelta(days=3)), order(71, NOW + timedelta(days=1))])
        late = Landing()
        found = source.compare_keys(iter(known), state, late)
        assert list(found.absent_keys) == [(7, "p7")]
        assert ids(spec, late) == [70]  # 71 is newer than the cursor: the next extraction takes it

    def test_a_query_is_a_source(self, server: Server, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        server.put([order(n) for n in range(4)])
        (tmp_path / "include/sql").mkdir(parents=True)
        text = "SELECT * FROM orders WHERE note IS NULL OR note LIKE '%x' -- the new ones\n;\n"
        (tmp_path / "include/sql/new_orders.sql").write_text(text, encoding="utf-8")
        source = "query: include/sql/new_orders.sql, cursor: {column: changed_at}"
        spec, landing = pipeline(source), Landing()
        monkeypatch.setattr("rempart.ingestion.sources.sql.project_root", lambda: tmp_path)
        state = opened(spec, server.reader).extract({}, landing, NOW).state
        assert opened(spec, server.reader).extract(state, Landing(), NOW).deliveries == []
        assert ids(spec, landing) == [0, 1, 2, 3]

    def test_a_table_that_is_missing_is_an_error(self, server: Server) -> None:
        with pytest.raises(IngestError) as caught:
            opened(pipeline("table: missing"), server.reader).extract({}, Landing(), NOW)
        assert not caught.value.transient

    def test_a_role_that_can_only_read_is_enough(self, server: Server) -> None:
        server.put([order(n) for n in range(3)])
        with pytest.raises(Exception, match=r"denied"):
            server.write_as_reader()
        reader = server.read_columns_alone(COLUMNS)
        spec, landing = pipeline(), Landing()
        state = opened(spec, reader).extract({}, landing, NOW).state
        assert ids(spec, landing) == [0, 1, 2]
        known = iter([(n, f"p{n}") for n in range(3)])
        assert opened(spec, reader).compare_keys(known, state, Landing()) == Extraction([], state)

    def test_a_column_that_the_role_may_not_read_is_named_as_a_missing_right(self, server: Server) -> None:
        reader = server.read_columns_alone(COLUMNS[:-1])
        with pytest.raises(IngestError, match="may not read the table or query") as caught:
            opened(pipeline(), reader).extract({}, Landing(), NOW)
        assert not caught.value.transient and "GRANT SELECT" in caught.value.hint

    @pytest.mark.parametrize("cursor", [", cursor: {column: changed_at, overlap: 10m}", ""])
    def test_a_run_ends_at_its_size_between_two_cursors_and_the_next_goes_on(self, server: Server, cursor: str) -> None:
        long = "x" * 300_000
        server.put([order(n, NOW - timedelta(hours=n // 3), long) for n in range(12)])  # three rows with each cursor
        spec = pipeline(f"table: orders, largest_run: 1{cursor}")
        state: Mapping[str, str] = {}
        taken = []
        for number in range(1, 5):
            landing = Landing()
            found = opened(spec, server.reader).extract(state, landing, NOW)
            taken.append(ids(spec, landing))
            state = found.state
            if number == 1:
                server.put([order(50, NOW + timedelta(minutes=1)), order(51, NOW - timedelta(minutes=1))])
            if found.complete:
                break
        if cursor:
            assert taken == [[6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5, 51], [50]]
        assert found.complete and len(taken) > 1
        assert sorted(number for some in taken for number in some) == [*range(12), 50, 51]
        assert opened(spec, server.reader).extract(state, Landing(), NOW).deliveries == []

    def test_a_refused_password_is_an_error_that_names_no_secret(self, server: Server) -> None:
        wrong = replace(server.reader, password="a-wrong-secret")
        with pytest.raises(IngestError) as caught:
            opened(pipeline(), wrong).extract({}, Landing(), NOW)
        assert not caught.value.transient and "a-wrong-secret" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_server_that_does_not_answer_is_tried_again(self, server: Server) -> None:
        with pytest.raises(SourceUnavailable) as caught:
            opened(pipeline(), replace(server.reader, port=9)).extract({}, Landing(), NOW)
        assert caught.value.transient

    def test_a_connection_that_leads_elsewhere_is_denied(self, server: Server) -> None:
        told: list[Decision] = []

        def record(decision: Decision) -> None:
            told.append(decision)
            if not decision.allowed:
                raise decision.refusal()

        spec = pipeline()
        opener = opener_of(spec)
        assert opener is not None
        assert opener(spec, around(server.reader, record)).origin.jurisdiction == "FR"
        with pytest.raises(PlacementDenied, match="not among its hosts"):
            opener(spec, around(replace(server.reader, host="192.0.2.1"), record))
        assert [decision.allowed for decision in told] == [True, False]
