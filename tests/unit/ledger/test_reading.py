"""Which stored records count."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest

from rempart.ledger import keys
from rempart.ledger.canonical import canonical
from rempart.ledger.chain import Entry, Head, extend, introduce
from rempart.ledger.reading import first_altered, key_chain

FIRST, SECOND, THIEF = (keys.signer(bytes([number] * 32)) for number in (1, 2, 3))
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def after(entry: Entry, key: str) -> Head:
    return Head(entry.seq, entry.hash, key)


def rows(*entries: Entry) -> list[tuple[str, str]]:
    return [(entry.text, entry.sig) for entry in entries]


@pytest.fixture
def chain() -> list[Entry]:
    """Key 1, a drill, key 2, a drill."""
    first = introduce(Head(), NOW, FIRST, FIRST)
    drill = extend(after(first, FIRST.id), NOW, "drill", "a", {}, FIRST)
    second = introduce(after(drill, FIRST.id), NOW, SECOND, FIRST)
    return [first, drill, second, extend(after(second, SECOND.id), NOW, "drill", "b", {}, SECOND)]


def test_each_record_counts_by_the_key_of_its_place(chain: list[Entry]) -> None:
    found = key_chain(rows(chain[0], chain[2]))
    assert [key.id for key in found.keys] == [FIRST.id, SECOND.id]
    assert [found.signing(seq).id for seq in (1, 2, 3, 4)] == [FIRST.id, FIRST.id, FIRST.id, SECOND.id]  # type: ignore[union-attr]
    for _ in range(2):  # the second time the signature is remembered
        assert all(found.read(entry.text, entry.sig) for entry in chain)


def test_an_old_key_signs_nothing_after_its_rotation(chain: list[Entry]) -> None:
    found = key_chain(rows(chain[0], chain[2]))
    late = extend(after(chain[3], SECOND.id), NOW, "promotion", "a", {}, FIRST)
    assert found.read(late.text, late.sig) is None


def test_a_key_that_the_one_before_did_not_sign_introduces_nothing(chain: list[Entry]) -> None:
    forged = introduce(after(chain[3], SECOND.id), NOW, THIEF, THIEF)
    by_old = introduce(after(chain[3], SECOND.id), NOW, THIEF, FIRST)
    for intruder in (forged, by_old):
        assert [key.id for key in key_chain(rows(chain[0], chain[2], intruder)).keys] == [FIRST.id, SECOND.id]
    assert key_chain(rows(forged)).current is None, "a chain begins with its first record"


def test_a_signature_of_another_text_and_what_is_no_record_count_for_nothing(chain: list[Entry]) -> None:
    found, true = key_chain(rows(chain[0])), chain[1]
    plain = json.loads(true.text)
    moved = canonical(plain | {"seq": 5})
    for text, sig in (
        (moved, true.sig),
        (true.text, chain[0].sig),
        ("{", true.sig),
        ("[]", true.sig),
        (true.text, "é"),
    ):
        assert found.read(text, sig) is None
    bare = canonical({"kind": "promotion", "subject": "x", "seq": 2})

    assert found.read(bare, base64.b64encode(FIRST.sign(bare.encode())).decode()) is None, "signed, and no record"


def test_a_copy_of_a_valid_record_in_the_place_of_another_is_an_altered_record(chain: list[Entry]) -> None:
    """An owner of the database can copy record 1 over record 2: its signature is valid, its place is wrong."""
    found, copied = key_chain(rows(chain[0], chain[2])), [chain[0], chain[0], *chain[2:]]
    stored = [(place, entry.text, entry.sig) for place, entry in enumerate(copied, 1)]
    assert first_altered(found, stored, 0) == first_altered(found, stored[1:], 1) == 2
    assert first_altered(found, [(entry.seq, entry.text, entry.sig) for entry in chain], 0) is None
