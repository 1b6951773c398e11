"""Store leases, catalogues and the active site in PostgreSQL, or in memory for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rempart.coordination import lease as leases
from rempart.coordination.active import ActiveSites, MemoryActiveSites, PostgresqlActiveSites
from rempart.coordination.lease import Lease
from rempart.errors import LeaseHeld
from rempart.replication.catalogue import Catalogue, MemoryCatalogue, PostgresqlCatalogue
from rempart.settings.config import Connection


class Continuity(Protocol):
    """Leases and catalogues of all pairs. Errors: DatabaseUnavailable, ReplicationError."""

    def catalogue(self, source: str, target: str) -> Catalogue: ...

    def active_sites(self, first: str) -> ActiveSites:
        """Return the generations of the active site; `first` is the site of a platform that was never switched."""

    def hold_lease(self, name: str, holder: str) -> AbstractContextManager[Lease]:
        """Hold a named lease while the block runs. Raises LeaseHeld."""

    def take(self, name: str, holder: str, seconds: float, *, again: bool = False) -> Lease:
        """Take a lease for runs of several processes. Only its holder renews it. Raises LeaseHeld.

        With `again`, take it also from a holder of the same name, who then loses it.
        """

    def renew(self, lease: Lease, seconds: float) -> None:
        """Renew a lease. Raises LeaseLost."""

    def still(self, lease: Lease) -> AbstractContextManager[None]:
        """Keep the lease while the block runs, so that no other run can take it: for writes elsewhere.

        Raises LeaseLost.
        """

    def release(self, lease: Lease) -> None: ...


class PostgresqlContinuity:
    """Continuity in the database `continuity`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def catalogue(self, source: str, target: str) -> Catalogue:
        return PostgresqlCatalogue(self._connection, source, target)

    def active_sites(self, first: str) -> ActiveSites:
        return PostgresqlActiveSites(self._connection, first)

    def hold_lease(self, name: str, holder: str) -> AbstractContextManager[Lease]:
        return leases.hold_lease(self._connection, name, holder)

    def take(self, name: str, holder: str, seconds: float, *, again: bool = False) -> Lease:
        return leases.take(self._connection, name, holder, seconds, again=again)

    def renew(self, lease: Lease, seconds: float) -> None:
        leases.renew(self._connection, lease, seconds)

    def still(self, lease: Lease) -> AbstractContextManager[None]:
        return leases.still(self._connection, lease)

    def release(self, lease: Lease) -> None:
        leases.release(self._connection, lease)


class MemoryContinuity:
    """Continuity in memory, with leases of this process."""

    def __init__(self) -> None:
        self._catalogues: dict[tuple[str, str], MemoryCatalogue] = {}
        self._active: ActiveSites | None = None
        self._held: dict[str, Lease] = {}
        self._generations: dict[str, int] = {}
        self._lock = threading.Lock()

    def catalogue(self, source: str, target: str) -> Catalogue:
        return self._catalogues.setdefault((source, target), MemoryCatalogue())

    def active_sites(self, first: str) -> ActiveSites:
        self._active = self._active or MemoryActiveSites(first)
        return self._active

    @contextmanager
    def hold_lease(self, name: str, holder: str) -> Iterator[Lease]:
        lease = self.take(name, holder, 0)
        try:
            yield lease
        finally:
            self.release(lease)

    def take(self, name: str, holder: str, seconds: float, *, again: bool = False) -> Lease:
        with self._lock:
            if name in self._held and not (again and self._held[name].holder == holder):
                raise LeaseHeld(
                    f"take lease '{name}': {self._held[name].holder} has it",
                    "Wait until it is released, then run again.",
                )
            self._generations[name] = self._generations.get(name, 0) + 1
            self._held[name] = Lease(name, self._generations[name], holder)
            return self._held[name]

    def renew(self, lease: Lease, seconds: float) -> None:
        if self._held.get(lease.name) != lease:
            raise leases.lost(lease)

    @contextmanager
    def still(self, lease: Lease) -> Iterator[None]:
        self.renew(lease, 0)
        yield

    def release(self, lease: Lease) -> None:
        if self._held.get(lease.name) == lease:
            del self._held[lease.name]
