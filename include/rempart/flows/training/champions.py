"""Decide each model's champion by the ledger, and keep MLflow's alias there.

A decision is recorded before the alias moves. The newest recorded promotion or rollback therefore names the champion,
whatever MLflow's alias says: a moved alias is put back, with an alarm. Each look reads the alias first: then the
decision that moved it is among the records. If a record after that decision was altered or
deleted, it may have been a decision: the alias stays, with an alarm, until a newer valid record decides. The scorer
keeps its champion by the same rule (`flows.serving.standings`).
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
from rempart.flows.training.candidates.record import candidate_record
from rempart.ledger.champions import succession_after
from rempart.ledger.port import Evidence, Ledger
from rempart.settings.config import Connection

ALARM = "champion-alias"
"""Value of field `what` in a denial about a moved alias."""
MOVED = "ALIAS MOVED: model"
"""Prefix of a line about an alias that differs from the champion on record."""
FINISHED_WITHIN = timedelta(hours=1)
"""Time for which a moved alias is no alarm: a run interrupted after its decision leaves the alias behind."""


@dataclass(frozen=True)
class Settled:
    """The version at MLflow's alias (None: no alias), and the decisions on record, oldest first, that put it there."""

    alias: str | None
    decisions: Sequence[Evidence]


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
    promotions = ledger.find("promotion", name)
    rollbacks = ledger.find("rollback", name)
    decided = removals.since([*promotions, *rollbacks], removals.removal_of(ledger, name))
    return sorted(decided, key=lambda promotion: promotion.seq)


def succession(decisions: Sequence[Evidence]) -> list[str]:
    """Return the champions that a rollback can return to, oldest first; the last one is champion. Pure."""
    steps = list(_successions(decisions))
    return list(steps[-1][1]) if steps else []


def champion_times(decisions: Sequence[Evidence]) -> list[TimeAsChampion]:
    """Return the times in which versions were champion, oldest first; a decision ends each of them. Pure."""
    found = list[TimeAsChampion]()
    for decision, versions in _successions(decisions):
        if found and found[-1].until is None:
            found[-1] = replace(found[-1], until=decision.at)
        if versions:
            before = versions[-2] if len(versions) >= 2 else None
            found.append(TimeAsChampion(versions[-1], decision.at, None, decision.seq, before))
    return found


def _successions(decisions: Sequence[Evidence]) -> Iterator[tuple[Evidence, tuple[str, ...]]]:
    """Yield each decision with the champions after it, as `succession`."""
    versions: tuple[str, ...] = ()
    for decision in decisions:
        versions = succession_after(versions, decision.kind, decision.body)
        yield decision, versions


def intended(decisions: Sequence[Evidence]) -> str | None:
    """Return the champion version by the recorded decisions. Pure.

    The newest one decides alone: it names its champion, so an older record that was altered changes nothing.
    """
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


def undecided(aliased: str | None, wanted: str | None, altered: int) -> str:
    """Return why an alias stays although it is not at the champion by the valid records. Pure."""
    return (
        f"MLflow's alias champion stays at version {aliased or 'none'}, although the champion by the valid records is "
        f"version {wanted or 'none'}: record {altered} was altered or deleted, and may have decided. Put it back "
        "(docs/how-to/verify-the-ledger.md#put-an-altered-record-back)"
    )


def first_doubt(ledger: Ledger, name: str, decisions: Sequence[Evidence]) -> int | None:
    """Return the number of the first altered or deleted record that is newer than the newest valid decision, or None.

    Raises LedgerError, DatabaseUnavailable.
    """
    return ledger.first_altered(decisions[-1].seq if decisions else removals.removal_of(ledger, name) or 0)


def compared(
    aliases: Mapping[str, str],
    decided: Mapping[str, Sequence[Evidence]],
    now: datetime,
    doubt: Callable[[str], int | None] = lambda _: None,
) -> Iterator[str]:
    """Return a line for each model whose alias is not at the champion on record.

    `aliases`: version by model, as MLflow has them; `decided`: the decisions on record by model, oldest first. `doubt`:
    `first_doubt` of a model.
    """
    for name in sorted({*aliases, *decided}):
        found, decisions = aliases.get(name), decided.get(name, ())
        if found == intended(decisions):
            continue
        if (altered := doubt(name)) is not None:
            yield f"{MOVED} {name}: {undecided(found, intended(decisions), altered)}"
        elif why := alarm(found, decisions, now):
            yield f"{MOVED} {name}: {why}. The next backup or validation puts it back"


