"""Limits of replication: many objects, clocks that differ, and several writers at once."""

from __future__ import annotations

import dataclasses
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from rempart.coordination import lease
from rempart.errors import LeaseHeld, LeaseLost
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication import transfer
from rempart.replication.catalogue import PostgresqlCatalogue
from rempart.replication.continuity import MemoryContinuity
from rempart.replication.plan import Replica
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.port import Site
from tests.memory_site import MemorySite

ROOT = Path(__file__).parents[2]
MILLION = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from rempart.replication.plan import Replica, Tally, merge
from rempart.replication.work import in_order
from rempart.sites.port import ObjectInfo
NOW, COUNT, folder = datetime(2026, 1, 1, tzinfo=UTC), int(sys.argv[1]), Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def listing(etag):
    return (ObjectInfo(f"data/{n:09d}", 10, NOW, f"v{n}", etag) for n in range(COUNT))
def rows():
    for n in range(COUNT):
        yield Replica(f"data/{n:09d}", f"v{n}", 0, False, 10, "0" * 64, "s", NOW, f"v{n}", "t", "read back", NOW, NOW)
tally = Tally()
found = sum(1 for _ in merge(in_order(listing("s"), folder), rows(), in_order(listing("t"), folder), tally))
print(found, tally.objects, tally.current, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown(count: int, folder: Path) -> int:
    """KiB by which a process grew while it compared so many keys that both sides have."""
    folder.mkdir()
    script = [sys.executable, "-c", MILLION, str(count), str(folder)]
    told = subprocess.run(script, capture_output=True, text=True, check=True, timeout=600)
    differing, objects, current, kib = map(int, told.stdout.split())
    assert (differing, objects, current) == (0, count, count)
    return kib


@pytest.mark.full
def test_x6_memory_does_not_grow_with_the_number_of_keys(tmp_path: Path) -> None:
    few, many = grown(60_000, tmp_path / "few"), grown(300_000, tmp_path / "many")
    assert many < few + 10_000, f"{few} KiB for 60,000 keys, {many} KiB for 300,000: a million would take more"


@pytest.fixture
def platform_in_memory(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    settings = config.load(ROOT / "rempart.yaml")
    sites: dict[str, Site] = {name: MemorySite(name) for name in settings.sites}
    for site in sites.values():
        for bucket in ("lake", "artifacts", "backups"):
            site.ensure_bucket(bucket, versioned=True)
    return Platform(
        settings,
        config.environment_connections,
        sites=sites,
        ledger_=MemoryLedger(),
        continuity_=MemoryContinuity(),
    )


@pytest.mark.parametrize("minutes", [-10, 10])
def test_x4_clocks_ten_minutes_apart_neither_hide_nor_purge_early(platform_in_memory: Platform, minutes: int) -> None:
    own = dataclasses.replace(platform_in_memory, clock=lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    primary, haven = own.sites["primary"], own.sites["haven"]
    for key in ("a", "b"):
        primary.write("lake", key, b"x")
    first = replicate(own, "primary", "haven")
    assert first.lag_seconds == 0 and first.verified == 2
    primary.write("lake", "a", b"y")
    for version in list(primary.versions("lake", "b")):
        primary.delete("lake", "b", version_id=version.version_id)
    for _ in range(3):
        result = replicate(own, "primary", "haven")
        assert (result.hidden, result.purged) == (0, 0)
    assert haven.read("lake", "a") == b"y" and haven.read("lake", "b") == b"x"


@pytest.mark.parametrize(("day", "hour"), [((2028, 2, 29), 12), ((2026, 3, 29), 1), ((2026, 10, 25), 1)])
def test_x4_a_leap_day_and_changes_of_summer_time_are_days_like_others(
    platform_in_memory: Platform, day: tuple[int, int, int], hour: int
) -> None:
    now = datetime(*day, hour, 30, tzinfo=UTC)
    own = dataclasses.replace(platform_in_memory, clock=lambda: now)
    primary = own.sites["primary"]
    primary.write("lake", "a", b"x")
    primary.write("lake", "b", b"x")
    replicate(own, "primary", "haven")
    for version in list(primary.versions("lake", "b")):
        primary.delete("lake", "b", version_id=version.version_id)
    replicate(own, "primary", "haven")

    def later(minutes: int) -> Platform:
        return dataclasses.replace(own, clock=lambda: now + timedelta(minutes=minutes))

    for minutes, hidden in ((9, 0), (11, 1)):
        assert replicate(later(minutes), "primary", "haven").hidden == hidden


def test_p1_a_large_object_has_no_more_parts_than_every_server_takes(
    platform_in_memory: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("IN_MEMORY", 10), ("PART", 5), ("MOST_PARTS", 3)):
        monkeypatch.setattr(transfer, name, value)
    primary, haven = platform_in_memory.sites["primary"], platform_in_memory.sites["haven"]
    body = os.urandom(100)
    primary.write("lake", "large", body)
    numbers: list[int] = []
    upload = type(haven.upload("lake", primary.head("lake", "large")))
    haven.upload("lake", primary.head("lake", "large")).abort()
    part = upload.part
    monkeypatch.setattr(upload, "part", lambda self, number, some: numbers.append(number) or part(self, number, some))
    replicate(platform_in_memory, "primary", "haven")
    assert sorted(numbers) == [1, 2, 3] and haven.read("lake", "large") == body


@pytest.mark.stores
def test_p6_of_several_who_write_a_new_key_at_once_one_wins(platform: Platform) -> None:
    site, bucket = platform.site("primary", "personal"), f"race-{secrets.token_hex(4)}"
    site.ensure_bucket(bucket, versioned=True)
    try:
        for round_number in range(5):
            bodies = [os.urandom(50) for _ in range(8)]
            with ThreadPoolExecutor(8) as pool:
                won = list(
                    pool.map(
                        lambda body, round_number=round_number: site.write_new(bucket, f"once-{round_number}", body),
                        bodies,
                    )
                )
            assert won.count(True) == 1
            assert site.read(bucket, f"once-{round_number}") == bodies[won.index(True)]
    finally:
        site.drop_bucket(bucket)


def let_end(connection: Connection, name: str) -> None:
    """As if the time of a lease had passed."""
    with psycopg.connect(connection.postgresql_url(), autocommit=True) as opened:
        ended = opened.execute("UPDATE lease SET until = clock_timestamp() WHERE name = %s", [name])
        assert ended.rowcount == 1


@pytest.mark.stores
def test_x3_who_was_paused_past_his_turn_writes_nothing_after_it(platform: Platform) -> None:
    connection, name = platform.database("continuity"), f"test {secrets.token_hex(4)}"
    known = PostgresqlCatalogue(connection, name, "there")
    paused = lease.take(connection, name, "the first")
    known.record("lake", [row("before")], paused)
    with pytest.raises(LeaseHeld, match="the first has it"):
        lease.take(connection, name, "the second")
    let_end(connection, name)
    second = lease.take(connection, name, "the second")
    assert second.generation == paused.generation + 1
    for write in (known.record, known.forget):
        with pytest.raises(LeaseLost, match="the first lost its lease"):
            write("lake", [row("before"), row("after")], paused)
    with pytest.raises(LeaseLost):
        lease.renew(connection, paused)
    assert [info.key for info in known.rows("lake")] == ["before"]
    lease.release(connection, paused)  # changes nothing for the second
    known.record("lake", [row("after")], second)
    lease.release(connection, second)


@pytest.mark.stores
def test_x3_a_turn_that_nobody_took_after_it_goes_on_and_one_that_was_ended_does_not(platform: Platform) -> None:
    connection, name = platform.database("continuity"), f"test {secrets.token_hex(4)}"
    paused = lease.take(connection, name, "the first")
    let_end(connection, name)
    lease.renew(connection, paused)
    with pytest.raises(LeaseHeld):
        lease.take(connection, name, "the second")
    lease.release(connection, paused)
    with pytest.raises(LeaseLost):
        lease.renew(connection, paused)


@pytest.mark.stores
def test_x1_who_was_killed_takes_his_own_turn_again_and_nobody_else_does(platform: Platform) -> None:
    connection, name = platform.database("continuity"), f"test {secrets.token_hex(4)}"
    killed = lease.take(connection, name, "run 1", seconds=60)
    for holder, again in (("run 1", False), ("run 2", True)):
        with pytest.raises(LeaseHeld, match="run 1 has it"):
            lease.take(connection, name, holder, again=again)
    second = lease.take(connection, name, "run 1", again=True)
    assert second.generation == killed.generation + 1
    with pytest.raises(LeaseLost):
        lease.renew(connection, killed)
    lease.release(connection, second)


@pytest.mark.stores
def test_the_catalogue_gives_back_what_it_was_given_in_the_order_of_bytes(platform: Platform) -> None:
    connection, name = platform.database("continuity"), f"test {secrets.token_hex(4)}"
    known = PostgresqlCatalogue(connection, name, "there")
    keys = ["Z", "a", "a/b", "a\nb", "dual/b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\u0301", "\U0001f4a1"]
    rows = [row(key) for key in keys] + [dataclasses.replace(row("a"), version="v2", place=1, marker=True)]
    with lease.hold_lease(connection, name, "a test") as held:
        known.record("lake", rows[::-1], held)
        assert list(known.rows("lake")) == sorted(rows, key=lambda info: (info.key.encode(), info.place))
        assert [info.key for info in known.current("lake")] == sorted({*keys} - {"a"}, key=str.encode)
        gone = dataclasses.replace(row("Z"), missing_since=NOW, sightings=2)
        known.record("lake", [gone], held)
        assert list(known.missing("lake")) == [gone] and known.count("lake") == len(keys)
        assert list(known.of_keys("lake", ["Z"])) == [gone]
        assert known.compared("lake") is None
        known.note_comparison("lake", NOW, held)
        assert known.compared("lake") == NOW
        known.forget("lake", rows, held)
    assert not list(known.rows("lake"))


NOW = datetime(2026, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def row(key: str) -> Replica:
    return Replica(key, "v1", 0, False, 10, "0" * 64, "e", NOW, "w1", "f", "read back", NOW, NOW)
