"""Hold leases in PostgreSQL, with a generation that fences off a holder who was paused beyond the lease.

Time is the database server's, so workers' clocks do not matter. A holder renews while it works; its writes to the
database go through `fence` in the same transaction, so that a stale holder commits nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from rempart.coordination.database import Session, session
from rempart.errors import LeaseHeld, LeaseLost, RempartError
from rempart.settings.config import Connection

SECONDS = 60.0
WAIT_SECONDS = 10
"""How long who wants a lease waits for a holder that is `still` at it."""
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
        f"{lease.holder} lost its lease at '{lease.name}' (generation {lease.generation}): it ended, or another has it",
        "Nothing was recorded after that. Let the other run end; then run again if it is still needed.",
    )


def take(connection: Connection, name: str, holder: str, seconds: float = SECONDS, *, again: bool = False) -> Lease:
    """Take the lease if nobody has it. Raises LeaseHeld, DatabaseUnavailable.

    With `again`, also from the same holder, whose former lease is then lost: for one whose name no other can have, and
    who may have been killed.
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
                f"'{name}' is being done by {who} (its lease ends at {until:%H:%M:%S} UTC unless it is renewed)",
                "Wait for it to end. If it was killed, its lease ends by itself.",
            )
    return Lease(name, int(row[0]), holder)


def renew(connection: Connection, lease: Lease, seconds: float = SECONDS) -> None:
    """Also a lease whose time is over, if nobody took the next. Raises LeaseLost, DatabaseUnavailable."""
    with session(connection, f"renew lease {lease.name}") as opened:
        values = {"name": lease.name, "generation": lease.generation, "holder": lease.holder, "seconds": seconds}
        if opened.execute(_RENEW, values).rowcount != 1:
            lease.lost.set()
            raise lost(lease)


def release(connection: Connection, lease: Lease) -> None:
    """End the lease now, for good; one that is over already is no error."""
    with session(connection, f"release lease {lease.name}") as opened:
        opened.execute(
            "UPDATE lease SET until = now(), holder = '' WHERE name = %s AND generation = %s",
            [lease.name, lease.generation],
        )


def fence(opened: Session, lease: Lease) -> None:
    """In a transaction: the lease is still this one's, and stays so until the transaction ends. Raises LeaseLost."""
    held = opened.execute(
        "SELECT 1 FROM lease WHERE name = %s AND generation = %s AND until > clock_timestamp() FOR SHARE",
        [lease.name, lease.generation],
    ).fetchone()
    if held is None:
        lease.lost.set()
        raise lost(lease)


@contextmanager
def still(connection: Connection, lease: Lease, seconds: float = SECONDS) -> Iterator[None]:
    """The lease is this one's, renewed, and stays so while the block runs, however long its process is paused.

    For what is written outside of the database. Raises LeaseLost, DatabaseUnavailable.
    """
    renew(connection, lease, seconds)
    with session(connection, f"hold lease {lease.name}") as opened, opened.transaction():
        fence(opened, lease)  # whoever wants the next lease waits for this transaction
        yield


@contextmanager
def hold_lease(connection: Connection, name: str, holder: str, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold a lease, renewed by a thread, while the block runs. Raises LeaseHeld."""
    lease = take(connection, name, holder, seconds)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(seconds / 3):
            try:
                renew(connection, lease, seconds)
            except LeaseLost:
                return
            except RempartError:  # the database is away: what is written next finds out whether the lease is over
                continue

    thread = threading.Thread(target=keep, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        if not lease.lost.is_set():
            release(connection, lease)
