"""Identity of a snapshot, format 3: equal rows give equal ids, whatever their order, parts, deliveries and engine.

A row has canonical bytes, which no other row has: each value as a netstring (`length:text`), null as `-`, in the order
of the schema. A partition is identified by its number of rows and the SHA-256 of its rows, one after the other in
ascending order of their keys (null last), and of their bytes where keys are equal.

If two different multisets of rows had one hash, their rows in that order would be two inputs with one SHA-256. No other
assumption is needed. A hash that adds up row by row would not need the order, but a plain sum modulo 2^256 (AdHash) is
not collision-resistant: Wagner, "A Generalized Birthday Problem" (CRYPTO 2002), finds collisions in about
2^(2 * sqrt(256)) = 2^32 steps, and whoever delivers rows chooses them. LtHash (Lewi et al., "Securing Update
Propagation with Homomorphic Hashing", 2019) and MuHash (Bellare and Micciancio, EUROCRYPT 1997) are sound, but took 9
and 47 microseconds a row. Parts are sorted by key, so their rows are hashed as they are read: 1 microsecond a row,
where a SHA-256 of each row took 2 (one busy core).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.engine_connection import EngineConnection
from rempart.errors import IntegrityError
from rempart.ingestion.engine.database import batches
from rempart.ingestion.parsing.schema import SnapshotColumn

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 3
_TEXT_SQL = {
    "integer": "CAST({0} AS VARCHAR)",
    "number": "CAST(CAST(CAST({0} + 0.0 AS BIT) AS BIGINT) AS VARCHAR)",
    "boolean": "CAST(CAST({0} AS TINYINT) AS VARCHAR)",
    "string": "{0}",
    "category": "{0}",
    "date": "CAST({0} - DATE '1970-01-01' AS VARCHAR)",
    "timestamp": "CAST(epoch_us({0}) AS VARCHAR)",
    "decimal": "CAST({0} AS VARCHAR)",
}
"""The text of a value. A number is the integer of its 64 bits (-0 counts as 0), a date its days since 1970, a timestamp
its microseconds since 1970 in UTC, a decimal its digits with all its decimal places, an array the netstrings of its
items. A new type needs its text here and in `_text`."""
_ROWS = 16_384
"""Rows whose bytes are in memory at the same time."""


@dataclass(frozen=True)
class PartitionContent:
    """The rows of one partition: its name, their number, and the hash of the multiset (64 hex digits)."""

    partition: str
    rows: int
    sha256: str


def content_id(
    columns: Mapping[str, SnapshotColumn],
    key: Sequence[str],
    partition_by: str,
    partition_every: str,
    partitions: Iterable[PartitionContent],
) -> str:
    """Return the id of a snapshot's content: 32 hex digits. The order of the partitions makes no difference."""
    content = {
        "format": FORMAT,
        "columns": [[name, column.type, column.nullable] for name, column in columns.items()],
        "key": list(key),
        "partition_by": partition_by,
        "partition_every": partition_every,
        "partitions": sorted([p.partition, p.rows, p.sha256] for p in partitions if p.rows),
    }
    return hashlib.sha256(canonical_json.encode(content)).hexdigest()[:32]


def quote(name: str) -> str:
    """Return a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def row_text_sql(columns: Mapping[str, SnapshotColumn]) -> str:
    """Return the SQL expression of a row's canonical bytes, as text."""
    values = []
    for name, column in columns.items():
        text = _text_sql(column.type, quote(name))
        values += [f"coalesce(CAST(strlen({text}) AS VARCHAR) || ':', '-')", text]
    # `concat` leaves nulls out, and copies a row's text once; a chain of || copies it for every column
    return f"concat({', '.join(values)})"


def _text_sql(type_: str, value: str) -> str:
    if type_.startswith("array("):
        item = _TEXT_SQL[type_[len("array(") : -1]].format("item")
        netstring = f"CAST(strlen({item}) AS VARCHAR) || ':' || {item}"
        return f"array_to_string(list_transform({value}, lambda item: {netstring}), '')"
    return _TEXT_SQL[type_.partition("(")[0]].format(value)


class OrderedRows:
    """The hash of rows that come in ascending order of their keys, and their number."""

    def __init__(self) -> None:
        self.rows, self._sha256, self._last = 0, hashlib.sha256(), None

    def takes(self, keys: pa.Table, text: pa.Array, *, repeated: bool = False) -> bool:
        """Add rows. False, and nothing is added, if their keys do not ascend. `repeated`: keys may be equal or null."""
        import pyarrow as pa

        if not keys.num_rows:
            return True
        found = ascends(keys if self._last is None else pa.concat_tables([self._last, keys]), strictly=not repeated)
        if found is False or (found is None and not repeated):
            return False
        self._last, self.rows = keys.slice(keys.num_rows - 1), self.rows + keys.num_rows
        self._sha256.update(_bytes(text))
        return True

    def adds(self, rows: pa.Table, columns: Mapping[str, SnapshotColumn], key: Sequence[str]) -> bool:
        """Add the rows of a table. False if they are not in ascending order: some may be added then."""
        return all(self.takes(*some) for some in _keys_and_text(rows, columns, key))

    def reads(
        self,
        connection: EngineConnection,
        relation: str,
        columns: Mapping[str, SnapshotColumn],
        key: Sequence[str],
        *,
        sort: int = 0,
    ) -> bool:
        """Add the rows of a relation (SQL). False if they are not in order: some may be added then.

        `sort`: the number of columns by which DuckDB sorts: those of the key, or one more, the bytes of the rows.
        """
        import pyarrow as pa

        query = f"SELECT {', '.join(map(quote, key))}, {row_text_sql(columns)} FROM {relation}"  # noqa: S608 - our names
        if sort:
            query += f" ORDER BY {', '.join(str(i + 1) for i in range(sort))}"
        names = [str(i) for i in range(len(key))]
        return all(
            self.takes(pa.table(batch.columns[:-1], names), batch.columns[-1], repeated=sort > len(key))
            for batch in batches(connection, query, _ROWS)
        )

    def content(self, partition: str) -> PartitionContent:
        """Return the content of a partition that has the rows so far."""
        return PartitionContent(partition, self.rows, self._sha256.hexdigest())


