"""Provide a ledger whose new records name the DAG run that wrote them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rempart.ledger.chain import Entry
from rempart.ledger.keys import Signer
from rempart.ledger.port import Evidence, Kind, Ledger

KEY = "written_by"
"""Field of a record's body: `{"dag": ..., "run": ..., "task": ...}`."""
_MADE_BY_AIRFLOW = re.compile(
    r"[a-z_]{1,30}__\d{4}-\d{2}-\d{2}T[\d:.]{5,15}\+00:00(_\w{1,8})?|approval__\d{1,15}__\d{1,6}"
)


@dataclass(frozen=True)
class Writer:
    """A task of a run of a DAG, by Airflow's ids; `run` as `run_name` gives it."""

    dag: str
    run: str
    task: str


def run_name(run_id: str) -> str:
    """Return the name of a run in evidence: its id, or the digest of an id that a person chose, because that may
    contain anything.
    """
    if _MADE_BY_AIRFLOW.fullmatch(run_id):
        return run_id
    return f"sha256:{hashlib.sha256(run_id.encode()).hexdigest()}"


class AttributedLedger:
    """A ledger that adds the writer to appended records. Reads are unchanged."""

    def __init__(self, ledger: Ledger, writer: Writer) -> None:
        self._ledger, self._writer = ledger, writer

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        return self._ledger.append(kind, subject, {**body, KEY: asdict(self._writer)})

    def find(self, kind: Kind, subject: str | None = None, *, limit: int | None = None) -> list[Evidence]:
        return self._ledger.find(kind, subject, limit=limit)

    def each(self, kind: Kind, subject: str | None = None) -> Iterator[Evidence]:
        return self._ledger.each(kind, subject)

    def first_altered(self, after: int = 0) -> int | None:
        return self._ledger.first_altered(after)

    def forged(self, *, limit: int = 100) -> list[Entry]:
        return self._ledger.forged(limit=limit)

    def page(
        self, *, before: int | None = None, kind: str | None = None, subject: str | None = None, limit: int = 50
    ) -> list[Entry]:
        return self._ledger.page(before=before, kind=kind, subject=subject, limit=limit)

    def entries(self, after: int = 0) -> Iterator[Entry]:
        return self._ledger.entries(after)

    def rotate(self, new: Signer) -> Evidence:
        return self._ledger.rotate(new)


def writer(record: Evidence) -> Writer | None:
    """Return the writer of a record; None if no run wrote it, or it is older than this field."""
    stated = record.body.get(KEY)
    if not isinstance(stated, Mapping) or not all(isinstance(stated.get(name), str) for name in ("dag", "run", "task")):
        return None
    return Writer(stated["dag"], stated["run"], stated["task"])
