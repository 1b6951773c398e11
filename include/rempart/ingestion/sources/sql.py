"""Kind `sql`: rows of a table or a query, whole or by a cursor, as CSV deliveries. Nothing is written to the database.

A row that was taken before is not delivered again (see `row_memory`). A row that changed is delivered as it is now; the
pipeline's `on_conflict` decides about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from rempart import canonical_json
from rempart.errors import CapabilityMissing, ConfigError, IngestError, PipelineError
from rempart.ingestion.sources import csv_deliveries, key_comparison
from rempart.ingestion.sources.database import Database, Reading, Relation
from rempart.ingestion.sources.port import Extraction, Origin, Sink, Source, State, Surroundings
from rempart.ingestion.sources.row_memory import RowMemory, digest, microseconds
from rempart.settings.config import Connection, project_root
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import Dialect, SqlSource
from rempart.sovereignty import places
from rempart.sovereignty.egress import is_this_machine
from rempart.sovereignty.policy import Reason, verdict

if TYPE_CHECKING:
    import pyarrow as pa

_AT_A_TIME = 10_000
_CHOSEN = 500
"""Rows that are asked for by their keys in one statement."""
_PORTS = {"postgres": 5432, "postgresql": 5432, "mysql": 3306, "mariadb": 3306}
"""Types of connections that are read, with their usual ports."""
_VERIFIED = ("verify-ca", "verify-full")
"""Modes of `sslmode` that check the server's certificate."""


@dataclass(frozen=True)
class SqlExtraction:
    """A database as a source. `overlap`: time before the cursor that is read again; None without a cursor.

    `most`: bytes of rows after which an extraction ends, with all rows of the last cursor; the next one goes on.
    """

    database: Database
    relation: Relation
    dialect: Dialect
    place: Origin
    overlap: timedelta | None
    most: int

    @property
    def origin(self) -> Origin:
        return self.place

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        """Extract rows that were not taken before. See `Source.extract`."""
        memory = RowMemory(state, self.overlap, microseconds(now.astimezone(UTC)))
        with self.database.reading(self.relation) as reading:
            rows = memory.new(reading.rows(since=memory.since), self.most)
            made = csv_deliveries.deliver(sink, _stem("rows", state), self._header, rows)
        return Extraction(made, memory.after(), complete=memory.complete)

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        """Extract rows that are not known and that `extract` does not read, and return known keys that are gone."""
        memory = RowMemory(state, self.overlap, 0)
        if (since := memory.since) is None:
            raise CapabilityMissing(
                "compare keys: the source has no cursor, or nothing was taken yet",
                "Add `cursor` to `source`, and run the pipeline once before.",
            )
        absent: list[tuple[object, ...]] = []
        with self.database.reading(self.relation) as reading:
            late = key_comparison.compare(known, self._keys(reading, since), absent.append)
            texts = list(map(self._texts, late))
            made = csv_deliveries.deliver(sink, _stem("late", state), self._header, self._late(reading, texts))
        return Extraction(made, state, absent_keys=tuple(absent))

    @property
    def _header(self) -> bytes:
        return csv_deliveries.header(list(self.relation.columns))

    def _keys(self, reading: Reading, since: int) -> Iterator[tuple[tuple[object, ...], bool]]:
        """Yield the keys at the database as ingestion types them, and whether each is before what `extract` reads."""
        rows = reading.keys()
        while some := list(islice(rows, _AT_A_TIME)):
            table, faults = self._typed([csv_deliveries.cells(row) for _, row in some])
            columns = (table[name].to_pylist() for name in self.relation.key)
            for i, key in enumerate(zip(*columns, strict=True)):
                micros = some[i][0]
                if i not in faults:  # such a row is in quarantine, and in no snapshot
                    yield key, micros is not None and micros < since

    def _typed(self, cells: Sequence[Sequence[str]]) -> tuple[pa.Table, Mapping[int, object]]:
        from rempart.ingestion.cells import convert

        key = list(self.relation.key)
        columns = {name: self.relation.columns[name] for name in key}
        return convert(cells, columns, required=set(key), dialect=self.dialect)

    @staticmethod
    def _texts(key: tuple[object, ...]) -> list[str]:
        return [_text(value) for value in key]

    def _late(self, reading: Reading, keys: Sequence[Sequence[str]]) -> Iterator[bytes]:
        for start in range(0, len(keys), _CHOSEN):
            asked = keys[start : start + _CHOSEN]
            came = 0
            for _, row in reading.chosen(asked):
                came += 1
                yield row
            if came != len(asked):
                raise IngestError(
                    f"compare keys: the database has {len(asked)} late rows, and gave {came} when asked by their keys",
                    "Declare the columns of `key` with the types that the database has; or write a query that gives "
                    "them in the form that is declared (`source.query`).",
                )


