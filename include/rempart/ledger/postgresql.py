"""The ledger in PostgreSQL; the role that writes it can insert and select, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, get_args

import psycopg

from rempart.errors import DatabaseUnavailable, LedgerBroken, LedgerError
from rempart.ledger.chain import Entry, Head, extend, introduce
from rempart.ledger.keys import Signer
from rempart.ledger.port import Evidence, Kind
from rempart.ledger.reading import KeyChain, first_altered, key_chain
from rempart.settings.config import Connection

Session = psycopg.Connection[tuple[Any, ...]]
_LOCK = 4_907_215_338  # any constant: the advisory lock under which a writer takes the head
_HEAD = """
SELECT coalesce(newest.seq, 0), newest.hash, newest.record, newest.sig, clock_timestamp(), keys.records, keys.sigs
FROM (SELECT) one
LEFT JOIN LATERAL (SELECT * FROM evidence ORDER BY seq DESC LIMIT 1) newest ON true
LEFT JOIN LATERAL (
    SELECT array_agg(record ORDER BY seq) AS records, array_agg(sig ORDER BY seq) AS sigs
    FROM evidence WHERE kind = 'key'
) keys ON true
"""
_KEYS = "SELECT record, sig FROM evidence WHERE kind = 'key' ORDER BY seq"
_FIRST_PAGE, _PAGE = 100, 5_000
"""Rows that are read at once: at first by a caller who may stop early, and of all records."""
# the digest of what was written before the chain: SHA-256 of the rows as JSON (UTC), one a line
_UNSIGNED = """
SELECT count(*), max(at), encode(sha256(convert_to(string_agg(to_jsonb(u)::text, E'\\n' ORDER BY seq), 'UTF8')), 'hex')
FROM evidence_unsigned u
"""


class PostgresqlLedger:
    """Evidence in the `ledger` database. Each append is one transaction, and writers wait for each other.

    `signer` returns the key for each write. A ledger without it is read-only.
    """

    def __init__(self, connection: Connection, signer: Callable[[], Signer] | None = None) -> None:
        self._connection, self._signer = connection, signer

    @contextmanager
    def _session(self, doing: str) -> Iterator[Session]:
        where = f"{doing} in the ledger ({self._connection.host}:{self._connection.port})"
        try:
            with psycopg.connect(
                self._connection.postgresql_url(), connect_timeout=10, options="-c timezone=UTC"
            ) as session:
                yield session
        except psycopg.OperationalError as cause:
            raise DatabaseUnavailable.during(where, str(cause)) from cause
        except psycopg.Error as cause:
            raise LedgerError(
                f"{where}: {type(cause).__name__}", "Check the ledger's tables (include/sql/platform/ledger.sql)."
            ) from cause

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        key = self._key()
        with self._session(f"append {kind} {subject}") as session:
            head, at = _take_head(session, key)
            entry = extend(head, at, kind, subject, body, key)
            _insert(session, entry)
        return _evidence(entry.text)

    def find(self, kind: Kind, subject: str | None = None, *, limit: int | None = None) -> list[Evidence]:
        first = _PAGE if limit is None else min(limit, _PAGE)
        return [*islice(self._pages(kind, subject, first), limit)]

    def each(self, kind: Kind, subject: str | None = None) -> Iterator[Evidence]:
        return self._pages(kind, subject, _FIRST_PAGE)

    def _pages(self, kind: Kind, subject: str | None, rows_wanted: int) -> Iterator[Evidence]:
        """Yield records newest first, each page by a session of its own; `rows_wanted`: rows of the first page."""
        query = "SELECT seq, record, sig FROM evidence_all WHERE kind = %s"
        values: list[str | int] = [kind]
        if subject is not None:
            query, values = f"{query} AND subject = %s", [*values, subject]
        below = ""
        while True:
            with self._session(f"find {kind} {subject or ''}".rstrip()) as session:
                keys = key_chain(session.execute(_KEYS).fetchall())
                rows = session.execute(f"{query} {below} ORDER BY seq DESC LIMIT {rows_wanted:d}", values).fetchall()
            read = (_counted(keys, *row) for row in rows)
            yield from (record for record in read if record and record.kind == kind)
            if len(rows) < rows_wanted:
                return
            rows_wanted, below = _PAGE, f"AND seq < {rows[-1][0]:d}"

    def first_altered(self, after: int = 0) -> int | None:
        with self._session("look for altered records") as session, session.cursor("altered") as cursor:
            keys = key_chain(session.execute(_KEYS).fetchall())
            cursor.execute("SELECT seq, record, sig FROM evidence WHERE seq > %s ORDER BY seq", [after])
            return first_altered(keys, cursor, after)

    def forged(self, *, limit: int = 100) -> list[Entry]:
        entries: list[Entry] = []
        with self._session("look for records that do not verify") as session:
            keys = key_chain(session.execute(_KEYS).fetchall())
            for row in session.execute(
                "SELECT seq, record, hash, sig FROM evidence ORDER BY seq DESC LIMIT %s", [limit]
            ):
                entry = Entry(*row)
                if keys.read(entry.text, entry.sig):
                    break
                entries.append(entry)
        return entries

    def page(
        self, *, before: int | None = None, kind: str | None = None, subject: str | None = None, limit: int = 50
    ) -> list[Entry]:
        wanted: list[tuple[str, Any]] = []
        if before is not None:
            wanted.append(("seq < %s", before))
        if kind is not None:
            wanted.append(("kind = %s", kind))
        if subject is not None:
            if kind is None:  # the index begins with the kind
                wanted.append(("kind = ANY(%s)", list(get_args(Kind))))
            wanted.append(("subject = %s", subject))
        where = " AND ".join(condition for condition, _ in wanted) or "true"
        query = f"SELECT seq, record, hash, sig FROM evidence WHERE {where} ORDER BY seq DESC LIMIT %s"  # noqa: S608
        with self._session("read a page of the chain") as session:
            return [Entry(*row) for row in session.execute(query, [*(value for _, value in wanted), limit])]

    def entries(self, after: int = 0) -> Iterator[Entry]:
        with self._session("read the chain") as session, session.cursor("chain") as cursor:
            cursor.execute("SELECT seq, record, hash, sig FROM evidence WHERE seq > %s ORDER BY seq", [after])
            for row in cursor:
                yield Entry(*row)

    def rotate(self, new: Signer) -> Evidence:
        old = self._key()
        with self._session(f"introduce key {new.id}") as session:
            session.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            current = key_chain(session.execute(_KEYS).fetchall()).current
            if current is None or current.id != new.id:
                head, at = _take_head(session, old)
                _insert(session, introduce(head, at, new, old))
        return self.find("key", new.id, limit=1)[0]

    def _key(self) -> Signer:
        if self._signer is None:
            raise LedgerError(
                "write to the ledger: it was opened for reading", "Open it with the signer of connection ledger_key."
            )
        return self._signer()


def _take_head(session: Session, key: Signer) -> tuple[Head, datetime]:
    """Return the end of the chain, locked until the transaction ends; start an empty chain.

    Raises LedgerError, LedgerBroken.
    """
    session.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    # a statement of its own: its snapshot must be younger than the lock
    row = session.execute(_HEAD).fetchone()
    assert row is not None  # noqa: S101 - its FROM clause gives one row
    seq, digest, record, sig, at, records, sigs = row
    if not seq:
        return _begin(session, at, key), at
    keys = key_chain(zip(records or (), sigs or (), strict=True))
    current = keys.current
    if current is None or not keys.read(record, sig):
        raise LedgerBroken(
            f"append to the ledger: record {seq} is not signed with the current key "
            f"{current.id if current else key.id}, so nothing was written after it",
            "Somebody wrote this record without the platform. It is ignored. `rempart ledger remove-forged` "
            "shows it and the next steps (docs/how-to/verify-the-ledger.md, 'When it does not verify').",
        )
    if current.id != key.id:
        raise LedgerError(
            f"write to the ledger: its key is {current.id}, but this process has key {key.id}",
            "If the key was rotated, restart the processes that have the old key (`rempart down`, then `rempart up`).",
        )
    return Head(seq, digest, current.id), at


def _begin(session: Session, at: datetime, key: Signer) -> Head:
    first = introduce(Head(), at, key, key)
    _insert(session, first)
    head = Head(first.seq, first.hash, key.id)
    row = session.execute(_UNSIGNED).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    if not row[0]:
        return head
    body = {"records": row[0], "last_at": row[1].isoformat(), "sha256": row[2]}
    anchor = extend(head, at, "configuration", "evidence_unsigned", body, key)
    _insert(session, anchor)
    return Head(anchor.seq, anchor.hash, key.id)


def _insert(session: Session, entry: Entry) -> None:
    values = [entry.text, entry.hash, entry.sig]
    session.execute("INSERT INTO evidence (record, hash, sig) VALUES (%s, %s, %s)", values)


def _counted(keys: KeyChain, seq: int, text: str, sig: str | None) -> Evidence | None:
    """Return a stored record as evidence if it is valid.

    Records older than the chain are valid, because no such record can be written any more.
    """
    return _evidence(text) if seq < 1 or keys.read(text, sig or "") else None


def _evidence(text: str) -> Evidence:
    # what is there is given, also if it is not in canonical form: that is for verification to find
    record = json.loads(text)
    at = datetime.fromisoformat(record["at"])
    return Evidence(record["seq"], at, record["kind"], record["subject"], record["body"])
