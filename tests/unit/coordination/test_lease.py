"""A lease is held while its block runs, and what the block did stands, whatever becomes of the database at its end."""

from __future__ import annotations

import pytest

from rempart.coordination import lease
from rempart.coordination.lease import Lease
from rempart.errors import DatabaseUnavailable, IntegrityError
from rempart.settings.config import Connection

CONNECTION = Connection("continuity", "postgres")


@pytest.fixture(autouse=True)
def _gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(*_: object) -> None:
        raise DatabaseUnavailable("release: no answer", "Start it.")

    monkeypatch.setattr(lease, "take", lambda _, name, holder, seconds: Lease(name, 1, holder))
    monkeypatch.setattr(lease, "release", release)


def test_work_that_is_done_is_no_failure_because_its_lease_could_not_be_ended() -> None:
    with lease.hold_lease(CONNECTION, "ingest stays", "a run") as held:
        assert not held.lost.is_set()


def test_the_cause_of_a_failure_is_told_and_not_that_its_lease_could_not_be_ended() -> None:
    with pytest.raises(IntegrityError, match="a delivery differs"), lease.hold_lease(CONNECTION, "ingest", "a run"):
        raise IntegrityError("a delivery differs", "Deliver it again.")
