"""Sealed objects: standard formats, names that reveal nothing, damage that is noticed."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.points import sealing
from rempart.backup.points.sealing import SealedObject
from rempart.errors import ConfigError, IntegrityError, KeyWrong, SiteUnavailable

ME, OTHER = age.new_identity(), age.new_identity()
SCOPE = EncryptionScope("dataset", "bookings", "395d")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def sealed(body: bytes) -> bytes:
    out = io.BytesIO()
    assert sealing.seal(io.BytesIO(body), [ME.recipient], out) == (hashlib.sha256(body).hexdigest(), len(body))
    return out.getvalue()


def opened(body: bytes, identity: age.Identity = ME, limit: int = 10**9) -> bytes:
    out = io.BytesIO()
    found = sealing.open_sealed(io.BytesIO(body), identity, out, limit=limit, where="the object")
    assert found == (hashlib.sha256(out.getvalue()).hexdigest(), len(out.getvalue()))
    return out.getvalue()


@given(st.binary(max_size=300_000) | st.integers(0, 400_000).map(bytes))
@settings(max_examples=40)
def test_what_is_sealed_opens_to_the_same(body: bytes) -> None:
    assert opened(sealed(body)) == body


def test_pyrage_and_gzip_alone_read_it() -> None:
    body = os.urandom(100_000) + bytes(1_000_000)
    identity = pyrage.x25519.Identity.from_str(ME.secret)
    packed = pyrage.decrypt(sealed(body), [identity])
    assert gzip.decompress(packed) == body
    assert packed[4:8] == bytes(4), "a time would make the same content differ"
    assert len(packed) < 200_000


@pytest.mark.skipif(shutil.which("age") is None, reason="the command `age` is not on PATH")
def test_the_command_age_and_gunzip_alone_read_it(tmp_path: Path) -> None:
    age.write_identity_file(tmp_path / "key", ME, NOW)
    (tmp_path / "object.age").write_bytes(sealed(b"booking" * 1000))
    command = ["sh", "-c", "age -d -i key object.age | gunzip"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"booking" * 1000


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(KeyWrong, match="the object") as error:
        opened(sealed(b"x"), OTHER)
    assert OTHER.secret not in str(error.value) and OTHER.recipient in str(error.value)


SEALED = sealed(os.urandom(70_000))


@given(st.integers(0, 1000) | st.integers(0, 70_000), st.integers(0, 255))
@settings(max_examples=150)
def test_damage_anywhere_is_noticed(place: int, flip: int) -> None:
    body = bytearray(SEALED)
    if flip:
        body[place] ^= flip
    else:
        del body[place:]
    with pytest.raises((IntegrityError, KeyWrong)):  # of a header, age cannot tell which: the SHA-256 does
        opened(bytes(body))


@pytest.mark.parametrize(
    "inside",
    [b"no gzip", b"", gzip.compress(b"x" * 1000)[:-4], gzip.compress(b"x") + b"more", gzip.compress(b"x") * 2],
    ids=["no gzip", "nothing", "cut short", "more after it", "two"],
)
def test_what_is_no_gzip_to_its_end_is_refused(inside: bytes) -> None:
    with pytest.raises(IntegrityError, match="the object"):
        opened(age.encrypt(inside, [ME.recipient]))


def test_a_bomb_stops_at_the_size_on_record() -> None:
    with pytest.raises(IntegrityError, match="more than the recorded 1000 bytes"):
        opened(sealed(bytes(50_000_000)), limit=1000)


def test_errors_of_the_streams_come_through_as_they_are() -> None:
    class Broken:
        def read(self, size: int = -1, /) -> bytes:
            raise SiteUnavailable("read lake/a", "Retry.")

    class Full(io.BytesIO):
        def write(self, body: object, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(SiteUnavailable, match="read lake/a"):
        sealing.seal(Broken(), [ME.recipient], io.BytesIO())
    with pytest.raises(SiteUnavailable, match="read lake/a"):
        sealing.open_sealed(Broken(), ME, io.BytesIO(), limit=1, where="the object")
    for act in (
        lambda: sealing.seal(io.BytesIO(b"x"), [ME.recipient], Full()),
        lambda: sealing.seal(io.BytesIO(os.urandom(10**6)), [ME.recipient], Full()),
        lambda: sealing.open_sealed(io.BytesIO(sealed(b"x" * 10**6)), ME, Full(), limit=10**7, where="the object"),
    ):
        with pytest.raises(OSError, match="No space left"):
            act()


def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    class Long:
        left = 100 << 20

        def read(self, size: int = -1, /) -> bytes:
            part = os.urandom(min(size, self.left))
            self.left -= len(part)
            return part

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = tmp_path / "sealed"
    with file.open("wb") as out:
        found = sealing.seal(Long(), [ME.recipient], out)
    with file.open("rb") as stream, Path(os.devnull).open("wb") as out:
        assert sealing.open_sealed(stream, ME, out, limit=1 << 40, where="the object") == found
    assert found[1] == 100 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10, "in KiB"


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(digests, digests, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_name_is_of_content_and_key_and_tells_neither(digest: str, other: str, key: bytes, second: bytes) -> None:
    name = sealing.key_of(SCOPE, key, digest)
    assert (sealing.key_of(SCOPE, key, other) == name) == (digest == other)
    assert (sealing.key_of(SCOPE, second, digest) == name) == (key == second)
    assert digest not in name and hashlib.sha256(bytes.fromhex(digest)).hexdigest() not in name
    prefix, scope, start, rest = name.split("/")
    assert (prefix, scope, rest[:2], rest[64:]) == ("sealed", SCOPE.id, start, ".age")


keys = st.sampled_from(["sealed/a", "sealed/b", "sealed/c"])
times = st.integers(0, 4).map(lambda days: NOW + timedelta(days=days))
versions = st.sampled_from(["1", "2"])
known = st.builds(SealedObject, st.just("d"), st.just("0001"), keys, versions, st.just(""), st.integers(0, 1), times)


@given(st.lists(keys), st.dictionaries(keys, st.dictionaries(versions, st.integers(0, 1))), st.lists(known), times)
def test_the_plan_keeps_only_what_is_known_present_and_locked(wanted, present, before, until) -> None:  # type: ignore[no-untyped-def]
    by_key = {info.key: info for info in before}
    steps = sealing.plan(wanted, present, by_key, until)
    assert steps.keys() == set(wanted)
    for key, step in steps.items():
        earlier, there = by_key.get(key), present.get(key, {})
        stands = earlier is not None and there.get(earlier.version) == earlier.size
        assert (step in ("keep", "extend")) == stands
        if step == "keep":
            assert earlier is not None and earlier.retained_until >= until
        if step == "store":
            assert not there


def test_a_reference_survives_json() -> None:
    sealed_object = SealedObject("d", "0001", "sealed/d/ab/x.age", "7", "ab" * 32, 12, NOW)
    assert sealing.from_json(sealing.as_json(sealed_object)) == sealed_object


def test_an_identity_file_is_private_new_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "escrow.txt"
    age.write_identity_file(file, ME, NOW)
    assert file.stat().st_mode & 0o777 == 0o600
    assert age.read_identity_file(file) == ME
    with pytest.raises(ConfigError, match="exists"):
        age.write_identity_file(file, OTHER, NOW)
    assert age.read_identity_file(file) == ME


@pytest.mark.parametrize(
    "text",
    ["", "age1xyz", ME.secret[:-1] + ("Q" if ME.secret[-1] != "Q" else "P"), ME.secret + "\n" + OTHER.secret],
    ids=["nothing", "a recipient", "mistyped", "two"],
)
def test_what_is_no_identity_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        age.read_identity(text, "the file")
    assert "AGE-SECRET-KEY-1" not in error.value.what and (not text or text not in str(error.value))


def test_a_private_key_in_place_of_a_recipient_does_not_show() -> None:
    with pytest.raises(ConfigError) as error:
        age.check_recipient(ME.secret, "backup.recipients.0")
    assert ME.secret not in str(error.value) and "backup.recipients.0" in error.value.what
    assert ME.secret not in repr(ME)
    with pytest.raises(ConfigError, match="without recipients"):
        age.encrypt(b"x", [])
