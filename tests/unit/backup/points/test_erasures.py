"""The register of erasures: pseudonyms, signed entries, and the replacements of rewritten objects."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.points import erasures, references
from rempart.backup.points.erasures import Erasure
from rempart.ledger.keys import signer

SIGNER = signer(bytes(range(32)))
TRUSTED = {SIGNER.id: SIGNER.public}
ONE = Erasure(
    "20260101T120000Z-0000000a",
    datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC),
    "bookings",
    ("a" * 64, "b" * 64),
    "officer",
    "objection",
    "platform-erasures-372d",
    "0001",
)
FILE = erasures.key_of(ONE.id)


def test_an_entry_is_read_as_it_was_written() -> None:
    body = erasures.encode(ONE, SIGNER)
    assert erasures.decode(FILE, body, TRUSTED) == ONE == erasures.from_json(ONE.as_json())
    assert body == erasures.encode(ONE, SIGNER)


@given(at=st.integers(0, 10_000), by=st.integers(1, 255))
def test_i7_any_byte_that_changes_is_noticed(at: int, by: int) -> None:
    body = bytearray(erasures.encode(ONE, SIGNER))
    at %= len(body) - 1  # the line's end says nothing
    body[at] ^= by
    with pytest.raises(ValueError, match=r"."):
        erasures.decode(FILE, bytes(body), TRUSTED)


def test_an_entry_is_believed_in_its_place_and_from_a_trusted_key_alone() -> None:
    body, other = erasures.encode(ONE, SIGNER), signer(bytes(32))
    entries, doubts = erasures.verified(
        [
            (FILE, body),
            (FILE, body),
            (erasures.key_of("20260101T120000Z-0000000b"), body),
            ("erasures/c.json", erasures.encode(replace(ONE, id="c"), SIGNER)),
            ("erasures/d.json", erasures.encode(ONE, other)),
        ],
        TRUSTED,
    )
    assert entries == [ONE]
    assert [why.split(" ")[-1] for why in doubts.values()] == ["place", "place", "trusted"]


def test_pseudonyms_tell_rows_pipelines_and_keys_apart() -> None:
    keys = [(1,), (11,), ("a", "b"), ("ab", ""), ("a", date(2026, 1, 1)), (True,)]
    made = {
        erasures.pseudonym(secret, pipeline, key) for secret in (b"k", b"l") for pipeline in ("p", "q") for key in keys
    }
    assert len(made) == 4 * len(keys)
    assert erasures.pseudonym(b"k", "p", (1,)) == erasures.pseudonym(b"k", "p", (1,))


def rewritten(*steps: tuple[str, str | None]) -> dict[str, object]:
    told = [{"bucket": "lake", "key": old, "to": new, "to_sha256": f"sha {new}" if new else None} for old, new in steps]
    return {"state": "rewritten", "successors": told}


def test_what_was_rewritten_twice_leads_to_what_stands_now() -> None:
    known = erasures.successors([rewritten(("a", "b"), ("x", None)), {"state": "ended"}, rewritten(("b", "c"))])
    assert erasures.standing(known, "lake", "a", "sha a") == ("c", "sha c")
    assert erasures.standing(known, "lake", "x", "sha x") is None
    assert erasures.standing(known, "lake", "other", "sha other") == ("other", "sha other")
    same = erasures.successors([rewritten(("q", "q"))])
    assert erasures.standing(same, "lake", "q", "sha before") == ("q", "sha q")


def test_d5_a_point_refers_to_what_stands_for_a_training_set() -> None:
    held_out = {"bucket": "lake", "key": "h", "sha256": "sha h"}
    dataset = {"bucket": "lake", "key": "a", "sha256": "sha a", "held_out": held_out}
    records = [("m", {"version": "1", "dataset": dataset, "outputs": {}})]
    told = [rewritten(("a", "b"))]
    found = references.of_candidates(records, [("m", "1")], {"lake": "lake"}, told)
    assert [(each.key, each.sha256) for each in found] == [("b", "sha b"), ("h", "sha h")]
    gone = [rewritten(("a", None)), rewritten(("h", None))]
    assert not [*references.of_candidates(records, [("m", "1")], {"lake": "lake"}, gone)]