def lines(platform: Platform) -> list[str]:
    """Compare MLflow's aliases of our models with the recorded decisions, as lines for people, without changes.

    A store that does not answer is reported in a line. The alias of a pipeline that is being removed is no alarm: it
    goes last.
    """
    from rempart.models import registry

    try:
        begun = removals.last_removed(platform.ledger)
        aliases = registry.champions(platform.tracking())
        decided: dict[str, list[Evidence]] = {}
        removed = removals.last_removed(platform.ledger)
        kinds: tuple[Literal["promotion"], Literal["rollback"]] = ("promotion", "rollback")
        for kind in kinds:
            for record in platform.ledger.find(kind):
                if record.seq < removed.get(record.subject, record.seq):
                    continue
                decided.setdefault(record.subject, []).append(record)
        ordered = {name: sorted(found, key=lambda record: record.seq) for name, found in decided.items()}
        ours = ordered.keys() | {record.subject for record in platform.ledger.find("candidate")}
        leaving = {
            name
            for name in aliases.keys() & removed.keys()
            if removed[name] != begun.get(name) or being_removed(platform.ledger, name)
        }
        shown = {name: aliases[name] for name in aliases if name in ours - leaving}

        def doubt(name: str) -> int | None:
            return first_doubt(platform.ledger, name, ordered.get(name, ()))

        told = [f"model {name} is being removed; its alias champion goes last" for name in sorted(leaving)]
        return [*compared(shown, ordered, platform.clock(), doubt), *told]
    except RempartError as error:
        return [f"UNKNOWN whether MLflow's aliases match the champions on record: {error.what}"]


def being_removed(ledger: Ledger, name: str) -> bool:
    """Return whether the removal of a pipeline with its models has begun and not ended."""
    begun = removals.unfinished(ledger, name)
    return begun is not None and begun.what == "remove"


def settle(tracking: Connection, ledger: Ledger, name: str, now: datetime) -> Settled:
    """Put MLflow's alias at the champion by the decisions if it differs, with an alarm in the ledger.

    An alias at a version that was trained here stays while a newer record is altered or deleted. Raises
    TrackingUnavailable, TrackingRefused, LedgerError, DatabaseUnavailable.
    """
    from rempart.models import registry

    found, decisions = registry.champion(tracking, name), decisions_on(ledger, name)  # in this order
    wanted = intended(decisions)
    if found == wanted:
        return Settled(wanted, decisions)
    doubt = first_doubt(ledger, name, decisions)
    if doubt is not None and (found is None or candidate_record(ledger, name, found) is not None):
        _tell(ledger, name, _denial(found, wanted, undecided(found, wanted, doubt)))
        return Settled(found, decisions)
    if why := alarm(found, decisions, now):
        ledger.append("denial", name, _denial(found, wanted, why))
    if wanted is None:
        registry.remove_champion(tracking, name)
        return Settled(None, decisions)
    bodies = (decision.body for decision in reversed(decisions) if decision.kind == "promotion")
    promoted = next((body for body in bodies if str(body["version"]) == wanted), {})  # altered: a rollback named it
    registry.promote(tracking, name, wanted, None, tuple(promoted.get("reasons", ())))
    return Settled(wanted, decisions)


def _denial(found: str | None, wanted: str | None, why: str) -> dict[str, object]:
    return {"what": ALARM, "classification": "", "found": found, "champion": wanted, "reasons": [why]}


def _tell(ledger: Ledger, name: str, body: Mapping[str, object]) -> None:
    """Record an alarm that stands for a while once: each backup finds it again."""
    newest = next(ledger.each("denial", name), None)
    if newest is None or any(newest.body.get(key) != value for key, value in body.items()):
        ledger.append("denial", name, body)


def settle_all(
    tracking_of: Callable[[], Connection],
    ledger: Ledger,
    sites: ActiveSites,
    clock: Callable[[], datetime],
    names: Iterable[str],
) -> Iterator[str]:
    """Settle the champion of each model that is not being removed. Yield a line for each change or error.

    `tracking_of` returns the connection of the MLflow server if the policy allows it.
    """
    for name in names:
        try:
            with sites.committing(sites.active()):
                if being_removed(ledger, name):
                    continue
                settled = settle(tracking_of(), ledger, name, clock())
        except RempartError as error:
            yield f"MLflow's alias champion of model {name} differs from the record: {error.what}"
        else:
            champion = settled.alias or "none"
            if settled.alias == intended(settled.decisions):
                yield f"MLflow's alias champion of model {name} was put back to version {champion}"
            else:
                yield (
                    f"MLflow's alias champion of model {name} stays at version {champion}: a record of the "
                    "ledger was altered or deleted (`rempart status` names it)"
                )
