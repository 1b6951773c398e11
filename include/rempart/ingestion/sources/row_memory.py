"""Choose the rows that an extraction has not taken before, and remember those that the next one reads again. Pure.

An incremental extraction reads again what lies within `overlap` before the cursor, because a transaction may commit
later than rows with a higher cursor. Rows that were taken before are recognised by a digest of their text.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import overload

from rempart.errors import IngestError
from rempart.ingestion.sources.port import State

DIGEST = 12
"""Bytes of a row's digest: two of ten million rows have the same one by chance once in 10^15 times."""
MOST = 5_000_000
"""Rows that are remembered at most: 60 MB."""
CURSOR, ROWS = "cursor", "rows"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = 60_000_000

Row = tuple[int | None, bytes]
"""The cursor of a row in microseconds since 1970 (None for no value), and its text without a line end."""


def microseconds(moment: datetime) -> int:
    """Return an aware moment in microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(micros: int) -> datetime:
    """Return microseconds since 1970 as an aware moment."""
    return _EPOCH + micros * _MICROSECOND


class Digests(Sequence[bytes]):
    """Sorted digests, packed."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed) // DIGEST

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._packed[index * DIGEST : (index + 1) * DIGEST]

    def place(self, digest: bytes) -> int | None:
        """Return the index of a digest, or None."""
        place = bisect_left(self, digest)
        return place if place < len(self) and self[place] == digest else None


def digest(row: bytes) -> bytes:
    """Return the digest of a row's text."""
    return hashlib.blake2b(row, digest_size=DIGEST).digest()


@dataclass
class RowMemory:
    """Rows taken before `state`, and the state after this extraction.

    `overlap`: None for a source that is read whole. `latest` is the highest cursor that counts, so that a row from the
    future does not hide the rows before it. `complete` is False once a limit ended the extraction.
    """

    state: State
    overlap: timedelta | None
    latest: int
    complete: bool = True
    _read: dict[int | None, bytearray] = field(default_factory=dict)
    """Digests of the rows read, by the minute of their cursor, oldest first."""
    _count: int = 0
    _highest: int | None = None
    _unread: bytearray = field(default_factory=bytearray)
    """One for each digest of `state` whose row did not come yet, zero for the others."""

    def __post_init__(self) -> None:
        self._highest = self.cursor

    @property
    def cursor(self) -> int | None:
        """Return the cursor of the last extraction, or None before the first."""
        return int(self.state[CURSOR]) if self.overlap is not None and CURSOR in self.state else None

    @property
    def since(self) -> int | None:
        """Return the lowest cursor to read, or None to read all."""
        return None if self.cursor is None else self._first_minute(self.cursor) * _MINUTE

    def _first_minute(self, highest: int) -> int:
        assert self.overlap is not None  # noqa: S101 - there is a cursor
        return (highest - self.overlap // _MICROSECOND) // _MINUTE

    def new(self, rows: Iterable[Row], most: int | None = None) -> Iterator[bytes]:
        """Yield the rows that were not taken before. Rows come in ascending order of their cursor.

        After `most` bytes of them it ends, but never between two rows with the same cursor. Raises IngestError for more
        rows to remember than `MOST`.
        """
        known = Digests(self._known)
        self._unread = bytearray(b"\1") * len(known)
        taken, last = 0, None
        for micros, row in rows:
            own = digest(row)
            place = known.place(own)
            if place is not None:
                self._unread[place] = 0
            elif most is not None and taken >= most and (micros is None or micros != last):
                self.complete = False
                return
            self._remember(micros, own)
            if place is None:
                taken, last = taken + len(row) + 1, micros
                yield row

    @property
    def _known(self) -> bytes:
        return base64.b64decode(self.state.get(ROWS, ""))

    def _remember(self, micros: int | None, own: bytes) -> None:
        minute = None
        if self.overlap is not None and micros is not None:
            micros = min(micros, self.latest)
            self._highest = micros if self._highest is None else max(self._highest, micros)
            minute = micros // _MINUTE
        if minute not in self._read:
            self._forget()
            self._read[minute] = bytearray()
        self._read[minute] += own
        self._count += 1
        if self._count > MOST:
            self._forget()
            if self._count > MOST:
                raise too_many(self.overlap)

    def _forget(self) -> None:
        """Drop the digests of rows that the next extraction does not read again."""
        if self._highest is None:
            return
        first = self._first_minute(self._highest)
        for minute in [minute for minute in self._read if minute is not None and minute < first]:
            self._count -= len(self._read.pop(minute)) // DIGEST

    def after(self) -> State:
        """Return the state once all rows of `new` were taken. Raises IngestError for too many rows to remember.

        Of an extraction that a limit ended, it also holds the digests whose rows are still to be read again.
        """
        self._forget()
        found = {} if self._highest is None else {CURSOR: str(self._highest)}
        ahead = b"" if self.complete else _chosen(self._known, self._unread)
        if self._count + len(ahead) // DIGEST > MOST:
            raise too_many(self.overlap)
        if packed := b"".join([*self._read.values(), ahead]):
            found[ROWS] = base64.b64encode(_sorted(packed)).decode()
        return found


def _sorted(packed: bytes) -> bytes:
    import numpy as np

    return np.sort(np.frombuffer(packed, dtype=f"S{DIGEST}")).tobytes()


def _chosen(packed: bytes, flags: bytearray) -> bytes:
    import numpy as np

    chosen = np.frombuffer(flags, dtype=np.bool_)
    return np.frombuffer(packed, dtype=f"S{DIGEST}")[chosen].tobytes() if packed else b""


def too_many(overlap: timedelta | None) -> IngestError:
    """Return the error for more rows than are remembered."""
    if overlap is None:
        return IngestError(
            f"extract: the table has more than {MOST} rows, and a source without a cursor is read whole each time",
            "Add `cursor` to `source`, with a column that grows with each change.",
        )
    return IngestError(
        f"extract: more than {MOST} rows lie within `overlap` ({overlap}), which the next extraction reads again",
        "Set a shorter `source.cursor.overlap`, longer than the longest transaction.",
    )
