"""Evidence and the interface that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

Kind = Literal[
    "snapshot", "candidate", "promotion", "refusal", "rollback", "replication", "restore-point", "drill", "denial"
]


@dataclass(frozen=True)
class Evidence:
    """One record. `body` is plain JSON: never a secret, never personal data."""

    seq: int
    at: datetime
    kind: str
    subject: str
    body: Mapping[str, Any]


class Ledger(Protocol):
    """Append and read; nothing is ever changed or removed. Errors: LedgerError, DatabaseUnavailable."""

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        """Write one record and return it with its number."""

    def find(self, kind: Kind, subject: str | None = None, *, limit: int = 100) -> list[Evidence]:
        """Records of a kind (and a subject), newest first."""
