"""What every site adapter must do. Runs on the site in memory and, with the stack, on a real S3 server."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from rempart.errors import IntegrityError, ObjectMissing, SiteError
from rempart.sites.port import Site
from tests.memory_site import MemorySite


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stores)])
def site(request: pytest.FixtureRequest) -> Site:
    if request.param == "memory":
        return MemorySite()
    found: Site = request.getfixturevalue("s3_site")
    return found


@pytest.fixture(params=[True, False], ids=["versioned", "plain"])
def versioned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def bucket(site: Site, versioned: bool) -> Iterator[str]:
    name = f"contract-{uuid4().hex[:12]}"
    site.ensure_bucket(name, versioned=versioned)
    yield name
    site.drop_bucket(name)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 5000])
def test_what_is_written_is_read_back_with_its_hash(site: Site, bucket: str, body: bytes) -> None:
    written = site.write(bucket, "a/b.bin", body, metadata={"retain-until": "2030-01-01"}, content_type="text/plain")
    assert (written.key, written.size, written.sha256) == ("a/b.bin", len(body), sha256(body))
    assert site.read(bucket, "a/b.bin", sha256=sha256(body)) == body
    head = site.head(bucket, "a/b.bin")
    assert (head.size, head.sha256, head.metadata["retain-until"]) == (len(body), sha256(body), "2030-01-01")
    assert head.modified.tzinfo is not None
    with site.open(bucket, "a/b.bin") as stream:
        assert stream.read(3) + stream.read() == body


def test_a_read_is_checked_against_the_hash_on_record(site: Site, bucket: str) -> None:
    site.write(bucket, "a", b"one")
    with pytest.raises(IntegrityError, match="a"):
        site.read(bucket, "a", sha256=sha256(b"two"))


def test_a_file_is_written_like_a_body(site: Site, bucket: str, tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"0123456789abcdef" * 200_000)
    info = site.write_file(bucket, "big", file, metadata={"k": "v"})
    assert info.sha256 == sha256(file.read_bytes())
    assert site.read(bucket, "big", sha256=info.sha256) == file.read_bytes()
    assert site.head(bucket, "big").metadata["k"] == "v"


def test_write_new_has_one_winner(site: Site, bucket: str) -> None:
    assert site.write_new(bucket, "once", b"first", metadata={"who": "1"})
    assert not site.write_new(bucket, "once", b"second")
    assert site.read(bucket, "once") == b"first"
    assert site.head(bucket, "once").metadata["who"] == "1"
    site.delete(bucket, "once")
    assert site.write_new(bucket, "once", b"third")


def test_the_newest_write_stands(site: Site, bucket: str) -> None:
    site.write(bucket, "a", b"one")
    site.write(bucket, "a", b"two")
    assert site.read(bucket, "a") == b"two"
    assert [info.size for info in site.list(bucket)] == [3]


def test_listing_is_complete(site: Site, bucket: str) -> None:
    keys = ["a", "a/1", "a/2", "a+b", "b/ü", "b/€", "b/z", "c d"]
    for key in reversed(keys):
        site.write(bucket, key, key.encode())
    found = list(site.list(bucket))  # SeaweedFS lists in an order of its own
    assert sorted(info.key for info in found) == sorted(keys)
    assert all(info.size == len(info.key.encode()) for info in found)
    assert sorted(info.key for info in site.list(bucket, "a/")) == ["a/1", "a/2"]
    assert list(site.list(bucket, "nothing/")) == []


@pytest.mark.parametrize(
    "versioned", [pytest.param(True, marks=pytest.mark.full), False], ids=["versioned", "plain"], indirect=True
)
def test_listing_goes_on_past_a_page(site: Site, bucket: str) -> None:
    keys = {f"many/{number:04d}" for number in range(1100)}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: site.write(bucket, key, b"x"), sorted(keys)))
    assert Counter(info.key for info in site.list(bucket, "many/")) == Counter(keys)


def test_what_is_not_there_is_named(site: Site, bucket: str) -> None:
    for call in (site.head, site.read):
        with pytest.raises(ObjectMissing) as error:
            call(bucket, "no/such")
        assert "no/such" in error.value.what
        assert bucket in error.value.what
        assert site.name in error.value.what
    with pytest.raises(ObjectMissing), site.open(bucket, "no/such"):
        pass
    with pytest.raises(SiteError):
        list(site.list(f"absent-{uuid4().hex[:12]}"))


def test_delete_is_idempotent(site: Site, bucket: str) -> None:
    site.write(bucket, "a", b"one")
    site.delete(bucket, "a")
    site.delete(bucket, "a")
    site.delete(bucket, "never there")
    assert list(site.list(bucket)) == []
    with pytest.raises(ObjectMissing):
        site.read(bucket, "a")


def test_ensure_bucket_keeps_what_is_there(site: Site, bucket: str, versioned: bool) -> None:
    site.write(bucket, "a", b"one")
    site.ensure_bucket(bucket, versioned=versioned)
    assert site.read(bucket, "a") == b"one"


def test_versions_stay_readable_after_overwrite_and_delete(site: Site, bucket: str, versioned: bool) -> None:
    if not versioned:
        assert site.write(bucket, "a", b"one").version_id is None
        return
    first, second = site.write(bucket, "a", b"one"), site.write(bucket, "a", b"two")
    site.delete(bucket, "a")
    assert first.version_id != second.version_id
    assert site.read(bucket, "a", version_id=first.version_id) == b"one"
    assert site.read(bucket, "a", version_id=second.version_id) == b"two"
    site.delete(bucket, "a", version_id=second.version_id)
    with pytest.raises(ObjectMissing):
        site.read(bucket, "a", version_id=second.version_id)


@pytest.fixture
def locked_bucket(site: Site) -> str:
    name = f"contract-{uuid4().hex[:12]}"
    site.ensure_bucket(name, versioned=True, locked=True)
    site.ensure_bucket(name, versioned=True, locked=True)
    return name  # it stays: what is locked cannot be dropped, and the stack's state is thrown away


LOCKED_SECONDS = 60


def test_a_locked_object_cannot_be_lost_before_its_time(site: Site, locked_bucket: str) -> None:
    until = datetime.now(UTC) + timedelta(seconds=LOCKED_SECONDS)
    assert site.write_new(locked_bucket, "a", b"one", retain_until=until)
    assert not site.write_new(locked_bucket, "a", b"two", retain_until=until)
    first = site.head(locked_bucket, "a")
    site.write(locked_bucket, "a", b"two")
    site.delete(locked_bucket, "a")
    with pytest.raises(SiteError):
        site.delete(locked_bucket, "a", version_id=first.version_id)
    with pytest.raises(SiteError):
        site.drop_bucket(locked_bucket)
    assert site.read(locked_bucket, "a", version_id=first.version_id) == b"one"


def test_a_bucket_made_without_locks_does_not_pass_for_one_with(site: Site, bucket: str) -> None:
    with pytest.raises(SiteError, match=bucket):
        site.ensure_bucket(bucket, versioned=True, locked=True)
    with pytest.raises(SiteError, match=bucket):
        site.write_new(bucket, "a", b"one", retain_until=datetime.now(UTC) + timedelta(seconds=60))


def test_a_lock_is_told_and_only_ever_extended(site: Site, locked_bucket: str, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    soon, late = (now + timedelta(seconds=LOCKED_SECONDS + n) for n in (1, 4))
    file = tmp_path / "file"
    file.write_bytes(b"one")
    version = site.write_file(locked_bucket, "a", file, retain_until=soon).version_id
    assert version and site.retained_until(locked_bucket, "a", version) == soon
    assert site.retain(locked_bucket, "a", version, late) == late
    assert site.retain(locked_bucket, "a", version, soon) == late, "it was shortened"
    assert site.retained_until(locked_bucket, "a", version) == late
    with pytest.raises(SiteError):
        site.delete(locked_bucket, "a", version_id=version)


def test_what_was_written_without_a_lock_gets_one(site: Site, locked_bucket: str) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=LOCKED_SECONDS)
    version = site.write(locked_bucket, "a", b"one").version_id
    assert version and site.retained_until(locked_bucket, "a", version) is None
    assert site.retain(locked_bucket, "a", version, until) == until
    with pytest.raises(SiteError):
        site.delete(locked_bucket, "a", version_id=version)
    with pytest.raises(ObjectMissing):
        site.retain(locked_bucket, "absent", version, until)


def test_no_lock_is_told_where_there_are_none(site: Site, bucket: str, versioned: bool, tmp_path: Path) -> None:
    file, until = tmp_path / "file", datetime.now(UTC) + timedelta(seconds=60)
    file.write_bytes(b"one")
    version = site.write(bucket, "a", b"one").version_id
    if versioned:
        assert version and site.retained_until(bucket, "a", version) is None
        with pytest.raises(SiteError, match=bucket):
            site.retain(bucket, "a", version, until)
    with pytest.raises(SiteError, match=bucket):
        site.write_file(bucket, "a", file, retain_until=until)


def test_a_fork_can_use_it_and_so_can_its_parent_afterwards(site: Site, bucket: str) -> None:
    site.write(bucket, "a", b"one")
    child = multiprocessing.get_context("fork").Process(target=site.write, args=(bucket, "b", b"two"))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    site.write(bucket, "c", b"three")
    assert site.read(bucket, "a") == b"one" and site.read(bucket, "c") == b"three"
