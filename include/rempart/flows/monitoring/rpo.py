"""Compute the platform's RPO from its ledger, for `rempart status`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rempart.backup.databases.not_held import is_whole
from rempart.backup.watch.rpo import Rpo, lag_now, worse
from rempart.errors import RempartError
from rempart.flows.shared.platform import Platform


def rpo(platform: Platform) -> Rpo:
    """Return what would be lost now. Raises DatabaseUnavailable, LedgerError, ReplicationError."""
    now, active, lags = platform.clock(), platform.active().site, dict[str, timedelta | None]()
    whole = (record for record in platform.ledger.each("restore-point") if is_whole(record.body))
    newest = next(whole, None)
    for pair in platform.config.replication:
        if pair.source == active:
            name = f"{pair.source}->{pair.target}"
            last = next(iter(platform.ledger.find("replication", name, limit=1)), None)
            lags[name] = lag_now(timedelta(seconds=float(last.body["lag_seconds"])), last.at, now) if last else None
    point = datetime.fromisoformat(str(newest.body["created_at"])) if newest else None
    return worse(point, lags, now, platform.config.backup.rpo_objective)


def line(platform: Platform) -> str:
    """Return the figure for people, or why it is unknown."""
    try:
        return rpo(platform).line()
    except RempartError as error:
        return f"RPO unknown: {error.what}"


def grades(platform: Platform) -> Iterator[str]:
    """Yield how and when the newest replication of each pair was verified, one line each."""
    try:
        for pair in platform.config.replication:
            last = next(iter(platform.ledger.find("replication", f"{pair.source}->{pair.target}", limit=1)), None)
            told = "never measured"
            if last is not None:
                grade = last.body.get("grade", "grade unknown")
                verified, objects = last.body["verified"], last.body["objects"]
                told = f"{verified} of the {objects} objects that {pair.source} held were verified: {grade}"
                told = f"at {last.at:%Y-%m-%d %H:%M} UTC, {told}"
            yield f"replica {pair.source} -> {pair.target}: {told}"
    except RempartError as error:
        yield f"replicas unknown: {error.what}"
