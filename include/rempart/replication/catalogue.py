"""The catalogue of a pair: what stands at the target, verified. In PostgreSQL; in memory for tests.

It saves work and is no proof by itself: a row that a crash loses is verified at the target again. Whatever is written
is written under the pair's lease, in the same transaction, so a run that lost its lease records nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime
from operator import attrgetter
from typing import Protocol

from rempart.coordination.database import Session, session
from rempart.coordination.lease import Lease, fence
from rempart.replication.plan import ACCEPTED, Replica
from rempart.settings.config import Connection

_NAMES = tuple(field.name for field in fields(Replica))
_COLUMNS = ", ".join(_NAMES)
_VALUES = attrgetter(*_NAMES)
_TYPES = {
    "place": "bigint",
    "marker": "boolean",
    "size": "bigint",
    "modified": "timestamptz",
    "copied": "timestamptz",
    "verified": "timestamptz",
    "missing_since": "timestamptz",
    "sightings": "integer",
    "hidden": "timestamptz",
}
_KEY = ("key", "version")
_UPSERT = f"""
INSERT INTO replica (source, target, bucket, {_COLUMNS})
SELECT %s, %s, %s, * FROM unnest({", ".join(f"%s::{_TYPES.get(name, 'text')}[]" for name in _NAMES)})
ON CONFLICT (source, target, bucket, key, version) DO UPDATE
SET {", ".join(f"{name} = EXCLUDED.{name}" for name in _NAMES if name not in _KEY)}
"""  # noqa: S608 # names of columns only
_DELETE = """
DELETE FROM replica USING unnest(%s::text[], %s::text[]) gone (key, version)
WHERE source = %s AND target = %s AND bucket = %s AND replica.key = gone.key AND replica.version = gone.version
"""
_COMPARED = """
INSERT INTO comparison (source, target, bucket, at) VALUES (%s, %s, %s, %s)
ON CONFLICT (source, target, bucket) DO UPDATE SET at = EXCLUDED.at
"""
_WHOSE = "source = %s AND target = %s AND bucket = %s"
_AT_ONCE = 2000


class Catalogue(Protocol):
    """The replicas of one pair, by physical bucket. Reads need no lease."""

    def rows(self, bucket: str) -> Iterator[Replica]:
        """Yield all rows in the order of their keys' bytes, then of their places."""

    def current(self, bucket: str) -> Iterator[Replica]:
        """Yield the objects that a reader of the target finds: each key's newest row, if it is a body and the source
        still lists it.
        """

    def missing(self, bucket: str) -> Iterator[Replica]:
        """Yield the rows that the source's last complete listing lacked, in the order of keys."""

    def copied_since(self, bucket: str, moment: datetime) -> Iterator[Replica]:
        """Yield the rows copied at that moment or later, in the order of keys."""

    def of_keys(self, bucket: str, keys: Sequence[str]) -> Iterator[Replica]:
        """Return all rows of some keys."""

    def compared(self, bucket: str) -> datetime | None:
        """Return when all versions of all keys were last compared."""

    def note_comparison(self, bucket: str, at: datetime, lease: Lease) -> None:
        """Store the time of a complete comparison. Raises LeaseLost."""

    def oldest_proofs(self, bucket: str, limit: int) -> list[Replica]:
        """Return the bodies with the oldest proofs."""

    def unread(self, bucket: str, limit: int) -> list[Replica]:
        """Return the accepted bodies that were never read at the target, oldest first."""

    def count(self, bucket: str) -> int:
        """Return the number of bodies."""

    def record(self, bucket: str, replicas: Sequence[Replica], lease: Lease) -> None:
        """Add rows, or replace those with the same key and version. Raises LeaseLost."""

    def forget(self, bucket: str, replicas: Sequence[Replica], lease: Lease) -> None:
        """Remove rows. Raises LeaseLost."""


def newest_bodies(rows: Iterable[Replica]) -> Iterator[Replica]:
    """Yield each key's newest row, if it is a body and the source still lists it, from rows ordered by key and
    place.
    """
    last: Replica | None = None
    for row in rows:
        if last is not None and last.key != row.key and _counts(last):
            yield last
        last = row
    if last is not None and _counts(last):
        yield last


def _counts(row: Replica) -> bool:
    return not (row.marker or row.missing_since or row.hidden)


