"""A ledger in memory, for unit tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rempart.ledger.port import Evidence, Kind


class MemoryLedger:
    """Evidence in a list."""

    def __init__(self) -> None:
        self.records: list[Evidence] = []

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        plain = json.loads(json.dumps(body, allow_nan=False))
        self.records.append(Evidence(len(self.records) + 1, datetime.now(UTC), kind, subject, plain))
        return self.records[-1]

    def find(self, kind: Kind, subject: str | None = None, *, limit: int = 100) -> list[Evidence]:
        return [r for r in reversed(self.records) if r.kind == kind and subject in (None, r.subject)][:limit]
