"""Haven's log of a table never names a data file that is not there: between any two writes, and after any failure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import SiteError, SiteUnavailable
from rempart.flows.ingestion import delta_log
from rempart.flows.replication import replicate_in_tasks as tasks
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.ingestion.delta import checkpoint, log
from rempart.replication import table_logs
from rempart.replication.plan import Copy, KeyPlan
from rempart.sites.port import ObjectInfo
from tests.delta_tables import NAME, NOON, rows, stored
from tests.memory_site import MemorySite
from tests.unit.replication.two_sites import later, new_platform


class WatchedSite(MemorySite):
    """Checks after each write that its table can be read; refuses to store keys that contain one of `refused`."""

    refused: tuple[str, ...] = ()
    looked = 0

    def write(self, bucket: str, key: str, body: bytes, **facts: Any) -> ObjectInfo:
        if any(part in key for part in self.refused):
            raise SiteUnavailable(f"put {key}: 500", "Run again.")
        info = super().write(bucket, key, body, **facts)
        self.look()
        return info

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
        found = super().delete(bucket, key, version_id=version_id)
        self.look()
        return found

    def look(self) -> log.State:
        """The table as a reader sees it now; each data file that it names is there."""
        state, _ = delta_log.read(self, "lake", NAME)
        for path in state.files:
            self.head("lake", f"{log.root(NAME)}{path}")
        self.looked += 1
        return state


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = new_platform(monkeypatch)
    haven = WatchedSite("haven")
    for bucket in ("lake", "artifacts", "backups"):
        haven.ensure_bucket(bucket, versioned=True)
    made.sites["haven"] = haven  # type: ignore[index]
    return made


def published(platform: Platform, *tables: Any, number: int) -> str:
    made = stored(platform.sites["primary"], *tables, number=number)
    delta_log.publish(platform.sites["primary"], "lake", made)
    return made.id


def haven_of(platform: Platform) -> WatchedSite:
    haven = platform.sites["haven"]
    assert isinstance(haven, WatchedSite)
    return haven


def test_a_log_arrives_after_its_data_files_version_by_version(platform: Platform) -> None:
    for number in range(checkpoint.EVERY + 2):
        newest = published(platform, *(rows(n + 1) for n in range(number + 1)), number=number)
    result = replicate(platform, "primary", "haven")
    assert (result.failures, result.pending, result.verified) == (0, 0, result.objects)
    assert haven_of(platform).look().snapshot == newest and haven_of(platform).looked > 20


def test_a_version_waits_with_all_later_ones_until_its_data_files_arrived(platform: Platform) -> None:
    haven = haven_of(platform)
    first = published(platform, rows(1), number=0)
    replicate(platform, "primary", "haven")
    second = stored(platform.sites["primary"], rows(1), rows(2), number=1)
    delta_log.publish(platform.sites["primary"], "lake", second)
    third = published(platform, rows(1), rows(2), rows(4), number=2)
    haven.refused = (second.parts[1].key,)
    with pytest.raises(SiteError, match="1 of 6 objects"):
        replicate(platform, "primary", "haven")
    assert haven.look().snapshot == first
    haven.refused = ()
    assert replicate(platform, "primary", "haven").pending == 0
    assert haven.look().snapshot == third


def test_a_log_object_that_fails_leaves_no_gap(platform: Platform) -> None:
    haven = haven_of(platform)
    made = [published(platform, rows(n + 1), number=n) for n in range(3)]
    haven.refused = (log.version_key(NAME, 1),)
    with pytest.raises(SiteError):
        replicate(platform, "primary", "haven")
    assert haven.look().snapshot == made[0]
    haven.refused = ()
    replicate(platform, "primary", "haven")
    assert haven.look().snapshot == made[2]


def test_a_rebuilt_log_replaces_the_old_one_at_haven_before_data_files_are_hidden(platform: Platform) -> None:
    primary, haven = platform.sites["primary"], haven_of(platform)
    for number in range(3):
        published(platform, rows(1, 2), rows(4 + number), number=number)
    replicate(platform, "primary", "haven")
    cut = stored(primary, rows(1), rows(6), number=9)
    delta_log.drop_before(primary, "lake", cut.pipeline, delta_log.restart(primary, "lake", cut), NOON)
    for info in list(primary.list("lake", f"{log.root(NAME)}parts/")):
        if info.key not in {part.key for part in cut.parts}:
            primary.delete("lake", info.key)
    haven.refused = (cut.parts[0].key,)
    with pytest.raises(SiteError):
        replicate(platform, "primary", "haven", accept_deletes=100)
    assert len(haven.look().files) == 2  # the old table, whole
    haven.refused = ()
    for hours in (1, 2, 3):
        replicate(later(platform, hours=hours), "primary", "haven", accept_deletes=100)
    assert haven.look().snapshot == cut.id
    left = [info.key for info in haven.list("lake", log.root(NAME))]
    assert left == [info.key for info in primary.list("lake", log.root(NAME))]


def test_a_run_of_several_processes_copies_logs_at_its_end(platform: Platform) -> None:
    newest = published(platform, rows(1), rows(2), number=0)
    ready = tasks.prepared(tasks.prepare(platform, "primary", "haven").as_json())
    done = [tasks.carry(platform, ready, piece) for piece in ready.pieces()]
    assert haven_of(platform).look().snapshot is None
    assert tasks.conclude(platform, ready, done).pending == 0
    assert haven_of(platform).look().snapshot == newest


def test_a_data_file_that_the_source_lacks_too_does_not_stop_the_log(platform: Platform) -> None:
    primary = MemorySite("primary")
    for bucket in ("lake", "artifacts", "backups"):
        primary.ensure_bucket(bucket, versioned=True)
    platform.sites["primary"] = primary  # type: ignore[index]
    platform.sites["haven"] = MemorySite("haven")  # type: ignore[index] # whose table may be as broken as the source's
    for bucket in ("lake", "artifacts", "backups"):
        platform.sites["haven"].ensure_bucket(bucket, versioned=True)
    made = stored(primary, rows(1), number=0)
    delta_log.publish(primary, "lake", made)
    published(platform, rows(2), number=1)
    primary.delete("lake", made.parts[0].key)
    assert replicate(platform, "primary", "haven").pending == 0
    state, _ = delta_log.read(platform.sites["haven"], "lake", NAME)
    assert state.version == 1


def plan(key: str) -> KeyPlan:
    return KeyPlan(key, (Copy(ObjectInfo(key, 1, NOON + timedelta()), 0, "new"),))


@given(st.permutations([f"t/_delta_log/{n:020d}{end}" for n in (2, 9, 10) for end in (".json", ".checkpoint.parquet")]))
@settings(max_examples=30, deadline=None)
def test_versions_are_ordered_by_number_and_checkpoints_follow_theirs(keys: list[str]) -> None:
    ordered = [found.key.split("/")[-1][18:26] for found in table_logs.in_order(plan(key) for key in keys)]
    assert ordered == ["02.json", "02.check", "09.json", "09.check", "10.json", "10.check"]


@pytest.mark.parametrize(
    ("key", "table"),
    [
        ("snapshots/a/_delta_log/00000000000000000001.json", "snapshots/a/"),
        ("conflicts/1/snapshots/a/_delta_log/00000000000000000001.checkpoint.parquet", "conflicts/1/snapshots/a/"),
        ("snapshots/a/_delta_log/_last_checkpoint", None),
        ("snapshots/a/parts/00000000000000000001.json", None),
        ("_delta_log/00000000000000000001.json", None),
    ],
)
def test_only_versions_and_checkpoints_of_a_table_wait(key: str, table: str | None) -> None:
    assert table_logs.table_of(key) == table


@pytest.mark.parametrize("body", [b"", b"<Error/>", b"[]\n1\n", b'{"add":{"path":7}}'])
def test_other_bytes_name_no_data_file(body: bytes) -> None:
    assert table_logs.data_files(body) == []
