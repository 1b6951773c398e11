"""Show the ledger page by page, and one record with its position in the chain. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.ledger.chain import Entry
from rempart.ledger.examination import RecordFinding, examine
from rempart.ledger.port import Evidence

PAGE = 50


@dataclass(frozen=True)
class Record:
    """One stored record. `hash` is the SHA-256 of its text."""

    seq: int
    at: datetime
    kind: str
    subject: str
    body: Mapping[str, Any]
    hash: str
    key: str


@dataclass(frozen=True)
class EvidencePage:
    """Some records, newest first. The next page starts below `older`, which is None on the last page."""

    records: tuple[Record, ...]
    kind: str | None
    subject: str | None
    before: int | None
    older: int | None


@dataclass(frozen=True)
class Examined:
    """One record, the findings of its examination, and its line as in an export."""

    record: Record
    ok: bool
    findings: tuple[RecordFinding, ...]
    line: str


def record(entry: Entry) -> Record:
    """Return an entry of the chain in its form for readers."""
    told = json.loads(entry.text)
    return Record(
        entry.seq,
        datetime.fromisoformat(told["at"]),
        told["kind"],
        told["subject"],
        told["body"],
        entry.hash,
        told["key"],
    )


def page(entries: Sequence[Entry], *, kind: str | None, subject: str | None, before: int | None) -> EvidencePage:
    """Return one page of entries, which were requested with a limit of PAGE + 1.

    The extra entry shows that there are more.
    """
    shown = entries[:PAGE]
    older = shown[-1].seq if len(entries) > PAGE else None
    return EvidencePage(tuple(record(entry) for entry in shown), kind, subject, before, older)


def examined(entry: Entry, before: Entry | None, introduced: Iterable[Evidence]) -> Examined:
    """Return a record with findings about its position in the chain."""
    findings = examine(entry, before, introduced)
    return Examined(record(entry), all(finding.ok for finding in findings), findings, entry.line)
