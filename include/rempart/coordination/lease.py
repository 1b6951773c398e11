"""Hold leases in PostgreSQL, with a generation that fences off a holder who was paused beyond the lease.

Time is the database server's, so workers' clocks do not matter. A holder renews while it works; its writes to the
database go through `fence` in the same transaction, so that a stale holder commits nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from rempart.coordination.database import Session, session
from rempart.errors import DatabaseUnavailable, LeaseHeld, LeaseLost, RempartError
from rempart.repeating import repeating
from rempart.settings.config import Connection

SECONDS = 60.0
WAIT_SECONDS = 10
"""Seconds to wait for a holder in `still`."""
_TAKE = """
INSERT INTO lease AS held (name, generation, holder, until)
VALUES (%(name)s, 1, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (name) DO UPDATE
SET generation = held.generation + 1, holder = EXCLUDED.holder, until = EXCLUDED.until
WHERE held.until <= clock_timestamp() OR (%(again)s AND held.holder = EXCLUDED.holder)
RETURNING generation
"""
_RENEW = """
UPDATE lease SET until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND generation = %(generation)s AND holder = %(holder)s
"""


@dataclass(frozen=True)
class Lease:
    """A lease: the `generation`-th holder of `name`. `lost` is set once a renewal found that it is over."""

    name: str
    generation: int
    holder: str
    lost: threading.Event = field(default_factory=threading.Event, compare=False)

    def check(self) -> None:
        """Raises LeaseLost if a renewal found that the lease is over."""
        if self.lost.is_set():
            raise lost(self)


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"{lease.holder} lost its lease '{lease.name}' (generation {lease.generation}): it expired, was "
        "released, or another holder has it",
        "Nothing was recorded after the loss. Wait for the end of the other run, then run again if it is still needed.",
    )


def take(connection: Connection, name: str, holder: str, seconds: float = SECONDS, *, again: bool = False) -> Lease:
    """Take the lease if it is free. Raises LeaseHeld, DatabaseUnavailable.

    With `again`, take it also from the same holder, whose earlier lease is then lost. This is for a holder with a
    unique name that may have been killed.
    """
    with session(connection, f"take lease {name}") as opened:
        values = {"name": name, "holder": holder, "seconds": seconds, "again": again}
        opened.execute("SELECT set_config('lock_timeout', %s, false)", [f"{WAIT_SECONDS}s"])
        try:
            row = opened.execute(_TAKE, values).fetchone()
        except psycopg.errors.LockNotAvailable:
            row = None  # its holder is at what nobody may interrupt (`still`)
        if row is None:
            now = opened.execute("SELECT holder, until FROM lease WHERE name = %s", [name]).fetchone()
            who, until = now or ("somebody", None)
            raise LeaseHeld(
                f"take lease '{name}': {who} has it (it ends at {until:%H:%M:%S} UTC unless it is renewed)",
                "Wait until it is released, then run again. If its holder was killed, the lease ends on its own.",
            )
    return Lease(name, int(row[0]), holder)


def renew(connection: Connection, lease: Lease, seconds: float = SECONDS) -> None:
    """Renew the lease, even an expired one if it was not taken since. Raises LeaseLost, DatabaseUnavailable."""
    with session(connection, f"renew lease {lease.name}") as opened:
        values = {"name": lease.name, "generation": lease.generation, "holder": lease.holder, "seconds": seconds}
        if opened.execute(_RENEW, values).rowcount != 1:
            lease.lost.set()
            raise lost(lease)


def release(connection: Connection, lease: Lease) -> None:
    """End the lease now. An expired lease is no error."""
    with session(connection, f"release lease {lease.name}") as opened:
        opened.execute(
            "UPDATE lease SET until = now(), holder = '' WHERE name = %s AND generation = %s AND holder = %s",
            [lease.name, lease.generation, lease.holder],
        )


def fence(opened: Session, lease: Lease) -> None:
    """Check, in a transaction, that the lease is still valid, and keep it valid until the transaction ends.

    Raises LeaseLost.
    """
    held = opened.execute(
        "SELECT 1 FROM lease WHERE name = %s AND generation = %s AND until > clock_timestamp() FOR SHARE",
        [lease.name, lease.generation],
    ).fetchone()
    if held is None:
        lease.lost.set()
        raise lost(lease)


@contextmanager
def still(connection: Connection, lease: Lease, seconds: float = SECONDS) -> Iterator[None]:
    """Renew the lease and keep it while the block runs, even if the process is paused for long.

    For writes outside the database. Raises LeaseLost, DatabaseUnavailable.
    """
    renew(connection, lease, seconds)
    with session(connection, f"hold lease {lease.name}") as opened, opened.transaction():
        fence(opened, lease)  # whoever wants the next lease waits for this transaction
        yield


@contextmanager
def hold_lease(connection: Connection, name: str, holder: str, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold a lease, renewed by a thread, while the block runs. Raises LeaseHeld."""
    lease = take(connection, name, holder, seconds)

    def keep() -> bool:
        try:
            renew(connection, lease, seconds)
        except LeaseLost:
            return True
        except RempartError:  # the database is away: what is written next finds out whether the lease is over
            return False
        return False

    try:
        with repeating(keep, seconds / 3, f"lease {name}"):
            yield lease
    finally:
        if not lease.lost.is_set():
            with suppress(DatabaseUnavailable):  # it ends by itself, and what the block did is done
                release(connection, lease)
