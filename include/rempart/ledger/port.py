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
    "extraction",
    "derivation",
    "spark-job",
    "labels",
    "used-views",
    "materialization",
    "skew",
    "monitoring",
    "retraining",
    "look",
    "acceptance",
    "search",
    "search-rows",
    "candidate",
    "opening",
    "model-card",
    "approval",
    "answer",
    "promotion",
    "refusal",
    "rollback",
    "reproduction",
    "scoring",
    "retirement",
    "trial-retirement",
    "prediction-log",
    "replication",
    "restore-point",
    "base-backup",
    "restore",
    "upgrade",
    "bundle",
    "backup-key",
    "drill",
    "drill-report",
    "drill-step",
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
    "removal",
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

    def find(self, kind: Kind, subject: str | None = None, *, limit: int | None = None) -> list[Evidence]:
        """Return records of a kind (and a subject), newest first, each verified, so that callers may act on them.

        All of them, or the newest `limit`. A record that the chain's key did not sign at its place is left out and
        logged (`ledger.reading`); `page` and `entries` return what is stored, for display and verification.
        """

    def each(self, kind: Kind, subject: str | None = None) -> Iterator[Evidence]:
        """Yield what `find` returns, page by page: a caller that stops early reads no more pages."""

    def first_altered(self, after: int = 0) -> int | None:
        """Return the number of the first record after `after` that was altered or deleted, or None.

        It has no valid signature or is not there, and a later record is valid. Records at the end are `forged`.
        """

    def forged(self, *, limit: int = 100) -> list[Entry]:
        """Return records without a valid signature at the end of the chain, newest first: nothing follows them."""

    def page(
        self, *, before: int | None = None, kind: str | None = None, subject: str | None = None, limit: int = 50
    ) -> list[Entry]:
        """Return stored records of the chain, newest first, with a smaller number than `before`."""

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """Return the stored chain after this number, in order."""

    def rotate(self, new: Signer) -> Evidence:
        """Introduce the next signing key, signed with the current one. Do nothing if it was introduced before."""
