"""Issue and revoke keys of programs that ask for predictions.

The ledger holds them, so a row that nobody signed opens nothing. A key is shown once. Its evidence has the SHA-256 of
its 256 random bits, which tells nothing about it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from rempart.errors import AccessError
from rempart.ledger.port import Ledger
from rempart.serving.scorer.clients import Client, digest, new_key

_SUBJECT = "client "
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MOST_PER_MINUTE = 1_000_000


def clients_on(ledger: Ledger) -> tuple[Client, ...]:
    """Return the clients whose key was issued and not revoked, by name. Raises LedgerError, DatabaseUnavailable."""
    found: dict[str, Client | None] = {}
    for record in ledger.find("access"):
        name = record.subject.removeprefix(_SUBJECT)
        if name != record.subject and name not in found:
            issued = record.body.get("change") == "issued"
            found[name] = Client.from_json({"name": name, **record.body}) if issued else None
    return tuple(client for _, client in sorted(found.items()) if client)


def issue(
    ledger: Ledger,
    name: str,
    pipelines: Sequence[str],
    per_minute: int,
    known: Collection[str],
    *,
    metrics: bool = False,
) -> str:
    """Return a new key for a client, which replaces its former one. `known`: pipelines that there are.

    `metrics`: whether it may read the scorer's metrics, for which it needs no pipeline.

    Raises AccessError, LedgerError, DatabaseUnavailable.
    """
    if not _NAME.fullmatch(name):
        raise AccessError(
            f"issue a key for client '{name[:70]}': the name is not valid",
            "Name the program, not a person, with lower case letters, digits, '.', '_' or '-', at most 64 characters.",
        )
    if unknown := [pipeline for pipeline in pipelines if pipeline not in known]:
        raise AccessError(
            f"issue a key for client '{name}': there is no pipeline '{unknown[0][:60]}' with a model",
            f"Pass some of: {', '.join(sorted(known)) or '(there is none yet)'}.",
        )
    if not (pipelines or metrics) or not 1 <= per_minute <= MOST_PER_MINUTE:
        raise AccessError(
            f"issue a key for client '{name}': it needs a pipeline or the metrics, and 1 to {MOST_PER_MINUTE:,} "
            "requests a minute",
            "Pass --pipelines with commas and no spaces, such as --pipelines loans,returns, or --metrics, and "
            "--per-minute 600.",
        )
    key = new_key()
    body = {"change": "issued", "sha256": digest(key), "pipelines": list(pipelines), "per_minute": per_minute}
    body |= {"metrics": True} if metrics else {}
    ledger.append("access", f"{_SUBJECT}{name}", body)
    return key


def revoke(ledger: Ledger, name: str) -> None:
    """Revoke the key of a client. Raises AccessError, LedgerError, DatabaseUnavailable."""
    if name not in (known := [client.name for client in clients_on(ledger)]):
        raise AccessError(
            f"revoke the key of client '{name[:70]}': there is no such client",
            f"Pass one of: {', '.join(known) or '(there is none)'}.",
        )
    ledger.append("access", f"{_SUBJECT}{name}", {"change": "revoked"})
