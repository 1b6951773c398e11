"""A ledger in memory, for unit tests: the same chain, signed with a key that everybody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from rempart.ledger.canonical import parse
from rempart.ledger.chain import Entry, Head, extend, introduce
from rempart.ledger.keys import Signer, signer
from rempart.ledger.port import Evidence, Kind
from rempart.ledger.reading import first_altered, key_chain


def _now() -> datetime:
    return datetime.now(UTC)


class MemoryLedger:
    """Evidence in a list (without the records of keys), and the chain that holds it."""

    def __init__(self, key: Signer | None = None, clock: Callable[[], datetime] = _now) -> None:
        self.records: list[Evidence] = []
        self.chain: list[Entry] = []
        self._key, self._clock = key or signer(bytes(32)), clock

    def _head(self) -> Head:
        newest = self.chain[-1] if self.chain else None
        return Head(newest.seq, newest.hash, self._key.id) if newest else Head()

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        if not self.chain:
            self.chain.append(introduce(Head(), self._clock(), self._key, self._key))
        self.chain.append(extend(self._head(), self._clock(), kind, subject, body, self._key))
        self.records.append(evidence(self.chain[-1].text))
        return self.records[-1]

    def find(self, kind: Kind, subject: str | None = None, *, limit: int | None = None) -> list[Evidence]:
        return [*islice(self.each(kind, subject), limit)]

    def each(self, kind: Kind, subject: str | None = None) -> Iterator[Evidence]:
        known = [evidence(entry.text) for entry in self.chain] if kind == "key" else [*self.records]
        yield from (record for record in reversed(known) if record.kind == kind and subject in (None, record.subject))

    def first_altered(self, after: int = 0) -> int | None:
        keys = key_chain((entry.text, entry.sig) for entry in self.chain if evidence(entry.text).kind == "key")
        return first_altered(keys, ((entry.seq, entry.text, entry.sig) for entry in self.chain[after:]), after)

    def forged(self, *, limit: int = 100) -> list[Entry]:
        return []

    def page(
        self, *, before: int | None = None, kind: str | None = None, subject: str | None = None, limit: int = 50
    ) -> list[Entry]:
        read = [(entry, evidence(entry.text)) for entry in reversed(self.chain) if before is None or entry.seq < before]
        chosen = (entry for entry, record in read if kind in (None, record.kind) and subject in (None, record.subject))
        return [*islice(chosen, limit)]

    def entries(self, after: int = 0) -> Iterator[Entry]:
        yield from self.chain[after:]

    def rotate(self, new: Signer) -> Evidence:
        if self._key.id != new.id:
            self.chain.append(introduce(self._head(), self._clock(), new, self._key))
            self._key = new
        return self.find("key", new.id, limit=1)[0]


def evidence(text: str) -> Evidence:
    """Return a record's text as evidence."""
    record = parse(text)
    at = datetime.fromisoformat(record["at"])
    return Evidence(record["seq"], at, record["kind"], record["subject"], record["body"])