def by_duckdb(
    connection: EngineConnection, relation: str, columns: Mapping[str, SnapshotColumn], key: Sequence[str]
) -> OrderedRows:
    """Return the hash of the rows of one partition (`relation`: SQL).

    DuckDB sorts them, and spills, if they are not in order of their keys, and once more if a key is repeated or null.
    """
    for sort in (0, len(key), len(key) + 1):
        found = OrderedRows()
        if found.reads(connection, relation, columns, key, sort=sort):
            return found
    raise IntegrityError("identify a snapshot: DuckDB did not sort the rows", "Report this as a bug.")


def in_order(
    tables: Iterable[pa.Table], columns: Mapping[str, SnapshotColumn], key: Sequence[str]
) -> OrderedRows | None:
    """Return the hash of the rows of one partition, or None if they are not in ascending order of their keys."""
    found = OrderedRows()
    return found if all(found.adds(table, columns, key) for table in tables) else None


def by_arrow(
    tables: Sequence[pa.Table], columns: Mapping[str, SnapshotColumn], key: Sequence[str], partition: str
) -> PartitionContent:
    """Return the content of one partition, held in some tables in any order."""
    import pyarrow as pa

    found = in_order(tables, columns, key)
    if found is None:
        read = (rows for table in tables for rows in _keys_and_text(table, columns, key))
        whole = pa.concat_tables([keys.append_column("text", text) for keys, text in read])
        whole = whole.sort_by([(name, "ascending") for name in whole.column_names])
        found = OrderedRows()
        for batch in whole.combine_chunks().to_batches(max_chunksize=_ROWS):
            found.takes(pa.Table.from_batches([batch]).drop_columns(["text"]), batch["text"], repeated=True)
    return found.content(partition)


def ascends(keys: pa.Table, *, strictly: bool = False) -> bool | None:
    """Return whether no row's key is less than that of the row before, or equal. None if Arrow cannot tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if keys.num_rows < 2:
        return True
    ordered: Any = None
    try:
        for name in reversed(keys.column_names):
            column = keys[name].combine_chunks()
            before, after = column.slice(0, len(column) - 1), column.slice(1)
            if ordered is None:
                ordered = (pc.greater if strictly else pc.greater_equal)(after, before)
            else:
                ordered = pc.or_(pc.greater(after, before), pc.and_(pc.equal(after, before), ordered))
    except pa.ArrowNotImplementedError:
        return None
    found: bool | None = pc.all(ordered, skip_nulls=False).as_py()
    return found


def _bytes(text: pa.Array) -> memoryview:
    """Return the texts of an array without nulls, one after the other."""
    import numpy as np

    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    return memoryview(text.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])]


def _keys_and_text(
    table: pa.Table, columns: Mapping[str, SnapshotColumn], key: Sequence[str]
) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Yield the keys of some rows after the other, and their canonical bytes as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [str(i) for i in range(len(key))]
    for batch in table.to_batches(max_chunksize=_ROWS):
        values = []
        for name, column in columns.items():
            text = _text(batch[name], column.type)
            size = pc.cast(pc.binary_length(text), pa.string())
            values.append(pc.fill_null(pc.binary_join_element_wise(size, text, ":"), "-"))
        yield pa.table([batch[name] for name in key], names), pc.binary_join_element_wise(*values, "")


def _text(values: pa.Array, type_: str) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    match type_.partition("(")[0]:
        case "number":
            values = pc.add(pc.cast(values, pa.float64()), 0.0).view(pa.int64())
        case "boolean":
            values = pc.cast(values, pa.int8())
        case "date":
            values = pc.cast(pc.cast(values, pa.date32()), pa.int32())
        case "timestamp":
            values = pc.cast(pc.cast(values, pa.timestamp("us", "UTC")), pa.int64())
        case "decimal":
            return _decimal_text(values)
        case "array":
            return _array_text(values, type_[len("array(") : -1])
        case "integer" | "string" | "category":
            pass
        case _:
            raise ValueError(f"type {type_} has no canonical text")
    return pc.cast(values, pa.string())


def _decimal_text(values: pa.Array) -> pa.Array:
    """Return decimals with all their places, as DuckDB does; Arrow's own text has an exponent for some."""
    import pyarrow as pa

    texts = (None if value is None else f"{value:f}" for value in values.to_pylist())
    if values.type.precision == values.type.scale:  # no digit before the decimal point
        texts = (text and text.replace("0.", ".", 1) for text in texts)
    return pa.array(texts, pa.string())


def _array_text(values: pa.Array, items: str) -> pa.Array:
    import pyarrow as pa

    texts = iter(_text(values.flatten(), items).to_pylist())
    lengths = [None if row is None else len(row) for row in values.to_pylist()]
    netstrings = (f"{len(text.encode())}:{text}" for text in texts)
    return pa.array(
        [None if length is None else "".join(itertools.islice(netstrings, length)) for length in lengths], pa.string()
    )
