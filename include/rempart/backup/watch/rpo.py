"""Compute the platform's RPO: what would be lost now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.backup.watch.heartbeat_check import Limit, ReceivedHeartbeat, Unheard, span


@dataclass(frozen=True)
class Rpo:
    """The possible loss (None: unknown), its cause, and the objective."""

    length: timedelta | None
    because: str
    objective: timedelta | None

    @property
    def ok(self) -> bool:
        """Return whether the objective is met; unknown counts as missed."""
        return self.length is not None and (self.objective is None or self.length <= self.objective)

    def line(self) -> str:
        """Return the figure: `RPO 12 min (objective 1 h): the age of the newest consistent restore point`."""
        objective = f" (objective {span(self.objective)})" if self.objective is not None else ""
        if self.length is None:
            return f"RPO unknown{objective}: {self.because}"
        return f"RPO {span(self.length)}{objective}{'' if self.ok else ', MISSED'}: {self.because}"


def worse(
    point: datetime | None, lags: Mapping[str, timedelta | None], now: datetime, objective: timedelta | None
) -> Rpo:
    """Return the worse of the age of the newest consistent restore point and the replicas' lags.

    `lags`: of each pair, as of now; None, as for `point`, means unknown.
    """
    if point is None:
        return Rpo(None, "no consistent restore point is known", objective)
    if unknown := [pair for pair, lag in sorted(lags.items()) if lag is None]:
        return Rpo(None, f"the lag of {unknown[0]} is unknown", objective)
    worst, because = now - point, "the age of the newest consistent restore point"
    for pair, lag in sorted(lags.items()):
        if lag is not None and lag > worst:
            worst, because = lag, f"the possible lag of the replica of {pair}"
    return Rpo(worst, because, objective)


def lag_now(measured: timedelta | None, at: datetime, now: datetime) -> timedelta | None:
    """Return a lag measured earlier as of now: later changes may be missing too."""
    return None if measured is None else measured + max(now - at, timedelta())


def of_heartbeats(
    seen: Mapping[str, ReceivedHeartbeat | Unheard], limits: Mapping[str, Limit], now: datetime
) -> Rpo | None:
    """Return the figure as the watch knows it; None if backups are not watched."""
    if "backup" not in limits:
        return None
    backup, point = seen.get("backup"), None
    if isinstance(backup, ReceivedHeartbeat) and backup.heartbeat.facts.get("consistent") is not False:
        point = backup.heartbeat.moment("created_at")
    lags: dict[str, timedelta | None] = {}
    for kind, limit in limits.items():
        if limit.lag is not None:
            heard = seen.get(kind)
            told = heard.heartbeat if isinstance(heard, ReceivedHeartbeat) else None
            lag = lag_now(told.seconds("lag_seconds"), told.at, now) if told else None
            lags[kind.removeprefix("replication/")] = lag
    return worse(point, lags, now, limits["backup"].rpo)
