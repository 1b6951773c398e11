"""Names of an archive's objects, and files that are stored in it and opened again."""

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.keys import age, encryption_scopes
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.pitr import base_backup, wal, wal_store
from rempart.backup.pitr.wal import Archive, Base, Entry
from rempart.errors import IntegrityError, SiteError
from tests.memory_site import MemorySite

NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)  # the site in memory has the real clock: these locks hold
SCOPE = wal.scope_of(timedelta(days=7))
KEY = ScopeKey(SCOPE, "0001", age.new_identity(), "restic", b"k" * 32, True)
ARCHIVE = Archive(SCOPE.id, "0001", "7712187495124118497")
SEGMENT = "000000010000000A000000FE"

moments = st.none() | st.integers(0, 10**11).map(lambda n: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(milliseconds=n))


@given(st.sampled_from([SEGMENT, "00000002.history", wal.BASE]), moments)
def test_what_a_key_says_is_read_from_it_again(name, moment):
    entry = Entry(ARCHIVE, name, moment, "a" * 64)
    assert wal.parse(entry.key) == entry


@pytest.mark.parametrize("rest", ["", ".partial", f".99999999T000000000000Z.{'a' * 64}.age", f".none.{'a' * 63}.age"])
def test_another_key_is_no_entry(rest):
    assert wal.parse(f"{ARCHIVE.prefix}{SEGMENT}{rest}") is None


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**30), st.sampled_from([1 << 20, 16 << 20, 1 << 30]))
def test_segments_are_numbered_as_postgresql_names_them(timeline, number, size):
    name = wal.segment_name(timeline, number, size)
    assert wal.is_segment(name) and wal.is_archived(name) and not wal.is_archived(f"{name}.partial")
    assert (wal.timeline_of(name), wal.number_of(name, size)) == (timeline, number)


def test_positions_and_the_window_are_read():
    assert wal.position("A/FE000028") == (10 << 32) + 0xFE000028
    assert wal.number_of(SEGMENT, 16 << 20) * (16 << 20) == wal.position("A/FE000000")
    assert wal.kept_for(ARCHIVE) == timedelta(days=7)
    assert encryption_scopes.parse(ARCHIVE.scope) == SCOPE


def test_a_tag_is_of_its_key_name_moment_and_content():
    made = {
        wal.tag_of(key, archive, name, moment, digest)
        for key in (b"k" * 32, b"l" * 32)
        for archive in (ARCHIVE, Archive(SCOPE.id, "0002", ARCHIVE.system))
        for name in (SEGMENT, wal.BASE)
        for moment in (NOW, None)
        for digest in ("a" * 64, "b" * 64)
    }
    assert len(made) == 32


@pytest.fixture
def site():
    made = MemorySite("haven")
    made.ensure_bucket("backups", versioned=True, locked=True)
    return made


def put(site, body=b"wal" * 5000, name=SEGMENT, moment=NOW):
    return wal_store.store(site, "backups", KEY, ARCHIVE, name, moment, io.BytesIO(body), NOW + timedelta(days=8))


def test_a_file_is_locked_and_comes_back_by_its_name_even_if_somebody_hid_it(site, tmp_path):
    entry = put(site)
    site.delete("backups", entry.key)
    [stored] = wal_store.listed(site, "backups")
    assert stored.entry == entry
    assert wal_store.open_entry(site, "backups", KEY, stored, tmp_path / "f") == 15000
    assert (tmp_path / "f").read_bytes() == b"wal" * 5000
    with pytest.raises(SiteError, match="locked"):
        site.delete("backups", entry.key, version_id=stored.versions[0].version_id)
    assert wal_store.delete(site, "backups", stored, NOW) == NOW + timedelta(days=8)


def test_the_same_file_again_harms_nothing(site, tmp_path):
    assert put(site) == put(site)
    [stored] = wal_store.listed(site, "backups")
    assert len(stored.versions) == 2
    wal_store.open_entry(site, "backups", KEY, stored, tmp_path / "f")


@pytest.mark.parametrize("forged", ["other content", "other moment", "other name", "noise"])
def test_k2_what_does_not_have_the_tag_is_refused_by_name(site, tmp_path, forged):
    true = put(site)
    sealed = site.read("backups", true.key)
    lie = {
        "other content": Entry(ARCHIVE, SEGMENT, NOW, "b" * 64),
        "other moment": Entry(ARCHIVE, SEGMENT, NOW + timedelta(hours=1), true.tag),
        "other name": Entry(ARCHIVE, SEGMENT[:-1] + "F", NOW, true.tag),
        "noise": Entry(ARCHIVE, wal.BASE, NOW, true.tag),
    }[forged]
    site.write("backups", lie.key, b"noise" if forged == "noise" else sealed)
    stored = next(stored for stored in wal_store.listed(site, "backups") if stored.entry == lie)
    with pytest.raises(IntegrityError, match=lie.name):
        wal_store.open_entry(site, "backups", KEY, stored, tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_a_card_and_a_history_are_read_or_refused():
    base = Base("77", 2, 5, 9, NOW, NOW + timedelta(minutes=1), "abc", 10, 16 << 20, "18.6")
    assert wal.decode_base(wal.encode_base(base), "x") == base
    with pytest.raises(IntegrityError, match="somewhere"):
        wal.decode_base(b'{"system": "77"}', "somewhere")
    with pytest.raises(IntegrityError, match="somewhere"):
        wal.read_history(b"nonsense", "somewhere")
    assert wal.read_history(b"# c\n1\t0/5000028\tbefore 2026\n\n", "x") == ((1, 0x5000028),)


def tar_of(files, manifest=None):
    """A base backup's tar, with a manifest of these files unless another is given."""
    listed = [{"Path": name, "Checksum": sha256(body).hexdigest()} for name, body in files.items()]
    ranges = [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120"}]
    text = json.dumps({"Files": listed, "WAL-Ranges": ranges}).encode() if manifest is None else manifest
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in {**files, base_backup.MANIFEST: text}.items():
            head = tarfile.TarInfo(name)
            head.size = len(body)
            tar.addfile(head, io.BytesIO(body))
    return io.BytesIO(out.getvalue())


def test_a_base_backup_is_judged_by_its_manifest_while_it_passes(tmp_path):
    files = {"PG_VERSION": b"18\n", "backup_label": b"START\n"}
    found = base_backup.unpack(tar_of(files), tmp_path, "base")
    assert found == base_backup.BaseBackupFacts(1, 0x2000028, 0x2000120, 2)
    assert (tmp_path / "PG_VERSION").read_bytes() == b"18\n" and (tmp_path / base_backup.MANIFEST).exists()
    assert base_backup.unpack(tar_of(files), None, "base") == found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: io.BytesIO(tar_of({"a": b"1"}).getvalue()[:700]), "incomplete"),
        (lambda: tar_of({"a": b"1"}, b'{"Files": [{"Path": "a", "Checksum": "0"}]}'), "a differs from the recorded"),
        (lambda: tar_of({"a": b"1"}, b'{"Files": [{"Path": "b", "Checksum": "0"}]}'), "b is missing"),
        (lambda: tar_of({"../a": b"1"}), "outside"),
        (lambda: tar_of({"a": b"1"}, b"no json"), "incomplete"),
    ],
)  # fmt: skip
def test_a_base_backup_that_is_not_what_its_manifest_says_is_refused(tmp_path, body, message):
    folder = tmp_path / "to"
    folder.mkdir()
    with pytest.raises(IntegrityError, match=message):
        base_backup.unpack(body(), folder, "base")
    assert [path.name for path in tmp_path.iterdir()] == ["to"]
