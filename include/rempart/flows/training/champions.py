"""Decide each model's champion by the ledger, and keep MLflow's alias there.

A decision is recorded before the alias moves. The newest recorded promotion or rollback therefore names the champion,
whatever MLflow's alias says: a moved alias is put back, with an alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from rempart.coordination.active import ActiveSites
from rempart.errors import RempartError
from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence, Ledger
from rempart.settings.config import Connection

ALARM = "champion-alias"
"""Value of field `what` in a denial about a moved alias."""
MOVED = "ALIAS MOVED: model"
"""Prefix of a line about an alias that differs from the champion on record."""
FINISHED_WITHIN = timedelta(hours=1)
"""Time for which a moved alias is no alarm: a run interrupted after its decision leaves the alias behind."""


@dataclass(frozen=True)
class TimeAsChampion:
    """A time in which a version was champion; `until` is None as long as it is. `seq`: the record with which it began.

    `before`: the champion to which a rollback would have returned then, or None.
    """

    version: str
    since: datetime
    until: datetime | None
    seq: int
    before: str | None = None


def decisions_on(ledger: Ledger, name: str) -> list[Evidence]:
    """Return promotions and rollbacks of a model since its pipeline was last removed, oldest first."""
    promotions = ledger.find("promotion", name, limit=100_000)
    rollbacks = ledger.find("rollback", name, limit=100_000)
    decided = removals.since([*promotions, *rollbacks], removals.removal_of(ledger, name))
    return sorted(decided, key=lambda promotion: promotion.seq)


def succession(decisions: Sequence[Evidence]) -> list[str]:
    """Return the champions that a rollback can return to, oldest first; the last one is champion. Pure.

    A promotion adds its version; a rollback removes the last one.
    """
    versions: list[str] = []
    for decision in decisions:
        if decision.kind == "promotion":
            versions.append(str(decision.body["version"]))
        elif versions:
            versions.pop()
    return versions


def champion_times(decisions: Sequence[Evidence]) -> list[TimeAsChampion]:
    """Return the times in which versions were champion, oldest first; a decision ends each of them. Pure."""
    versions, found = list[str](), list[TimeAsChampion]()
    for decision in decisions:
        if decision.kind == "promotion":
            versions.append(str(decision.body["version"]))
        elif versions:
            versions.pop()
        if found and found[-1].until is None:
            found[-1] = replace(found[-1], until=decision.at)
        if versions:
            before = versions[-2] if len(versions) >= 2 else None
            found.append(TimeAsChampion(versions[-1], decision.at, None, decision.seq, before))
    return found


def intended(decisions: Sequence[Evidence]) -> str | None:
    """Return the champion version by the recorded decisions."""
    versions = succession(decisions)
    return versions[-1] if versions else None


def return_to(decisions: Sequence[Evidence]) -> tuple[str, str] | None:
    """Return the version that a rollback would make champion and the one it replaces, or None. Pure."""
    versions = succession(decisions)
    return (versions[-2], versions[-1]) if len(versions) >= 2 else None


def registered(decided: Mapping[str, str], versions: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the recorded champions that MLflow has: `decided` by model, `versions` of every model there. Pure."""
    known = set(versions)
    return {name: version for name, version in sorted(decided.items()) if (name, version) in known}


def alarm(aliased: str | None, decisions: Sequence[Evidence], now: datetime) -> str | None:
    """Return why an alias at version `aliased` (None: no alias) is an alarm, or None if it is right or a run was
    interrupted.

    Pure. `now` is an aware datetime.
    """
    wanted, last = intended(decisions), decisions[-1] if decisions else None
    if aliased == wanted:
        return None
    if last is not None and now - last.at <= FINISHED_WITHIN:
        before = last.body.get("previous") if last.kind == "promotion" else last.body["replaces"]
        if aliased == (None if before is None else str(before)):
            return None
    return (
        f"MLflow's alias champion pointed to version {aliased or 'none'}, but the champion by the ledger is version "
        f"{wanted or 'none'}: the alias was moved by hand, or a record was altered (verify the ledger first)"
    )


def compared(aliases: Mapping[str, str], decided: Mapping[str, Sequence[Evidence]], now: datetime) -> Iterator[str]:
    """Return a line for each model whose alias is not at the champion on record. Pure.

    `aliases`: version by model, as MLflow has them; `decided`: the decisions on record by model, oldest first.
    """
    for name in sorted({*aliases, *decided}):
        if why := alarm(aliases.get(name), decided.get(name, ()), now):
            yield f"{MOVED} {name}: {why}. The next backup or validation puts it back"


def lines(platform: Platform) -> list[str]:
    """Compare MLflow's aliases of our models with the recorded decisions, as lines for people, without changes.

    A store that does not answer is reported in a line.
    """
    from rempart.models import registry

    try:
        decided: dict[str, list[Evidence]] = {}
        removed = removals.last_removed(platform.ledger)
        kinds: tuple[Literal["promotion"], Literal["rollback"]] = ("promotion", "rollback")
        for kind in kinds:
            for record in platform.ledger.find(kind, limit=100_000):
                if record.seq < removed.get(record.subject, record.seq):
                    continue
                decided.setdefault(record.subject, []).append(record)
        ordered = {name: sorted(found, key=lambda record: record.seq) for name, found in decided.items()}
        ours = ordered.keys() | {record.subject for record in platform.ledger.find("candidate", limit=100_000)}
        aliases = registry.champions(platform.tracking())
        return list(compared({name: aliases[name] for name in aliases if name in ours}, ordered, platform.clock()))
    except RempartError as error:
        return [f"UNKNOWN whether MLflow's aliases match the champions on record: {error.what}"]


def settle(tracking: Connection, ledger: Ledger, name: str, decisions: Sequence[Evidence], now: datetime) -> str | None:
    """Return the champion by the decisions. Put MLflow's alias there if it differs, with an alarm in the ledger.

    Raises TrackingUnavailable, TrackingRefused, LedgerError, DatabaseUnavailable.
    """
    from rempart.models import registry

    wanted = intended(decisions)
    found = registry.champion(tracking, name)
    if found == wanted:
        return wanted
    if why := alarm(found, decisions, now):
        body = {"what": ALARM, "classification": "", "found": found, "champion": wanted, "reasons": [why]}
        ledger.append("denial", name, body)
    if wanted is None:
        registry.remove_champion(tracking, name)
        return None
    bodies = (decision.body for decision in reversed(decisions) if decision.kind == "promotion")
    promoted = next(body for body in bodies if str(body["version"]) == wanted)
    registry.promote(tracking, name, wanted, None, tuple(promoted["reasons"]))
    return wanted


def settle_all(
    tracking_of: Callable[[], Connection],
    ledger: Ledger,
    sites: ActiveSites,
    clock: Callable[[], datetime],
    names: Iterable[str],
) -> Iterator[str]:
    """Settle the champion of each model. Yield a line for each change or error.

    `tracking_of` returns the connection of the MLflow server if the policy allows it.
    """
    for name in names:
        try:
            with sites.committing(sites.active()):
                champion = settle(tracking_of(), ledger, name, decisions_on(ledger, name), clock())
        except RempartError as error:
            yield f"MLflow's alias champion of model {name} differs from the record: {error.what}"
        else:
            yield f"MLflow's alias champion of model {name} was put back to version {champion or 'none'}"
