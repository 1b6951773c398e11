"""Snapshots with real parts, made without a pipeline, for tests of the Delta log."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from rempart.ingestion import snapshots
from rempart.ingestion.snapshots import Part, Snapshot, SnapshotColumn
from rempart.sites.port import Site

NAME = "trips"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = {
    "id": SnapshotColumn("integer", False),
    "at": SnapshotColumn("timestamp", False),
    "day": SnapshotColumn("date", True),
    "fare": SnapshotColumn("decimal(12,2)", True),
    "km": SnapshotColumn("number", True),
    "paid": SnapshotColumn("boolean", True),
    "zone": SnapshotColumn("category", True),
    "rider": SnapshotColumn("string", True),
    "speeds": SnapshotColumn("array(number)", True),
    "stops": SnapshotColumn("array(string)", True),
}


def rows(*ids: int) -> pa.Table:
    """Rows of every type; each third has no values but its id and its moment."""
    made = [
        {
            "id": n,
            "at": datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC) + timedelta(hours=n),
            "day": date(1999, 12, 31) + timedelta(days=n),
            "fare": Decimal(f"{n}.05"),
            "km": n / 8,
            "paid": n % 2 == 0,
            "zone": "north",
            "rider": f"Zoë {n}",
            "speeds": [n / 2, None, 3.0],
            "stops": ["a", f"b{n}"],
        }
        if n % 3
        else {"id": n, "at": datetime(2026, 1, 1, tzinfo=UTC)}
        for n in ids
    ]
    return pa.Table.from_pylist(made, schema=snapshots.arrow_schema(COLUMNS))


def part(table: pa.Table, partition: str = "2026-03") -> tuple[Part, bytes]:
    body = snapshots.encode([table], table.schema)
    digest = hashlib.sha256(body).hexdigest()
    key = f"{snapshots.folder(NAME)}parts/{digest}.parquet"
    return Part(partition, key, digest, table.num_rows, len(body)), body


def snapshot(
    parts: Sequence[Part], number: int = 0, columns: dict[str, SnapshotColumn] | None = None, **changes: Any
) -> Snapshot:
    """The `number`-th snapshot of a line, a minute after the one before."""
    facts: dict[str, Any] = {
        "id": f"{number:032x}",
        "pipeline": NAME,
        "created_at": NOON + timedelta(minutes=number),
        "previous": f"{number - 1:032x}" if number else None,
        "rows": sum(part.rows for part in parts),
        "parts": tuple(parts),
        "columns": columns or COLUMNS,
        "classification": "personal",
        "retain_until": date(2030, 1, 1),
        "key": ("id",),
        "partition_by": "at",
    }
    return Snapshot(**facts | changes)


def stored(site: Site, *tables: pa.Table, number: int = 0, bucket: str = "lake") -> Snapshot:
    """A snapshot whose parts are at the site; its manifest and `current.json` are not."""
    made = [part(table) for table in tables]
    for stored_part, body in made:
        site.write(bucket, stored_part.key, body)
    return snapshot([stored_part for stored_part, _ in made], number)


def to_disk(site: Site, folder: Path, bucket: str = "lake") -> Path:
    """The table as files, as a reader finds it at the site. Returns its root."""
    for info in site.list(bucket, snapshots.folder(NAME)):
        file = folder / info.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(site.read(bucket, info.key))
    return folder / snapshots.folder(NAME)
