"""Evidence and the interface that keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from rempart.ledger.chain import Entry
from rempart.ledger.keys import Signer

Kind = Literal[
    "snapshot",
    "deliveries",
    "look",
    "acceptance",
    "candidate",
    "promotion",
    "refusal",
    "rollback",
    "replication",
    "restore-point",
    "base-backup",
    "restore",
    "upgrade",
    "bundle",
    "backup-key",
    "drill",
    "drill-report",
    "prune",
    "repair",
    "hold",
    "failover",
    "capabilities",
    "usage",
    "placement",
    "decision",
    "denial",
    "egress-denial",
    "policy",
    "configuration",
    "classification",
    "erasure",
    "access",
    "checkpoint",
    "key",
]


@dataclass(frozen=True)
class Evidence:
    """One record. `body` is plain JSON: never a secret, never personal data.

    Records from before the chain have numbers from 0 downwards.
    """

    seq: int
    at: datetime
    kind: str
    subject: str
    body: Mapping[str, Any]


class Ledger(Protocol):
    """Append and read; nothing is ever changed or removed. Errors: LedgerError, DatabaseUnavailable."""

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        """Write one record and return it with its number. The body is finite, plain JSON (see ledger.canonical)."""

    def find(self, kind: Kind, subject: str | None = None, *, limit: int = 100) -> list[Evidence]:
        """Records of a kind (and a subject), newest first, each verified: what this gives may be acted on.

        A record that the key of the chain did not sign at its place is left out and named in the log
        (`ledger.reading`); `page` and `entries` give what is stored, for whoever looks at it or verifies it as a whole.
        """

    def forged(self, *, limit: int = 100) -> list[Entry]:
        """Records at the end of the chain that its key did not sign, newest first: nothing follows them."""

    def page(
        self, *, before: int | None = None, kind: str | None = None, subject: str | None = None, limit: int = 50
    ) -> list[Entry]:
        """Records of the chain as they are stored, newest first, those with a smaller number than `before`."""

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """The chain as it is stored, from the record after this number on, in order."""

    def rotate(self, new: Signer) -> Evidence:
        """Introduce the key that signs from now on, signed with the present one; nothing if it was introduced."""