class PostgresqlCatalogue:
    """The catalogue in the database `continuity`."""

    def __init__(self, connection: Connection, source: str, target: str) -> None:
        self._connection, self._pair = connection, (source, target)

    def _read(self, doing: str, query: str, *values: object) -> Iterator[Replica]:
        with (
            session(self._connection, doing) as opened,
            opened.transaction(),  # a named cursor lives in one
            opened.cursor("catalogue") as cursor,
        ):
            cursor.itersize = _AT_ONCE
            cursor.execute(query.encode(), values)
            for row in cursor:
                yield Replica(*row)

    def rows(self, bucket: str) -> Iterator[Replica]:
        query = f"SELECT {_COLUMNS} FROM replica WHERE {_WHOSE} ORDER BY key, place"  # noqa: S608
        return self._read("read the catalogue", query, *self._pair, bucket)

    def current(self, bucket: str) -> Iterator[Replica]:
        return newest_bodies(self.rows(bucket))

    def missing(self, bucket: str) -> Iterator[Replica]:
        query = f"SELECT {_COLUMNS} FROM replica WHERE {_WHOSE} AND missing_since IS NOT NULL ORDER BY key, place"  # noqa: S608
        return self._read("read what is missing", query, *self._pair, bucket)

    def of_keys(self, bucket: str, keys: Sequence[str]) -> Iterator[Replica]:
        query = f"SELECT {_COLUMNS} FROM replica WHERE {_WHOSE} AND key = ANY(%s) ORDER BY key, place"  # noqa: S608
        return self._read("read some keys of the catalogue", query, *self._pair, bucket, list(keys))

    def compared(self, bucket: str) -> datetime | None:
        with session(self._connection, "read the last comparison") as opened:
            query = f"SELECT at FROM comparison WHERE {_WHOSE}"  # noqa: S608
            row = opened.execute(query.encode(), [*self._pair, bucket]).fetchone()
        return row[0] if row else None

    def note_comparison(self, bucket: str, at: datetime, lease: Lease) -> None:
        with session(self._connection, "note a comparison") as opened, opened.transaction():
            fence(opened, lease)
            opened.execute(_COMPARED, [*self._pair, bucket, at])

    def copied_since(self, bucket: str, moment: datetime) -> Iterator[Replica]:
        query = f"SELECT {_COLUMNS} FROM replica WHERE {_WHOSE} AND copied >= %s ORDER BY key, place"  # noqa: S608
        return self._read("read what was copied", query, *self._pair, bucket, moment)

    def oldest_proofs(self, bucket: str, limit: int) -> list[Replica]:
        query = f"SELECT {_COLUMNS} FROM replica WHERE {_WHOSE} AND NOT marker ORDER BY verified LIMIT %s"  # noqa: S608
        return list(self._read("read the oldest proofs", query, *self._pair, bucket, limit))

    def unread(self, bucket: str, limit: int) -> list[Replica]:
        query = f"SELECT {_COLUMNS} FROM replica WHERE {_WHOSE} AND basis = %s ORDER BY copied LIMIT %s"  # noqa: S608
        return list(self._read("read what is to be read back", query, *self._pair, bucket, ACCEPTED, limit))

    def count(self, bucket: str) -> int:
        with session(self._connection, "count the catalogue") as opened:
            query = f"SELECT count(*) FROM replica WHERE {_WHOSE} AND NOT marker"  # noqa: S608
            row = opened.execute(query.encode(), [*self._pair, bucket]).fetchone()
        return int(row[0]) if row else 0

    def record(self, bucket: str, replicas: Sequence[Replica], lease: Lease) -> None:
        if not replicas:
            return
        with session(self._connection, "write the catalogue") as opened, opened.transaction():
            fence(opened, lease)
            _upsert(opened, (*self._pair, bucket), replicas)

    def forget(self, bucket: str, replicas: Sequence[Replica], lease: Lease) -> None:
        if not replicas:
            return
        with session(self._connection, "shorten the catalogue") as opened, opened.transaction():
            fence(opened, lease)
            gone = [replica.key for replica in replicas], [replica.version for replica in replicas]
            opened.execute(_DELETE, [*gone, *self._pair, bucket])


def _upsert(opened: Session, whose: tuple[str, ...], replicas: Sequence[Replica]) -> None:
    for start in range(0, len(replicas), _AT_ONCE):
        columns = zip(*map(_VALUES, replicas[start : start + _AT_ONCE]), strict=True)
        opened.execute(_UPSERT.encode(), [*whose, *(list(column) for column in columns)])


class MemoryCatalogue:
    """A catalogue in memory, for one process. A lease is valid until it is lost."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[str, str], Replica]] = {}
        self._compared: dict[str, datetime] = {}

    def _sorted(self, bucket: str) -> list[Replica]:
        rows = self._rows.get(bucket, {}).values()
        return sorted(rows, key=lambda row: (row.key.encode("utf-8", "surrogatepass"), row.place))

    def rows(self, bucket: str) -> Iterator[Replica]:
        return iter(self._sorted(bucket))

    def current(self, bucket: str) -> Iterator[Replica]:
        return newest_bodies(self._sorted(bucket))

    def missing(self, bucket: str) -> Iterator[Replica]:
        return (row for row in self._sorted(bucket) if row.missing_since)

    def of_keys(self, bucket: str, keys: Sequence[str]) -> Iterator[Replica]:
        wanted = set(keys)
        return (row for row in self._sorted(bucket) if row.key in wanted)

    def compared(self, bucket: str) -> datetime | None:
        return self._compared.get(bucket)

    def note_comparison(self, bucket: str, at: datetime, lease: Lease) -> None:
        lease.check()
        self._compared[bucket] = at

    def copied_since(self, bucket: str, moment: datetime) -> Iterator[Replica]:
        return (row for row in self._sorted(bucket) if row.copied >= moment)

    def oldest_proofs(self, bucket: str, limit: int) -> list[Replica]:
        bodies = (row for row in self._sorted(bucket) if not row.marker)
        return sorted(bodies, key=lambda row: row.verified)[:limit]

    def unread(self, bucket: str, limit: int) -> list[Replica]:
        accepted = (row for row in self._sorted(bucket) if row.basis == ACCEPTED)
        return sorted(accepted, key=lambda row: row.copied)[:limit]

    def count(self, bucket: str) -> int:
        return sum(not row.marker for row in self._rows.get(bucket, {}).values())

    def record(self, bucket: str, replicas: Sequence[Replica], lease: Lease) -> None:
        lease.check()
        self._rows.setdefault(bucket, {}).update({(replica.key, replica.version): replica for replica in replicas})

    def forget(self, bucket: str, replicas: Sequence[Replica], lease: Lease) -> None:
        lease.check()
        for replica in replicas:
            self._rows.get(bucket, {}).pop((replica.key, replica.version), None)


def sighted(row: Replica, now: datetime) -> Replica:
    """Return a replica that a complete listing of the source lacked."""
    return replace(row, missing_since=row.missing_since or now, sightings=row.sightings + 1)


def found_again(row: Replica) -> Replica:
    return replace(row, missing_since=None, sightings=0)