def _stem(kind: str, state: State) -> str:
    """Return the beginning of the names of an extraction's deliveries: another one after another state."""
    return f"{kind}-{digest(canonical_json.encode(dict(state))).hex()[:8]}"


def _text(value: object) -> str:
    """Return the value of a key as every database reads it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    return str(value)


def open_source(pipeline: Pipeline, around: Surroundings) -> Source:
    """Open the database of a pipeline, if the policy allows its connection. Nothing is contacted yet.

    Raises PlacementDenied, ConnectionMissing, ConfigError, PipelineError.
    """
    source = pipeline.source
    if not isinstance(source, SqlSource):
        raise PipelineError(f"Pipeline '{pipeline.name}': its source is of kind {source.kind}", "Use `kind: sql`.")
    connection = around.connections(source.connection)
    if connection.conn_type not in _PORTS:
        raise ConfigError(
            f"Connection '{connection.name}' is of type '{connection.conn_type}', which kind `sql` does not read",
            f"Use a connection of type {', '.join(_PORTS)}.",
        )
    origin = _origin(pipeline, connection, around)
    _check_tls(connection)
    column = source.cursor.column if source.cursor else None
    relation = Relation(
        source.table, query_of(source), pipeline.columns, pipeline.key, column, source.statement_timeout
    )
    overlap = source.cursor.overlap if source.cursor else None
    if column and pipeline.columns[column].type == "date":
        overlap = timedelta(days=-(-(overlap or timedelta()) // timedelta(days=1)))
    elif overlap is not None and source.time_zone:
        overlap += timedelta(hours=1)  # local clocks are set back by it
    return SqlExtraction(_database(connection), relation, source, origin, overlap, source.largest_run << 20)


def _database(connection: Connection) -> Database:
    if connection.conn_type in ("mysql", "mariadb"):
        from rempart.ingestion.sources.mariadb import Mariadb

        return Mariadb(connection)
    from rempart.ingestion.sources.postgresql import Postgresql

    return Postgresql(connection)


def _check_tls(connection: Connection) -> None:
    """Raise ConfigError if rows of another machine would come without TLS, or from whoever answers."""
    mode = str(connection.tls().get("sslmode", "prefer"))
    if mode not in _VERIFIED and not is_this_machine(connection.host):
        raise ConfigError(
            f"Connection '{connection.name}' leads to another machine, '{connection.host}', and its `sslmode` is "
            f"{mode}: a machine between them could read or change the rows",
            "Set `sslmode: verify-full` in its extra, and the authority of the server's certificate as `sslrootcert`: "
            "a file, or `system`.",
        )


def _origin(pipeline: Pipeline, connection: Connection, around: Surroundings) -> Origin:
    """Ask the policy about the connection, and return where it leads. Raises PlacementDenied.

    A database is written to by others, so it is never an origin alone: the policy must allow both.
    """
    config, on = around.config, around.now.date()
    decision = places.decide_connection(config, pipeline.classification, connection.name, on=on)
    place = config.connections.get(connection.name)
    if place:
        label = f"connection '{connection.name}'"
        reading = places.decide_origin_connection(config, pipeline.classification, connection.name, on=on)
        reasons = [*reading.reasons, *decision.reasons]
        port = connection.port or _PORTS[connection.conn_type]
        if not places.is_declared_host(place.hosts, connection.host, port):
            named = ", ".join(place.hosts) or "none"
            fact = f"it leads to '{connection.host}' port {port}, which is not among its hosts: {named}"
            remedy = f"Correct the connection, or connections.{connection.name}.hosts in rempart.yaml."
            reasons.append(Reason(False, f"connections.{connection.name}", fact, remedy))
        decision = verdict(pipeline.classification, "origin", label, dict.fromkeys(reasons))
    around.record(decision)
    if place is None:
        raise ConfigError(
            f"Connection '{connection.name}' of pipeline '{pipeline.name}' is not declared",
            "Declare it under connections in rempart.yaml: operator, service, region and hosts.",
        )
    operator = config.operators[place.operator]
    where = f"{place.service} in {place.region}, connection {connection.name}"
    return Origin(place.operator, where, operator.jurisdiction.value, operator.owner_jurisdiction.value)


def query_of(source: SqlSource) -> str | None:
    """Return the query of a source without its last semicolon, or None for a table. Raises PipelineError."""
    if source.query is None:
        return None
    try:
        text = (project_root() / source.query).read_text(encoding="utf-8").strip().rstrip(";").rstrip()
    except OSError as cause:
        raise PipelineError(
            f"source.query: {source.query} cannot be read ({cause.strerror})", "Write the file, with one SELECT."
        ) from cause
    if ";" in text or not text:
        raise PipelineError(f"source.query: {source.query} is not one SELECT", "Write one SELECT, without a semicolon.")
    return text + "\n"  # a comment may end it
