"""Identity of a snapshot, format 2: equal rows give equal ids, whatever their order, parts, deliveries and engine.

A row has canonical bytes, which no other row has: each value as a netstring (`length:text`), null as `-`, in the order
of the schema. A partition is identified by its number of rows and the SHA-256 of its rows' sorted SHA-256 digests.

If two different multisets of rows had one hash, their lists of digests would be two inputs with one SHA-256, or
two rows would share a digest. No other assumption is needed. Hashes that add up row by row are quicker to update, but a
plain sum modulo 2^256 (AdHash) is not collision-resistant: Wagner, "A Generalized Birthday Problem" (CRYPTO 2002),
finds collisions in about 2^(2 * sqrt(256)) = 2^32 steps, and whoever delivers rows chooses them. LtHash (Lewi et al.,
"Securing Update Propagation with Homomorphic Hashing", 2019) and MuHash (Bellare and Micciancio, EUROCRYPT 1997) are
sound, but took 9 and 47 microseconds a row, where SHA-256 in DuckDB took 2 (one busy core).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import IntegrityError
from rempart.ingestion.engine.database import batches
from rempart.ingestion.parsing.schema import SnapshotColumn

if TYPE_CHECKING:
    import duckdb
    import numpy.typing as npt
    import pyarrow as pa

FORMAT = 2
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


MOST_ROWS = 2_000_000
"""Rows of a partition up to which their digests are sorted in memory, 64 MB; DuckDB sorts more, and spills."""


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


def row_digest_sql(columns: Mapping[str, SnapshotColumn]) -> str:
    """Return the SQL expression of a row's digest."""
    values = []
    for name, column in columns.items():
        text = _text_sql(column.type, quote(name))
        values += [f"coalesce(CAST(strlen({text}) AS VARCHAR) || ':', '-')", text]
    # `concat` leaves nulls out, and copies a row's text once; a chain of || copies it for every column
    return f"unhex(sha256(concat({', '.join(values)})))"


def _text_sql(type_: str, value: str) -> str:
    if type_.startswith("array("):
        item = _TEXT_SQL[type_[len("array(") : -1]].format("item")
        netstring = f"CAST(strlen({item}) AS VARCHAR) || ':' || {item}"
        return f"array_to_string(list_transform({value}, lambda item: {netstring}), '')"
    return _TEXT_SQL[type_.partition("(")[0]].format(value)


def by_duckdb(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: Mapping[str, SnapshotColumn], partition: str
) -> list[PartitionContent]:
    """Return the content of each partition of a relation (SQL). `partition`: SQL of a row's partition.

    The digests are sorted by DuckDB, which spills, and hashed as they arrive.
    """
    query = f"SELECT {partition} AS p, {row_digest_sql(columns)} AS d FROM {relation} ORDER BY p, d"  # noqa: S608 - our names
    return list(_hashed(batches(connection, query, 100_000)))


def row_digests(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: Mapping[str, SnapshotColumn]
) -> npt.NDArray[Any]:
    """Return the digests of a relation's rows (SQL), each as four integers, in the order of the rows.

    They are in memory: at most `MOST_ROWS` rows.
    """
    import numpy as np

    found = []
    for batch in batches(connection, f"SELECT {row_digest_sql(columns)} AS d FROM {relation}", 100_000):  # noqa: S608
        digests = batch.column(0)
        offsets = np.frombuffer(digests.buffers()[1], np.int32)[digests.offset :]
        data = memoryview(digests.buffers()[2])[int(offsets[0]) : int(offsets[len(digests)])]
        found.append(np.frombuffer(data, ">u8").reshape(-1, 4))
    return np.concatenate([np.empty((0, 4), ">u8"), *found])


def of_digests(partition: str, digests: npt.NDArray[Any]) -> PartitionContent:
    """Return the content of one partition whose rows have these digests."""
    import numpy as np

    first = digests[:, 0].astype(np.uint64)
    order = np.argsort(first)
    first = first[order]
    if (first[1:] == first[:-1]).any():  # the other integers decide
        order = np.lexsort([digests[:, i] for i in (3, 2, 1, 0)])
    return PartitionContent(partition, len(digests), hashlib.sha256(digests[order].astype(">u8").tobytes()).hexdigest())


def _hashed(batches: Iterable[Any]) -> Iterator[PartitionContent]:
    import numpy as np

    name, rows, whole = "", 0, hashlib.sha256()
    for batch in batches:
        names, digests = batch.column(0), batch.column(1)
        runs = names.dictionary_encode()
        codes = runs.indices.to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        offsets = np.frombuffer(digests.buffers()[1], np.int32)[digests.offset :]
        data = memoryview(digests.buffers()[2])
        first = np.frombuffer(data[int(offsets[0]) : int(offsets[len(codes)])], ">u8")[::4]
        for start, end in itertools.pairwise(starts):
            if start == end:
                continue
            here = names[start].as_py()
            if (rows and here < name) or (first[start : end - 1] > first[start + 1 : end]).any():
                raise IntegrityError("identify a snapshot: DuckDB did not sort the digests", "Report this as a bug.")
            if rows and here != name:
                yield PartitionContent(name, rows, whole.hexdigest())
                rows, whole = 0, hashlib.sha256()
            name, rows = here, rows + end - start
            whole.update(data[int(offsets[start]) : int(offsets[end])])
    if rows:
        yield PartitionContent(name, rows, whole.hexdigest())


def by_arrow(tables: Iterable[pa.Table], columns: Mapping[str, SnapshotColumn], partition: str) -> PartitionContent:
    """Return the content of one partition, held in some tables in any order."""
    digests = sorted(digest for table in tables for digest in _digests(table, columns))
    return PartitionContent(partition, len(digests), hashlib.sha256(b"".join(digests)).hexdigest())


def _digests(table: pa.Table, columns: Mapping[str, SnapshotColumn]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in table.to_batches(max_chunksize=20_000):
        values = []
        for name, column in columns.items():
            text = _text(batch[name], column.type)
            size = pc.cast(pc.binary_length(text), pa.string())
            values.append(pc.fill_null(pc.binary_join_element_wise(size, text, ":"), "-"))
        rows = pc.binary_join_element_wise(*values, "")
        yield from (hashlib.sha256(row).digest() for row in pc.cast(rows, pa.binary()).to_pylist())


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
