"""A backup site in memory under attack and over time: locked objects stay, hidden objects come back."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import datetime, timedelta

import pytest

from rempart.backup.points import chain, holds, locking, points
from rempart.errors import BackupError, IntegrityError, LockLapses, SiteError
from rempart.flows.backup import collect_garbage, locks, prune
from rempart.flows.backup.point_store import store_at
from rempart.flows.monitoring import rpo
from rempart.flows.restore.repair import repair, uncover
from rempart.flows.shared.platform import utc_now
from rempart.sites.once import put_again
from tests.restorable import NOW, TRUSTED, House, flip, house

PACK = "restic/database-mlflow-372d/0001/data/aa/aabb"


def silent(line: str) -> None:
    """For those who do not listen."""


@pytest.fixture
def made() -> House:
    """With one clock for platform and site, which a test sets."""
    found = house()
    move(found, timedelta(days=1))
    return found


def move(made: House, later: timedelta) -> None:
    made.platform = dataclasses.replace(made.platform, clock=lambda: NOW + later)
    made.haven.clock = made.platform.clock


def pack(made: House, body: bytes = b"pack", key: str = PACK) -> str:
    return str(made.haven.write("backups", key, body).version_id)


def test_k2_whatever_an_attacker_hides_or_writes_over_comes_back(made: House) -> None:
    first, second = made.point(), made.point()
    packed = pack(made)
    made.platform.ledger.append("restore-point", second, {"manifest_sha256": "0"})
    locks.extend(store_at(made.platform, made.haven), [first, second])
    for info in list(made.haven.versions("backups")):
        if info.key.startswith(("chain/", "points/", "restic/", "locks/", "sealed/")):
            with pytest.raises(SiteError, match="locked until"):
                made.haven.delete("backups", info.key, version_id=info.version_id)
            made.haven.write("backups", info.key, b"ransom")
            made.haven.delete("backups", info.key)
    for key in (chain.key_of(1), PACK):
        late = made.haven.write("backups", key, b"ransom under lock")
        made.haven.retain("backups", key, str(late.version_id), NOW + timedelta(days=9999))
    with pytest.raises(BackupError, match="3 needed objects are hidden"):
        prune.prune(made.platform, dry_run=False)
    assert points.list(made.haven, "backups") == ()
    planned = repair(made.platform)
    assert planned.dry_run and len(planned.keys) == 5 and points.list(made.haven, "backups") == ()
    assert uncover(made.haven, "backups", locking.KnownLocks(), dry_run=False).keys == planned.keys
    assert made.open().manifest.id == second and made.find(TRUSTED).links[0].point == first
    assert made.haven.read("backups", PACK) == made.haven.read("backups", PACK, version_id=packed) == b"pack"
    assert repair(made.platform, dry_run=False).keys == ()
    assert locks.extend(store_at(made.platform, made.haven), [first, second]).hidden == ()


def test_k2_an_erasure_that_somebody_hides_comes_back(made: House) -> None:
    made.haven.write("backups", "erasures/1.json", b"signed")
    made.haven.delete("backups", "erasures/1.json")
    assert repair(made.platform, dry_run=False).keys == ("erasures/1.json",)
    assert made.haven.read("backups", "erasures/1.json") == b"signed"


def test_k2_what_is_hidden_stops_the_prune_is_kept_locked_and_is_no_old_version(made: House) -> None:
    old = [made.point() for _ in range(4)]
    packed = pack(made)
    prune.prune(made.platform, dry_run=False)
    made.haven.delete("backups", PACK)
    move(made, timedelta(days=4))
    with pytest.raises(BackupError, match=f"Nothing was pruned, because 1 needed object is hidden.*{PACK}"):
        prune.prune(made.platform, dry_run=False)
    assert made.haven.retained_until("backups", PACK, packed) == NOW + timedelta(days=8)
    assert set(points.list(made.haven, "backups")) == set(old)
    repair(made.platform, dry_run=False)
    prune.prune(made.platform, dry_run=False)
    assert made.haven.read("backups", PACK) == b"pack"
    assert [record.body["count"] for record in made.platform.ledger.find("repair")] == [1]


def test_what_restic_removes_is_neither_hidden_nor_brought_back_also_if_the_prune_was_killed(made: House) -> None:
    made.point()
    pack(made)
    before = locks.extend(store_at(made.platform, made.haven), [])
    during = locks.note_pruning(store_at(made.platform, made.haven), before)
    made.haven.delete("backups", PACK)  # here the run is killed
    again = locks.extend(store_at(made.platform, made.haven), [])
    assert again.hidden == () and not again.known.pruning and repair(made.platform).keys == ()
    assert locks.settle(store_at(made.platform, made.haven), during).until.keys() == again.known.until.keys()


def test_locks_are_asked_for_once_and_extended_before_they_end(made: House) -> None:
    point = made.point()
    version, asked, retain = pack(made), [], made.haven.retain

    def counted(bucket: str, key: str, *rest: object) -> datetime:
        asked.append(key)
        return retain(bucket, key, *rest)  # type: ignore[arg-type]

    made.haven.retain = counted  # type: ignore[method-assign]
    for hours, expected in ((0, 2), (1, 0), (23, 0), (25, 2), (26, 0)):
        move(made, timedelta(days=1, hours=hours))
        del asked[:]
        assert locks.extend(store_at(made.platform, made.haven), [point]).set == expected
        assert len([key for key in asked if key != locking.FILE]) == expected
        held = made.haven.retained_until("backups", PACK, version)
        assert held and held >= made.platform.clock() + made.platform.config.backup.locked
    pack(made, b"new", PACK + "cc")
    assert locks.extend(store_at(made.platform, made.haven), [point]).set == 1


def healed(made: House) -> tuple[str, str, str]:
    """A point whose manifest the site altered, with the true bytes put beside it: point, key, true version."""
    point = made.point()
    key = f"{points.prefix(point)}manifest.json"
    body = made.haven.read("backups", key)
    sha256 = hashlib.sha256(body).hexdigest()
    made.platform.ledger.append("restore-point", point, {"manifest_sha256": sha256, "link": 1})
    flip(made.haven, "backups", key)
    until = NOW + timedelta(days=2)
    right = put_again(made.haven, "backups", key, body, content_type="application/json", retain_until=until)
    return point, key, str(right.version_id)


def test_i11_the_lock_of_a_manifest_that_was_healed_is_extended_on_its_true_version(made: House) -> None:
    point, key, right = healed(made)
    locks.extend(store_at(made.platform, made.haven), [point])
    needed = made.platform.clock() + made.platform.config.backup.locked
    held = made.haven.retained_until("backups", key, right)
    assert held and held >= needed
    move(made, timedelta(days=20))
    late = made.haven.write("backups", key, b"ransom")
    assert locks.extend(store_at(made.platform, made.haven), [point]).hidden == ((key, right),)
    assert late.version_id != right
    held = made.haven.retained_until("backups", key, right)
    assert held and held >= made.platform.clock() + made.platform.config.backup.locked


def test_i11_sealed_objects_are_extended_by_the_true_version_of_a_manifest(made: House) -> None:
    point, key, _ = healed(made)
    made.haven.write("backups", key, b"ransom")
    move(made, timedelta(days=20))
    locks.extend(store_at(made.platform, made.haven), [point], [point])
    for info in made.haven.versions("backups", "sealed/"):
        held = made.haven.retained_until("backups", info.key, str(info.version_id))
        assert held and held >= made.platform.clock() + locking.SEALED_FOR - timedelta(minutes=1)


def test_k4_a_lock_that_cannot_be_extended_is_an_alarm_and_nothing_is_pruned(made: House) -> None:
    pack(made)
    other = pack(made, b"other", PACK + "cc")
    retain = made.haven.retain

    def refuses(bucket: str, key: str, version_id: str, until: datetime) -> datetime:
        if key == PACK:
            raise SiteError(f"retain {bucket}/{key} at site 'haven': refused (AccessDenied)", "Ask.")
        return retain(bucket, key, version_id, until)

    made.haven.retain = refuses  # type: ignore[method-assign]
    with pytest.raises(LockLapses, match=f"1 object that restore points need.*{PACK}") as error:
        prune.prune(made.platform, dry_run=False)
    assert "s3:PutObjectRetention" in error.value.hint and not made.platform.ledger.find("prune")
    assert made.haven.retained_until("backups", PACK + "cc", other)


def test_k4_a_held_point_keeps_the_locks_of_its_sealed_objects(made: House) -> None:
    point = made.point()
    named = [obj.sealed for obj in made.open().manifest.objects]
    move(made, timedelta(days=400))
    locks.extend(store_at(made.platform, made.haven), [point], [point])
    for info in named:
        held = made.haven.retained_until("backups", info.key, info.version)
        assert held == NOW + timedelta(days=430)
    known = locks.read_known(made.haven, "backups", TRUSTED.values())
    assert known and known.sealed == {point: NOW + timedelta(days=430)}


def test_k3_sealed_objects_that_no_point_names_go_once_no_lock_holds_them(made: House) -> None:
    point = made.point()
    kept = {(info.key, info.version) for info in [held.sealed for held in made.open().manifest.objects]}
    lost, locked = (made.haven.write("backups", f"sealed/d/aa/{name}.age", b"x") for name in ("lost", "locked"))
    made.haven.retain("backups", locked.key, str(locked.version_id), NOW + timedelta(days=401))
    move(made, timedelta(days=400))
    done = collect_garbage.collect(store_at(made.platform, made.haven), locking.KnownLocks())
    assert (done.sealed, done.retained) == (1, 1)
    left = {(version.key, version.version_id) for version in made.haven.versions("backups", "sealed/")}
    assert left == kept | {(made.open().manifest.secrets.sealed.key, made.open().manifest.secrets.sealed.version)} | {
        (locked.key, locked.version_id)
    }
    move(made, timedelta(days=402))
    assert collect_garbage.collect(store_at(made.platform, made.haven), locking.KnownLocks()).sealed == 1
    assert lost.key not in {version.key for version in made.haven.versions("backups", "sealed/")}
    assert made.open().manifest.id == point


def test_while_the_manifest_of_a_point_is_not_the_one_on_record_no_sealed_object_goes(made: House) -> None:
    point = made.point()
    made.haven.write("backups", "sealed/d/aa/lost.age", b"x")
    move(made, timedelta(days=400))
    made.platform.ledger.append("restore-point", point, {"manifest_sha256": "0" * 64})
    with pytest.raises(BackupError, match=f"the needs of restore point {point} are unknown"):
        collect_garbage.collect(store_at(made.platform, made.haven), locking.KnownLocks())
    assert list(made.haven.list("backups", "sealed/d/"))


def test_once_a_day_old_versions_of_heartbeats_go(made: House) -> None:
    made.point()
    for number in range(5):
        made.haven.write("backups", "heartbeats/backup.json", b"%d" % number)
    move(made, timedelta(days=6))
    done = prune.prune(made.platform, dry_run=False)
    assert done.cleared and done.cleared.old == 4 and made.haven.read("backups", "heartbeats/backup.json") == b"4"
    assert made.platform.ledger.find("prune", limit=1)[0].body["cleared"]["old"] == 4
    made.haven.write("backups", "heartbeats/backup.json", b"5")
    assert prune.prune(made.platform, dry_run=False).cleared is None
    move(made, timedelta(days=12))
    again = prune.prune(made.platform, dry_run=False).cleared
    assert again and again.old == 2, "the heartbeat, and the note of locks before the last"


def test_a_note_that_others_wrote_over_is_found_beneath_and_one_that_is_not_stops_the_run(made: House) -> None:
    pack(made)
    before = locks.extend(store_at(made.platform, made.haven), []).known
    made.haven.write("backups", locking.FILE, b"theirs")
    assert locks.read_known(made.haven, "backups", TRUSTED.values()) == before
    for _ in range(locks.LOOK_BACK):
        made.haven.write("backups", locking.FILE, b"theirs")
    with pytest.raises(IntegrityError, match="was overwritten"):
        locks.extend(store_at(made.platform, made.haven), [])


def test_a_hold_is_evidence_that_a_point_is_kept_and_so_are_its_locks(made: House) -> None:
    oldest, *_ = [made.point() for _ in range(5)]
    holds.hold(made.haven, "backups", oldest, holds.Hold("counsel", "inquiry", NOW))
    move(made, timedelta(days=800))
    prune.prune(made.platform, dry_run=False)
    info = made.haven.head("backups", f"points/{oldest}/manifest.json")
    held = made.haven.retained_until("backups", info.key, str(info.version_id))
    assert held and held >= NOW + timedelta(days=803)


def test_status_tells_what_would_be_lost_now(made: House) -> None:
    platform = dataclasses.replace(made.platform, clock=utc_now)  # as the ledger in memory has it
    assert rpo.line(platform) == "RPO unknown (objective 1 h): no consistent restore point is known"
    for minutes, dangling in ((40, []), (10, ["gone"])):
        at = platform.clock() - timedelta(minutes=minutes)
        platform.ledger.append("restore-point", f"{minutes}", {"created_at": at.isoformat(), "dangling": dangling})
    assert "the lag of primary->haven is unknown" in rpo.line(platform)
    platform.ledger.append("replication", "primary->haven", {"lag_seconds": 0.0})
    assert rpo.line(platform).startswith("RPO 40 min (objective 1 h): the age of the newest consistent restore point")


def test_locks_that_restic_gave_back_go_at_the_next_prune(made: House) -> None:
    pack(made)
    for name in ("old", "held"):
        made.haven.write("backups", f"restic/d/0001/locks/{name}", b"{}")
    made.haven.delete("backups", "restic/d/0001/locks/old")
    move(made, timedelta(days=1, hours=2))
    prune.prune(made.platform, dry_run=False)
    left = [version.key for version in made.haven.versions("backups", "restic/d/")]
    assert left == ["restic/d/0001/locks/held"] and made.haven.read("backups", PACK) == b"pack"
