"""What the ledger says about serving: which version is champion, which may shadow it, and who may ask.

The newest reading stays on disk, so that the scorer starts while the ledger does not answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rempart.flows.governance.clients import clients_on
from rempart.flows.prediction_log.keys import public_key
from rempart.flows.serving.model_files import write_private
from rempart.flows.shared import removals
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.champions import decisions_on, intended
from rempart.ledger.port import Ledger
from rempart.serving.scorer.clients import Client
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)

FILE = "standings.json"


@dataclass(frozen=True)
class Standings:
    """One reading of the ledger. `champions`, `shadows`: `candidate` evidence by pipeline. `seq`: newest record.

    `sealed_with`: name and public half of the key of each pipeline's log, if it is sealed. `decided`: number of the
    newest valid record that decided on each pipeline's champion. `seq` may be that of a record that is not valid.
    """

    at: datetime
    seq: int
    champions: Mapping[str, Mapping[str, Any]]
    shadows: Mapping[str, Mapping[str, Any]]
    clients: tuple[Client, ...]
    sealed_with: Mapping[str, Sequence[str]]
    decided: Mapping[str, int]


def newest_record(ledger: Ledger) -> int:
    """Return the number of the newest record. It only tells whether to read again."""
    return next((entry.seq for entry in ledger.page(limit=1)), 0)


def read(ledger: Ledger, pipelines: Mapping[str, ModelPipeline], shadowed: Collection[str], at: datetime) -> Standings:
    """Read the ledger. `shadowed`: pipelines whose newest candidate shadows the champion.

    Raises LedgerError, DatabaseUnavailable.
    """
    seq, champions, shadows = newest_record(ledger), dict[str, Mapping[str, Any]](), dict[str, Mapping[str, Any]]()
    decided = dict[str, int]()
    for name in sorted(pipelines):
        decisions = decisions_on(ledger, name)
        newest_decision = decisions[-1].seq if decisions else removals.removal_of(ledger, name)
        decided[name] = newest_decision or 0
        version = intended(decisions)
        record = candidate_record(ledger, name, version) if version else None
        if version is None or record is None:
            continue
        champions[name] = record
        if name in shadowed and (newest := _newest_candidate(ledger, name)) and str(newest["version"]) != version:
            shadows[name] = newest
    found = {name: key for name in champions if (key := public_key(ledger, pipelines[name]))}
    return Standings(at, seq, champions, shadows, clients_on(ledger), found, decided)


def with_undecided(before: Standings | None, found: Standings, names: Collection[str]) -> Standings:
    """Return a reading in which champions of the reading before stay, unless a newer valid record decided. Pure.

    A champion changes by a promotion, a rollback or a removal. If it differs without any of these, a record that was
    read before was altered or deleted since: the reading is not followed, and the fault is logged.
    """
    if before is None:
        return found
    champions, shadows = dict(found.champions), dict(found.shadows)
    sealed, decided = dict(found.sealed_with), dict(found.decided)
    for name, record in before.champions.items():
        version = str(record["version"])
        if name not in names or str(champions.get(name, {}).get("version")) == version:
            continue
        if found.decided.get(name, 0) > before.decided.get(name, 0):
            continue
        logger.error(
            "%s: the ledger does not give version %s as champion any more, and no newer record decides so: a record "
            "was altered or deleted, or the ledger is an older copy. The version goes on. Verify the ledger "
            "(docs/how-to/verify-the-ledger.md). If it was restored, delete %s, and start the scorer again.",
            name,
            version,
            FILE,
        )
        champions[name], decided[name] = record, before.decided.get(name, 0)
        if name in before.sealed_with:
            sealed[name] = before.sealed_with[name]
        if str(shadows.get(name, {}).get("version")) == version:
            del shadows[name]
    return replace(found, champions=champions, shadows=shadows, sealed_with=sealed, decided=decided)


def _newest_candidate(ledger: Ledger, name: str) -> Mapping[str, Any] | None:
    found = removals.since(ledger.find("candidate", name, limit=1), removals.removal_of(ledger, name))
    return found[-1].body if found else None


def keep(standings: Standings, folder: Path) -> None:
    """Keep a reading on disk. Raises ServingError."""
    plain = {
        "at": standings.at.isoformat(),
        "seq": standings.seq,
        "champions": dict(standings.champions),
        "shadows": dict(standings.shadows),
        "clients": [client.as_json() for client in standings.clients],
        "sealed_with": {name: list(key) for name, key in standings.sealed_with.items()},
        "decided": dict(standings.decided),
    }
    write_private(folder / FILE, json.dumps(plain).encode())


def kept(folder: Path) -> Standings | None:
    """Return the reading on disk, or None if there is none that can be read."""
    try:
        plain = json.loads((folder / FILE).read_bytes())
        return Standings(
            datetime.fromisoformat(plain["at"]),
            int(plain["seq"]),
            dict(plain["champions"]),
            dict(plain["shadows"]),
            tuple(Client.from_json(client) for client in plain["clients"]),
            dict(plain["sealed_with"]),
            dict(plain.get("decided", {})),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
