"""Restore points: their content, which of them count, and which are refused."""

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from rempart.backup.databases.not_held import NotHeld
from rempart.backup.points import points
from rempart.backup.points.sealing import SealedObject
from rempart.errors import BackupError, IntegrityError
from tests.memory_site import MemorySite
from tests.restorable import flip

NOW = datetime(2025, 10, 26, 0, 59, 59, tzinfo=UTC)
SEALED = SealedObject("platform-platform-372d", "0001", "sealed/x/aa/aa.age", "v9", "b" * 64, 400, NOW)
MANIFEST = points.Manifest(
    points.new_id(NOW, "ab12cd"),
    NOW,
    "primary",
    "0.1.0",
    "c" * 64,
    (
        points.Dump(
            "ledger",
            "database-ledger-372d",
            "0001",
            "9" * 64,
            "d" * 64,
            10,
            {"public.evidence": 3},
            {"public.evidence": "-42"},
        ),
    ),
    (points.HeldObject("lake", "raw/é", 5, "e" * 64, "v1", SEALED),),
    {"hotel_bookings": "7"},
    (12, "f" * 64),
    ("model hotel_bookings version 6: artifacts/mlflow/1/models/m-1/artifacts/",),
    0.25,
    points.Secrets(SEALED, "a" * 64, 12),
)


@pytest.fixture
def site():
    found = MemorySite("haven")
    found.ensure_bucket("backups", versioned=True)
    return found


def test_a_manifest_reads_back_as_written(site):
    digest = points.write(site, "backups", MANIFEST)
    assert points.read(site, "backups", MANIFEST.id, digest) == MANIFEST
    assert hashlib.sha256(points.encode(MANIFEST)).hexdigest() == digest


def test_a_manifest_is_never_written_over(site):
    digest = points.write(site, "backups", MANIFEST)
    assert points.write(site, "backups", MANIFEST) == digest, "the same once more changes nothing"
    with pytest.raises(BackupError, match="already exists"):
        points.write(site, "backups", dataclasses.replace(MANIFEST, source="another"))
    assert len(list(site.versions("backups", f"points/{MANIFEST.id}/"))) == 1


def test_an_altered_manifest_is_refused_and_the_one_on_record_is_found_beneath(site):
    digest = points.write(site, "backups", MANIFEST)
    key = f"points/{MANIFEST.id}/manifest.json"
    altered = site.read("backups", key).replace(b'"7"', b'"8"')
    site.write("backups", key, altered)
    assert points.read(site, "backups", MANIFEST.id, digest) == MANIFEST
    flip(site, "backups", key, lambda body: altered)
    with pytest.raises(IntegrityError):
        points.read(site, "backups", MANIFEST.id, digest)


@pytest.mark.parametrize("change", [{"format": 1}, {"databases": 3}, {"surplus": 1}, {"created_at": "yesterday"}])
def test_what_is_no_manifest_is_refused(change):
    plain = {**json.loads(points.encode(MANIFEST)), **change}
    with pytest.raises(ValueError):  # each with its own message
        points.decode(json.dumps(plain).encode())


def test_only_points_with_a_manifest_count_newest_first(site):
    ids = [points.new_id(NOW + timedelta(hours=h), "abcdef") for h in (0, 2, 1)]
    for point in ids:
        site.write("backups", f"points/{point}/airflow.dump", b"x")
    for point in ids[:2]:
        site.write("backups", f"points/{point}/manifest.json", b"{}")
    site.write("backups", "points/not-a-point/manifest.json", b"{}")
    assert points.list(site, "backups") == (ids[1], ids[0])


def test_ids_are_utc_and_sort_by_time():
    paris = timezone(timedelta(hours=2))
    early, late = NOW.astimezone(paris), NOW + timedelta(seconds=1)
    assert points.new_id(early, "ffffff") < points.new_id(late, "000000")
    assert points.created_at(points.new_id(early, "ffffff")) == NOW


@pytest.mark.parametrize("bad", ["../x", "20250101T000000Z-zz", "", "20250101T000000Z-abcdef/../y"])
def test_an_id_cannot_become_a_path(bad):
    with pytest.raises(BackupError):
        points.valid_id(bad)


def test_d8_what_a_champion_needs_and_the_point_does_not_hold_is_lacking():
    idle, needed = (
        NotHeld("artifacts s3://x", "elsewhere"),
        NotHeld("mlflow", "elsewhere", ("hotel_bookings version 7",)),
    )
    found = dataclasses.replace(MANIFEST, dangling=(), not_held=(idle, needed))
    assert found.consistent and found.lacking == (str(needed),)
    assert points.decode(points.encode(found)) == found
