"""The prediction log in the lake: Parquet files by hour, `predictions-log/<pipeline>/date=.../hour=.../<hash>.parquet`.

A file holds entries of one version, sorted by time. Equal entries give equal bytes, so a file is named after its
content. Pure.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rempart.serving.entries import PredictionEntry

if TYPE_CHECKING:
    import pyarrow as pa

ROOT = "predictions-log/"
PRIVATE = ("inputs", "features", "sealed")
"""Columns with values that may be personal."""
_FIXED = (
    "id", "at", "pipeline", "version", "sha256", "client", "place", "subject", "subject_key", "features_hash", "key",
    *PRIVATE, "seconds", "returned",
)  # fmt: skip
IsErased = Callable[[str, str], bool]
"""Returns whether the subject with this hash, made with this key, was erased: `subject_key`, then `subject`."""


@dataclass(frozen=True)
class Row:
    """One entry with what the shipment knows of it.

    `subject`: keyed hash of the row's key (see `backup.points.erasures.pseudonym`), made with the key `subject_key`;
    None if the inputs lack it. `features_hash`: keyed hash of the features. `inputs` and `features`: JSON, None where
    they are sealed; then `sealed` has both, and `key` names the key that opens it.
    """

    entry: PredictionEntry
    subject: str | None
    subject_key: str | None
    features_hash: str | None
    inputs: bytes | None
    features: bytes | None
    key: str | None = None
    sealed: bytes | None = None


@dataclass(frozen=True)
class HourFile:
    """A file of the log: its key, its content, the content's SHA-256, and its number of entries."""

    key: str
    body: bytes
    sha256: str
    entries: int


def folder(pipeline: str) -> str:
    """Return the prefix of a pipeline's log."""
    return f"{ROOT}{pipeline}/"


def hour_folder(pipeline: str, at: datetime) -> str:
    """Return the prefix of an hour (UTC)."""
    return f"{folder(pipeline)}{at.astimezone(UTC):date=%Y-%m-%d/hour=%H/}"


def hour_of(key: str) -> datetime | None:
    """Return the hour of which a file holds entries; None for a key of another form."""
    try:
        date, hour = (part.partition("=")[2] for part in key.split("/")[-3:-1])
        return datetime.strptime(f"{date} {hour}", "%Y-%m-%d %H").replace(tzinfo=UTC)
    except ValueError:
        return None


def is_expired(key: str, keep_days: int, now: datetime) -> bool:
    """Return whether all entries of a file are older than a number of days."""
    hour = hour_of(key)
    return hour is not None and hour + timedelta(hours=1, days=keep_days) <= now


def files(rows: Iterable[Row]) -> list[HourFile]:
    """Return the files of these entries, one for each hour and version, in order."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        of = row.entry
        groups.setdefault((hour_folder(of.pipeline, of.at), of.version, of.sha256), []).append(row)
    return [_file(where, groups[where, version, sha256]) for where, version, sha256 in sorted(groups)]


def _file(where: str, rows: Sequence[Row]) -> HourFile:
    body = encode(_table(sorted(rows, key=lambda row: (row.entry.at, row.entry.id))))
    sha256 = hashlib.sha256(body).hexdigest()
    return HourFile(f"{where}{sha256}.parquet", body, sha256, len(rows))


def _table(rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    def column(name: str, kind: pa.DataType, of: Callable[[Row], Any]) -> tuple[str, pa.Array]:
        return name, pa.array([of(row) for row in rows], kind)

    text = pa.string()
    columns = [
        column("id", text, lambda row: row.entry.id),
        column("at", pa.timestamp("us", "UTC"), lambda row: row.entry.at),
        column("pipeline", text, lambda row: row.entry.pipeline),
        column("version", text, lambda row: row.entry.version),
        column("sha256", text, lambda row: row.entry.sha256),
        column("client", text, lambda row: row.entry.client),
        column("place", text, lambda row: row.entry.place),
        column("subject", text, lambda row: row.subject),
        column("subject_key", text, lambda row: row.subject_key),
        column("features_hash", text, lambda row: row.features_hash),
        column("key", text, lambda row: row.key),
        column("inputs", text, lambda row: row.inputs.decode() if row.inputs is not None else None),
        column("features", text, lambda row: row.features.decode() if row.features is not None else None),
        column("sealed", pa.binary(), lambda row: row.sealed),
        *_outputs([row.entry.output for row in rows]),
        column("seconds", pa.float64(), lambda row: row.entry.seconds),
        column("returned", pa.bool_(), lambda row: row.entry.returned),
    ]
    return pa.table(dict(columns))


def _outputs(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, pa.Array]]:
    """Return the columns of predictions: text where a value is text, else numbers."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row if name not in _FIXED))
    made = []
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            values = [None if value is None else str(value) for value in values]
        else:
            values = [None if value is None else float(value) for value in values]
        is_text = any(isinstance(value, str) for value in values)
        made.append((name, pa.array(values, pa.string() if is_text else pa.float64())))
    return made


def output_columns(names: Iterable[str]) -> list[str]:
    """Return which columns of a file are those of the prediction."""
    return [name for name in names if name not in _FIXED]


def encode(table: pa.Table) -> bytes:
    """Return a table as Parquet, the same bytes for the same rows."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    return sink.getvalue()


def read(body: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the entries of a file. Raises ArrowInvalid."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.BufferReader(body)).read(columns=columns)


def having(entries: pa.Table, ids: Sequence[str]) -> pa.Table:
    """Return the entries with these ids, in their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return entries.filter(pc.is_in(entries["id"], value_set=pa.array(ids, pa.string())))


def without(body: bytes, gone: IsErased) -> tuple[bytes | None, int, int]:
    """Return a file without the entries of erased subjects, and how many these were; None without any.

    The last number: entries with values and without a subject, in which nobody can be found.
    """
    import pyarrow as pa

    named = read(body, ["subject_key", "subject"]).to_pylist()
    nameless = [number for number, row in enumerate(named) if row["subject"] is None]
    values = read(body, PRIVATE).take(nameless) if nameless else None
    untold = 0 if values is None else sum(any(row.values()) for row in values.to_pylist())
    struck = [row["subject"] is not None and gone(row["subject_key"], row["subject"]) for row in named]
    if not any(struck):
        return None, 0, untold
    return encode(read(body).filter(pa.array([not is_struck for is_struck in struck]))), sum(struck), untold
