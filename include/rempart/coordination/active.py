"""The active site: a generation in PostgreSQL that fences off whoever began under an earlier one.

A writer commits inside `committing`, which holds a shared lock and finds the generation unchanged; `settle` waits until
nobody holds that lock. So whatever a writer commits is at the site before a drain lists it, or is not committed at all.
What is committed in several places (a site, a database, another) is either whole or not begun under the `barrier`.
Only a switchover (`coordination.failover`) changes the generation, under the lease `active-site`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import psycopg

from rempart.coordination.database import Session, session
from rempart.coordination.failover import Kind, Switchover
from rempart.coordination.lease import Lease, fence, hold_lease
from rempart.errors import ConfigError, FailoverError, LeaseHeld, SiteFenced
from rempart.settings.config import Config, Connection

LEASE = "active-site"
_WRITERS = 0x52454D50415254  # the number of the advisory lock that writers share
_BARRIER = 0x52454D50415255  # the number of the advisory lock that a writer shares during a commit
_ALONE = 0x52454D50  # the first number of the advisory locks of `alone`
ALONE_SECONDS = 300
"""Seconds for which a commit waits for another commit of the same thing."""
_COLUMNS = "generation, site, state, switchover, at"
_NEWEST = f"SELECT {_COLUMNS} FROM active_site ORDER BY generation DESC LIMIT 1"  # noqa: S608 # no value in it


@dataclass(frozen=True)
class Active:
    """The `generation`-th state: pipelines read and write at `site`; while it is fenced, no writer commits.

    `switchover` is the finished switchover to this state, or the running one. Generation 0 is a platform that was never
    switched.
    """

    generation: int
    site: str
    state: Literal["active", "fenced"] = "active"
    switchover: Switchover | None = None
    at: datetime | None = None


class ActiveSites(Protocol):
    """Store of the generations. Errors: DatabaseUnavailable, ReplicationError."""

    def active(self) -> Active:
        """Return the newest generation."""

    def history(self) -> list[Active]:
        """Return every recorded generation, newest first."""

    def hold_lease(self, holder: str) -> AbstractContextManager[Lease]:
        """Hold the lease of the only switchover while the block runs. Raises LeaseHeld."""

    def advance(self, lease: Lease, before: Active, after: Active) -> Active:
        """Start the generation after `before`. Raises LeaseLost, FailoverError if `before` is not the newest."""

    def note(self, lease: Lease, now: Active) -> None:
        """Keep the switchover of the newest generation. Raises as `advance`."""

    def committing(
        self, began: Active, *, lasting: bool = False, alone: str = ""
    ) -> AbstractContextManager[Callable[[], bool]]:
        """Keep fences (and, unless `lasting` as for a server's life, barriers) from completing while the block runs.

        `alone`: what only one block at a time may commit. Raises LeaseHeld if another takes too long, and SiteFenced
        unless `began` is still the newest. The block gets a function that checks this again and that others still wait
        (else DatabaseUnavailable).
        """

    def barrier(self, seconds: float) -> AbstractContextManager[None]:
        """Block writers from `committing` while the block runs.

        Raises LeaseHeld if a writer still commits at the deadline.
        """

    def settle(self, seconds: float) -> bool:
        """Wait until no writer is `committing`. Return False if a writer still is."""


def is_open(active: Active) -> Active:
    """Return the state if pipelines may work there. Raises SiteFenced."""
    if active.state == "fenced":
        where = f" to '{active.switchover.target}'" if active.switchover else ""
        raise SiteFenced(
            f"commit at site '{active.site}': it is fenced (generation {active.generation}), because the platform "
            f"is being moved{where}",
            "Wait for the end of the switch, then run again. `rempart site active` shows its progress.",
        )
    return active


def _unchanged(began: Active, now: Active) -> None:
    """Check that a writer's generation is the newest and its site not fenced. Raises SiteFenced."""
    is_open(now)
    if now.generation != began.generation:
        raise SiteFenced(
            f"commit at '{began.site}' (generation {began.generation}): the active site changed meanwhile to "
            f"'{now.site}' (generation {now.generation}). Nothing was committed",
            "Run again: it then works at the active site.",
        )


def switchover_to(
    active: Active, target: str, kind: Kind, new_id: str, *, accept_loss: bool = False
) -> Switchover | None:
    """Return the switchover to a site: the running one, or a new one; None if that site is active already.

    Raises FailoverError while a switchover to another site is running.
    """
    switchover = active.switchover if active.switchover and not active.switchover.over else None
    if switchover and switchover.target == target:
        return replace(switchover, accept_loss=switchover.accept_loss or accept_loss)
    if switchover and not switchover.did("switch"):
        raise FailoverError(
            f"switch to '{target}': a switchover from '{switchover.source}' to '{switchover.target}' is running",
            f"End that switchover first: `rempart site failover --to {switchover.target} --yes` or "
            "`rempart site failover --abandon --yes`.",
        )
    return None if active.site == target else Switchover(new_id, kind, active.site, target, accept_loss)


def was_active(history: Sequence[Active], first: str, site: str, at: datetime) -> bool:
    """Return whether a site was active at a time; `history` is newest first, `first` the site before any generation.

    The oldest generation is a fence and names the site before it, whatever the configuration says now. A version
    written in that time was committed by pipelines. Clocks of sites and database differ: versions within that
    difference of a switch may count to the wrong side.
    """
    for event in history:
        if event.at and event.at <= at:
            return event.site == site
    return (history[-1].site if history else first) == site


def other_site(config: Config, active: str) -> str | None:
    """Return the standby site: the other site of the active site's replication pair."""
    for pair in config.replication:
        if active in (pair.source, pair.target):
            return pair.target if pair.source == active else pair.source
    return None


def backup_site(config: Config, active: str) -> str:
    """Return where restore points go: `backup.site`, or, if that is active, the other of its pair.

    Raises ConfigError if there is no other: a restore point at the active site would be lost with it.
    """
    if config.backup.site != active:
        return config.backup.site
    if other := other_site(config, active):
        return other
    raise ConfigError(
        f"backup.site: '{active}' is the active site, so its loss would also destroy the restore points",
        "Set backup.site in rempart.yaml to a site of another operator, or declare the pair under replication.",
    )


def _not_newest(before: Active) -> FailoverError:
    return FailoverError(
        f"start the next generation: generation {before.generation} of the active site is no longer the newest",
        "Another switchover took place meanwhile. Check with `rempart site active`, then run again if still needed.",
    )


def _row(row: tuple[Any, ...]) -> Active:
    generation, site, state, switchover, at = row
    return Active(generation, site, state, Switchover.from_json(switchover) if switchover else None, at)


@dataclass(frozen=True)
class PostgresqlActiveSites:
    """Active site in the database `continuity` (include/sql/platform); `first` is the site of an empty table."""

    connection: Connection
    first: str

    def active(self) -> Active:
        with session(self.connection, "read the active site") as opened:
            return self._newest(opened)

    def _newest(self, opened: Session) -> Active:
        row = opened.execute(_NEWEST).fetchone()
        return _row(row) if row else Active(0, self.first)

    def history(self) -> list[Active]:
        with session(self.connection, "read the history of the active site") as opened:
            return [_row(row) for row in opened.execute(f"{_NEWEST.removesuffix(' LIMIT 1')}").fetchall()]

    def hold_lease(self, holder: str) -> AbstractContextManager[Lease]:
        return hold_lease(self.connection, LEASE, holder)

    def advance(self, lease: Lease, before: Active, after: Active) -> Active:
        with session(self.connection, f"begin generation {before.generation + 1}") as opened, opened.transaction():
            fence(opened, lease)
            if self._newest(opened).generation != before.generation:
                raise _not_newest(before)
            row = opened.execute(
                f"INSERT INTO active_site (generation, site, state, switchover) VALUES (%s, %s, %s, %s)"  # noqa: S608
                f" RETURNING {_COLUMNS}",
                [before.generation + 1, after.site, after.state, _text(after)],
            ).fetchone()
        assert row is not None  # noqa: S101 - an INSERT of one row returns it
        return _row(row)

    def note(self, lease: Lease, now: Active) -> None:
        with session(self.connection, f"note in generation {now.generation}") as opened, opened.transaction():
            fence(opened, lease)
            changed = opened.execute(
                "UPDATE active_site SET switchover = %s WHERE generation = %s"
                " AND generation = (SELECT max(generation) FROM active_site)",
                [_text(now), now.generation],
            ).rowcount
            if changed != 1:
                raise _not_newest(now)

    @contextmanager
    def committing(self, began: Active, *, lasting: bool = False, alone: str = "") -> Iterator[Callable[[], bool]]:
        with session(self.connection, "commit at the active site") as opened, opened.transaction():
            if alone:
                _take_alone(opened, alone)
            opened.execute("SELECT pg_advisory_xact_lock_shared(%s)", [_WRITERS])
            if not lasting:
                opened.execute("SELECT pg_advisory_xact_lock_shared(%s)", [_BARRIER])
            _unchanged(began, self._newest(opened))
            # in the session that holds the lock: when it is lost, so is the lock, and the question finds out
            yield lambda: self._newest(opened).generation == began.generation

    def settle(self, seconds: float) -> bool:
        with session(self.connection, "wait for writers") as opened:
            try:
                with opened.transaction():
                    _take(opened, _WRITERS, seconds)
            except psycopg.errors.LockNotAvailable:
                return False
        return True

    @contextmanager
    def barrier(self, seconds: float) -> Iterator[None]:
        with session(self.connection, "close the barrier") as opened, opened.transaction():
            try:
                _take(opened, _BARRIER, seconds)
            except psycopg.errors.LockNotAvailable as cause:
                raise _still_committing(seconds) from cause
            yield


def _take(opened: Session, lock: int, seconds: float) -> None:
    opened.execute("SELECT set_config('lock_timeout', %s, true)", [f"{int(seconds * 1000)}ms"])
    opened.execute("SELECT pg_advisory_xact_lock(%s)", [lock])


def _take_alone(opened: Session, what: str) -> None:
    """Take the lock of what only one block at a time may commit; it ends with the transaction. Raises LeaseHeld."""
    opened.execute("SELECT set_config('lock_timeout', %s, true)", [f"{ALONE_SECONDS}s"])
    try:
        opened.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_ALONE, what])
    except psycopg.errors.LockNotAvailable as cause:
        raise _still_alone(what) from cause
    opened.execute("SELECT set_config('lock_timeout', '0', true)")


