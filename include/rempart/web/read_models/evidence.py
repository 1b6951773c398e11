"""The ledger by pages, and one record looked at in its place. Pure."""

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
    """One record, as it is stored. `hash` is the SHA-256 of its text."""

    seq: int
    at: datetime
    kind: str
    subject: str
    body: Mapping[str, Any]
    hash: str
    key: str


@dataclass(frozen=True)
class EvidencePage:
    """Some records, newest first. The next page begins below `older`; None on the last one."""

    records: tuple[Record, ...]
    kind: str | None
    subject: str | None
    before: int | None
    older: int | None


@dataclass(frozen=True)
class Examined:
    """One record, what was found of it, and its line as an export has it."""

    record: Record
    ok: bool
    findings: tuple[RecordFinding, ...]
    line: str


def record(entry: Entry) -> Record:
    """An entry of the chain for readers."""
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
    """A page of the entries that were asked for with a limit of PAGE + 1: the last one tells that there are more."""
    shown = entries[:PAGE]
    older = shown[-1].seq if len(entries) > PAGE else None
    return EvidencePage(tuple(record(entry) for entry in shown), kind, subject, before, older)


def examined(entry: Entry, before: Entry | None, introduced: Iterable[Evidence]) -> Examined:
    """A record, looked at in its place."""
    findings = examine(entry, before, introduced)
    return Examined(record(entry), all(finding.ok for finding in findings), findings, entry.line)
