"""Show, copy and remove records that were written into the ledger without the platform.

They are at the end of the chain, because the platform appends nothing after one. Only the tables' owner can delete
there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rempart.deployment.servers import postgresql
from rempart.ledger.chain import Entry
from rempart.ledger.port import Ledger
from rempart.settings.config import Connection

MOST = 10_000
"""Number of records removed at a time."""


@dataclass(frozen=True)
class Removed:
    """The removed records (with `dry_run`, those that would be), newest first, and the location of their copy."""

    dry_run: bool
    entries: tuple[Entry, ...]
    copy: Path | None


def remove_forged(
    ledger: Ledger, administrator: Connection, folder: Path, now: datetime, *, dry_run: bool = True
) -> Removed:
    """Delete records without a valid signature at the end of the chain. Writes evidence of kind `repair`.

    First a copy goes to a new file in the folder, one line for each record, oldest first. `administrator` may act as
    the tables' owner. Raises DatabaseUnavailable, LedgerError.
    """
    entries = tuple(ledger.forged(limit=MOST))
    if dry_run or not entries:
        return Removed(dry_run, entries, None)
    text = "".join(f"{entry.line}\n" for entry in reversed(entries))
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"forged-{now:%Y%m%dT%H%M%SZ}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    with os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    with postgresql.connect(replace(administrator, schema="ledger")) as session, session.transaction():
        session.execute("SET LOCAL ROLE ledger_owner")
        hashes = [entry.hash for entry in entries]
        session.execute("DELETE FROM public.evidence WHERE hash = ANY(%s) AND seq >= %s", [hashes, entries[-1].seq])
    body = {
        "forged": len(entries),
        "first": entries[-1].seq,
        "hashes": [entry.hash for entry in entries[-100:]],
        "copy": copy.name,
    }
    ledger.append("repair", "ledger", body)
    return Removed(False, entries, copy)
