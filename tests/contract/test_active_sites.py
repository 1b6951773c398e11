"""The generations of the active site: one suite over PostgreSQL and memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from rempart.coordination import active
from rempart.coordination.active import Active, ActiveSites
from rempart.coordination.failover import Switchover
from rempart.errors import DatabaseUnavailable, FailoverError, LeaseHeld, LeaseLost, SiteFenced
from rempart.replication.continuity import Continuity, MemoryContinuity, PostgresqlContinuity
from rempart.settings import config
from tests import switchovers

SWITCHOVER = Switchover("j", "failover", "primary", "haven")


@pytest.fixture(params=["memory", pytest.param("postgresql", marks=pytest.mark.stores)])
def continuity(request: pytest.FixtureRequest) -> Iterator[Continuity]:
    if request.param == "memory":
        yield MemoryContinuity()
        return
    with switchovers.generations(config.environment_connections("pg_drill")) as connection:
        yield PostgresqlContinuity(connection)


@pytest.fixture
def sites(continuity: Continuity) -> ActiveSites:
    return continuity.active_sites("primary")


def test_a_platform_that_was_never_switched_is_at_the_site_of_its_configuration(sites: ActiveSites) -> None:
    assert (sites.active(), sites.history()) == (Active(0, "primary"), [])


def test_generations_follow_one_another_and_keep_their_switchover(sites: ActiveSites) -> None:
    with sites.hold_lease("test") as lease:
        fenced = sites.advance(lease, sites.active(), Active(0, "primary", "fenced", SWITCHOVER))
        assert (fenced.generation, fenced.state) == (1, "fenced")
        noted = Active(1, "primary", "fenced", SWITCHOVER.with_step("fence", {"ok": True}), fenced.at)
        sites.note(lease, noted)
        assert sites.active() == noted
        there = sites.advance(lease, noted, Active(0, "haven", "active", noted.switchover))
    assert [switch.generation for switch in sites.history()] == [2, 1]
    assert there.at is not None and fenced.at is not None and there.at >= fenced.at
    assert sites.active().switchover == noted.switchover


def test_who_saw_an_earlier_generation_changes_nothing(sites: ActiveSites) -> None:
    with sites.hold_lease("test") as lease:
        before = sites.active()
        sites.advance(lease, before, Active(0, "primary", "fenced", SWITCHOVER))
        with pytest.raises(FailoverError, match="no longer the newest"):
            sites.advance(lease, before, Active(0, "haven", "active", SWITCHOVER))
        with pytest.raises(FailoverError, match="no longer the newest"):
            sites.note(lease, before)
    assert sites.active().site == "primary"


def test_there_is_one_turn(sites: ActiveSites) -> None:
    with sites.hold_lease("the first"), pytest.raises(LeaseHeld, match="the first"), sites.hold_lease("the second"):
        pytest.fail("two holders at once")
    with sites.hold_lease("the third"):
        pass


def test_a_writer_commits_only_in_the_generation_it_began_with(sites: ActiveSites) -> None:
    began = sites.active()
    with sites.committing(began) as unchanged:
        assert unchanged()
    with sites.hold_lease("test") as lease:
        fenced = sites.advance(lease, began, Active(0, "primary", "fenced", SWITCHOVER))
        for stale in (began, fenced):
            with pytest.raises(SiteFenced), sites.committing(stale):
                pytest.fail("it committed")
        there = sites.advance(lease, fenced, Active(0, "haven", "active", SWITCHOVER))
    with pytest.raises(SiteFenced, match=r"commit at 'primary' \(generation 0\).* to 'haven'"), sites.committing(began):
        pytest.fail("it committed")
    with sites.committing(there) as unchanged:
        assert unchanged()


def test_one_block_at_a_time_commits_what_is_committed_alone(
    sites: ActiveSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active, "ALONE_SECONDS", 1)
    began = sites.active()
    with sites.committing(began, alone="snapshot of a"):
        told = "commit the snapshot of a: another process is still committing it after 1 s"
        with pytest.raises(LeaseHeld, match=told), sites.committing(began, alone="snapshot of a"):
            pytest.fail("both committed")
        with sites.committing(began, alone="snapshot of b"), sites.committing(began):
            pass
    with sites.committing(began, alone="snapshot of a") as unchanged:
        assert unchanged()


def test_a_fence_is_complete_once_nobody_commits(sites: ActiveSites) -> None:
    began = sites.active()
    assert sites.settle(1)
    with sites.committing(began) as unchanged, sites.hold_lease("test") as lease:
        fenced = sites.advance(lease, began, Active(0, "primary", "fenced", SWITCHOVER))
        assert not sites.settle(0.2)
        assert not unchanged(), "who commits for long can ask"
    assert sites.settle(1) and fenced.generation == 1


def test_behind_the_barrier_nothing_is_half_committed(sites: ActiveSites) -> None:
    began = sites.active()
    with sites.committing(began), pytest.raises(LeaseHeld, match="still commits"), sites.barrier(0.2):
        pytest.fail("somebody was committing")
    with sites.committing(began, lasting=True) as unchanged, sites.barrier(1):
        assert unchanged(), "a server that runs for days keeps nobody waiting"
    with sites.committing(began):
        pass


@pytest.fixture
def in_postgresql(stack: object) -> Iterator[PostgresqlContinuity]:
    with switchovers.generations(config.environment_connections("pg_drill")) as connection:
        yield PostgresqlContinuity(connection)


@pytest.mark.stores
def test_x3_who_was_paused_past_the_end_of_his_turn_switches_nothing(in_postgresql: PostgresqlContinuity) -> None:
    sites = in_postgresql.active_sites("primary")
    with sites.hold_lease("paused") as lease:
        _execute(in_postgresql, "UPDATE lease SET until = clock_timestamp()")
        with sites.hold_lease("another") as other:
            sites.advance(other, sites.active(), Active(0, "primary", "fenced", SWITCHOVER))
            with pytest.raises(LeaseLost):
                sites.advance(lease, sites.active(), Active(0, "haven", "active", SWITCHOVER))
    assert sites.active().state == "fenced"


@pytest.mark.stores
def test_a_fence_lasts_as_long_as_the_last_commit_and_no_longer(in_postgresql: PostgresqlContinuity) -> None:
    sites = in_postgresql.active_sites("primary")
    settled: list[bool] = []
    waiting = threading.Thread(target=lambda: settled.append(sites.settle(60)))
    with sites.committing(sites.active()):
        waiting.start()
        waiting.join(0.5)
        assert not settled
    waiting.join(90)
    assert settled == [True]


@pytest.mark.stores
def test_who_commits_waits_while_the_barrier_is_closed(in_postgresql: PostgresqlContinuity) -> None:
    sites = in_postgresql.active_sites("primary")
    done = threading.Event()

    def commit() -> None:
        with sites.committing(sites.active()):
            done.set()

    writer = threading.Thread(target=commit)
    with sites.barrier(5):
        writer.start()
        assert not done.wait(0.5)
    assert done.wait(90)
    writer.join()


@pytest.mark.stores
def test_who_lost_the_session_of_the_commit_finds_out(in_postgresql: PostgresqlContinuity) -> None:
    sites = in_postgresql.active_sites("primary")
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
    )
    with pytest.raises(DatabaseUnavailable), sites.committing(sites.active()) as unchanged:
        _execute(in_postgresql, end)
        unchanged()


def _execute(continuity: PostgresqlContinuity, query: str) -> None:
    with psycopg.connect(continuity._connection.postgresql_url(), autocommit=True) as opened:
        opened.execute(query.encode())