def _still_alone(what: str) -> LeaseHeld:
    return LeaseHeld(
        f"commit the {what}: another process is still committing it after {ALONE_SECONDS} s",
        "Nothing was committed. Run again when it has ended; Airflow shows the running task.",
    )


def _still_committing(seconds: float) -> LeaseHeld:
    return LeaseHeld(
        f"wait for writers: a pipeline still commits (a promotion, a materialization, a snapshot) after {seconds:g} s",
        "Nothing was written. Run again when it has ended; Airflow shows the running task.",
    )


def _text(active: Active) -> str | None:
    return json.dumps(active.switchover.as_json()) if active.switchover else None


@dataclass
class MemoryActiveSites:
    """The same in memory, for unit tests."""

    first: str
    rows: list[Active] = field(default_factory=list)
    writers: int = 0
    held: str | None = None
    commits: int = 0
    alone: set[str] = field(default_factory=set)

    def active(self) -> Active:
        return self.rows[-1] if self.rows else Active(0, self.first)

    def history(self) -> list[Active]:
        return self.rows[::-1]

    @contextmanager
    def hold_lease(self, holder: str) -> Iterator[Lease]:
        if self.held:
            raise LeaseHeld(f"take lease '{LEASE}': {self.held} has it", "Wait until it is released, then run again.")
        self.held = holder
        try:
            yield Lease(LEASE, 1, holder)
        finally:
            self.held = None

    def advance(self, lease: Lease, before: Active, after: Active) -> Active:
        if self.active().generation != before.generation:
            raise _not_newest(before)
        self.rows.append(replace(after, generation=before.generation + 1, at=datetime.now(UTC)))
        return self.rows[-1]

    def note(self, lease: Lease, now: Active) -> None:
        if not self.rows or self.active().generation != now.generation:
            raise _not_newest(now)
        self.rows[-1] = now

    @contextmanager
    def committing(self, began: Active, *, lasting: bool = False, alone: str = "") -> Iterator[Callable[[], bool]]:
        _unchanged(began, self.active())
        if alone in self.alone:
            raise _still_alone(alone)
        self.alone |= {alone} - {""}
        self.writers += 1
        self.commits += not lasting
        try:
            yield lambda: self.active().generation == began.generation
        finally:
            self.alone.discard(alone)
            self.writers -= 1
            self.commits -= not lasting

    @contextmanager
    def barrier(self, seconds: float) -> Iterator[None]:
        if self.commits:
            raise _still_committing(seconds)
        yield

    def settle(self, seconds: float) -> bool:
        return not self.writers
