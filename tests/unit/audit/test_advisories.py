"""The advisory database comes from outside: whatever its content, nothing is written, run or followed."""

from __future__ import annotations

import json
import struct
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.audit import advisories
from rempart.audit.advisories import Database
from rempart.errors import AuditError
from tests.unit.audit.osv import affected, ecosystem_range, entry

NOW = datetime(2026, 11, 24, tzinfo=UTC)
WANTED = {"PyPI": ["alpha-one"], "Debian:13": ["glibc"]}
GOOD = entry("GHSA-1", affected("Alpha_One", **ecosystem_range({"introduced": "0"})))


def read(path: Path) -> Database:
    return advisories.read(path, WANTED, NOW)


def archive(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file


def test_a_folder_and_an_archive_are_read_alike(tmp_path: Path) -> None:
    members = {
        "GHSA-1.json": GOOD,
        "GHSA-2.json": entry("GHSA-2", affected("other"), modified="2026-11-22T00:00:00Z"),
        "GHSA-3.json": entry("GHSA-3", affected("alpha-one"), withdrawn="2026-01-01T00:00:00Z"),
        "DSA-1.json": entry("DSA-1", affected("glibc", "Debian:13"), affected("glibc", "Debian:12")),
        "GO-1.json": entry("GO-1", affected("alpha-one", "Go")),
        "readme.txt": b"not an advisory",
    }
    zipped = read(archive(tmp_path / "all.zip", members))
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    other = read(tmp_path / "folder")
    for found in (zipped, other):
        assert sorted(advisory.id for advisory in found.advisories) == ["DSA-1", "GHSA-1"]
        assert found.entries == {"PyPI": 3, "Debian": 1}
        assert found.newest["PyPI"] == datetime(2026, 11, 22, tzinfo=UTC)
        assert (found.withdrawn, found.unreadable) == (1, [])


def test_a_folder_may_hold_archives(tmp_path: Path) -> None:
    archive(tmp_path / "pypi.zip", {"a.json": GOOD})
    assert [advisory.id for advisory in read(tmp_path).advisories] == ["GHSA-1"]


def test_a_date_in_the_future_does_not_make_the_database_young(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(GOOD)
    (tmp_path / "b.json").write_bytes(entry("GHSA-9", affected("other"), modified="2999-01-01T00:00:00Z"))
    assert read(tmp_path).newest["PyPI"] == datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "content",
    [
        b'{"PyPI"',
        b'"PyPI"',
        b'{"id": "x", "x": ' + b'["PyPI"' + b"[" * 100_000,
        b'{"id": "x", "modified": "never", "affected": [{"package": {"ecosystem": "PyPI", "name": "a"}}]}',
        entry("\x1b[2J", affected("alpha-one")),
        entry("x; rm -rf /", affected("alpha-one")),
        b'{"id": 1' + b"0" * 100_000 + b', "modified": "PyPI"}',
        b"\xff\xfe" + b'"PyPI"',
    ],
)
def test_an_entry_that_cannot_be_read_is_told_and_the_others_count(tmp_path: Path, content: bytes) -> None:
    found = read(archive(tmp_path / "x.zip", {"bad.json": content, "good.json": GOOD}))
    assert found.unreadable == ["bad.json"]
    assert [advisory.id for advisory in found.advisories] == ["GHSA-1"]


def test_a_member_that_unpacks_to_more_than_an_advisory_is_not_unpacked(tmp_path: Path) -> None:
    bomb = archive(
        tmp_path / "bomb.zip", {"bomb.json": b'"PyPI"' + b" " * (advisories.MAX_ENTRY + 1), "good.json": GOOD}
    )
    assert bomb.stat().st_size < 100_000
    found = read(bomb)
    assert found.unreadable == ["bomb.json"] and len(found.advisories) == 1


def test_a_member_that_lies_about_its_size_is_cut_and_told(tmp_path: Path) -> None:
    size = advisories.MAX_ENTRY + 1
    file = archive(tmp_path / "lie.zip", {"bomb.json": b'"PyPI"' + b" " * (size - 6)})
    raw = file.read_bytes()
    assert raw.count(struct.pack("<L", size)) == 2
    file.write_bytes(raw.replace(struct.pack("<L", size), struct.pack("<L", 100)))
    assert read(file).unreadable == ["bomb.json"]


def test_many_members_together_are_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = archive(tmp_path / "x.zip", {f"{number}.json": GOOD for number in range(20)})
    monkeypatch.setattr(advisories, "MAX_TOTAL", len(GOOD) * 10)
    with pytest.raises(AuditError, match="larger than an advisory database"):
        read(file)
    monkeypatch.setattr(advisories, "MAX_ARCHIVE", 100)
    with pytest.raises(AuditError, match="larger than 0 MiB"):
        read(file)


def test_names_that_climb_out_of_the_archive_lead_nowhere(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    names = ["../../evil.json", "/etc/evil.json", "C:\\evil.json", "a/../../evil.json", "\x1b[31mevil.json"]
    before = sorted(tmp_path.rglob("*"))
    file = archive(inner / "x.zip", dict.fromkeys(names, b'{"PyPI": '))
    found = read(file)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, file])
    assert len(found.unreadable) == len(names)
    assert all(name.isprintable() and "/" not in name for name in found.unreadable)


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_bytes(GOOD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.json").symlink_to(tmp_path / "outside.json")
    assert read(tmp_path / "folder").advisories == []


def test_an_encrypted_or_damaged_member_is_told(tmp_path: Path) -> None:
    file = archive(tmp_path / "x.zip", {"a.json": GOOD}, zipfile.ZIP_STORED)
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"GHSA-1")] ^= 1  # its CRC is wrong now
    file.write_bytes(raw)
    assert read(file).unreadable == ["a.json"]
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # flagged as encrypted
    file.write_bytes(raw)
    assert read(file).unreadable == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"{}"])
def test_an_archive_that_is_none_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(AuditError, match="as a zip archive"):
        read(tmp_path / "x.zip")


def test_a_database_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="does not exist"):
        read(tmp_path / "absent")


def test_text_of_an_advisory_is_safe_to_print(tmp_path: Path) -> None:
    hostile = json.loads(GOOD) | {"summary": "\x1b]0;title\x07 red\r\nline\u202e" + "x" * 10_000}
    (tmp_path / "a.json").write_text(json.dumps(hostile))
    (advisory,) = read(tmp_path).advisories
    assert advisory.summary.isprintable() and len(advisory.summary) <= 300


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_told(content: bytes) -> None:
    database = Database("x")
    advisories._take(database, "x", content, WANTED, {"PyPI"}, NOW)
    assert database.unreadable == ["x"] or database.advisories == []
