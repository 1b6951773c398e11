"""A heartbeat is accepted only in the form in which it was signed."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.watch.heartbeat import Heartbeat, decode, encode, key_of, replication
from rempart.ledger.keys import signer, to_pem

KEY, OTHER = signer(bytes(31) + b"1"), signer(bytes(31) + b"2")
NOW = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
BEAT = Heartbeat("backup", NOW, {"point": "20240229T235900Z-abcdef", "created_at": NOW.isoformat(), "lag_seconds": 1.5})
BODY = encode(BEAT, KEY)

kinds = st.sampled_from(["backup", "drill", replication("primary", "haven"), replication("a", "b")])
facts = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False),
    max_size=5,
)
moments = st.timedeltas(timedelta(days=-9000), timedelta(days=9000)).map(lambda length: NOW + length)


@given(kinds, moments, facts)
def test_what_was_signed_is_read_back(kind: str, at: datetime, told: dict[str, object]) -> None:
    found = decode(kind, encode(Heartbeat(kind, at, told), KEY), [OTHER.public, KEY.public])
    assert (found.kind, found.at) == (kind, at)
    assert json.loads(json.dumps(found.facts)) == told


@given(st.integers(0, len(BODY) - 2), st.integers(1, 255))
def test_no_altered_byte_is_believed(place: int, change: int) -> None:
    altered = bytearray(BODY)
    altered[place] ^= change
    with pytest.raises(ValueError):
        decode("backup", bytes(altered), [KEY.public])


@given(st.binary(max_size=200))
def test_rubbish_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode("backup", body, [KEY.public])


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("backup", encode(BEAT, OTHER), "not trusted"),
        ("drill", BODY, "heartbeat of kind backup"),
        ("backup", BODY.replace(b"23:59", b"23:58"), "signature"),
        ("backup", encode(BEAT, OTHER).replace(OTHER.id.encode(), KEY.id.encode()), "signature"),
        ("backup", BODY.replace(b'"v":1', b'"v":2'), "signature"),
        ("backup", BODY.replace(KEY.id.encode(), b"call \\u001b[2J"), "a key that is not trusted"),
        ("backup", BODY.replace(b'"v":1', b'"w":1'), "fields"),
        ("backup", BODY.replace(b'"at":"2024', b'"at": "2024'), "canonical"),
        ("backup", b"", "not a heartbeat"),
    ],
)
def test_a_forgery_is_told_as_what_it_is(kind: str, body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(kind, body, [KEY.public])


def test_facts_of_another_type_count_as_not_told() -> None:
    odd = Heartbeat("backup", NOW, {"a": "soon", "b": True, "c": "2024-02-29", "d": 1e300})
    assert odd.moment("a") is odd.moment("c") is odd.moment("none") is None
    assert odd.seconds("a") is odd.seconds("b") is odd.seconds("none") is None
    assert (odd.seconds("d") or NOW - NOW).days > 10**8


def test_openssl_alone_can_check_one(tmp_path: Path) -> None:
    head, tail = b'{"heartbeat":', b',"sig":"'
    middle, _, rest = BODY.removeprefix(head).rpartition(tail)
    for name, content in (
        ("text", middle),
        ("sig", base64.b64decode(rest[:88])),
        ("key.pem", to_pem(KEY.public).encode()),
    ):
        (tmp_path / name).write_bytes(content)
    command = "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in text -sigfile sig"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done


def test_each_kind_has_an_object_of_its_own() -> None:
    assert key_of("backup") == "heartbeats/backup.json"
    assert key_of(replication("primary", "haven")) == "heartbeats/replication/primary-haven.json"
