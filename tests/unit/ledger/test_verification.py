"""Verification finds the first fault of an altered export."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ledger.canonical import canonical
from rempart.ledger.chain import Head, checkpoint, extend, introduce
from rempart.ledger.keys import Signer, signer, to_base64
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.verification import LedgerVerdict, verify

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
FIRST, SECOND, STRANGER = signer(bytes(31) + b"1"), signer(bytes(31) + b"2"), signer(bytes(31) + b"3")


def chain(records: int = 8, rotate_at: int | None = None) -> list[str]:
    """The lines of a chain of one key record and `records` more; a rotation before record `rotate_at` of those."""
    ticks = iter(range(10_000))
    ledger = MemoryLedger(FIRST, lambda: NOW + timedelta(seconds=next(ticks)))
    for i in range(records):
        if i == rotate_at:
            ledger.rotate(SECOND)
        ledger.append("decision", f"site {i}", {"i": i, "reasons": ["é", 0.1], "allowed": True})
    return [entry.line for entry in ledger.chain]


def head(lines: list[str], key: Signer = FIRST) -> Head:
    last = json.loads(lines[-1])
    return Head(last["record"]["seq"], last["hash"], key.id)


def resigned(line: str, key_: Signer, /, **changes: object) -> str:
    """A line whose record was changed, hashed and signed anew."""
    text = canonical(json.loads(line)["record"] | changes)
    signature = base64.b64encode(key_.sign(text.encode())).decode()
    return f'{{"hash":"{hashlib.sha256(text.encode()).hexdigest()}","record":{text},"sig":"{signature}"}}'


def rewritten(lines: list[str], at: int, key: Signer, **changes: object) -> list[str]:
    """The chain with record `at` changed and every later one hashed, chained and signed anew: an insider's work."""
    found = lines[: at - 1]
    found.append(resigned(lines[at - 1], key, **changes))
    for line in lines[at:]:
        found.append(resigned(line, key, prev=json.loads(found[-1])["hash"]))
    return found


def judge(lines: list[str], checkpoints: dict[str, str] | None = None, trusted: Signer = FIRST) -> LedgerVerdict:
    return verify(lines, [trusted.public], checkpoints or {})


def assert_broken(verdict: LedgerVerdict, seq: int, message: str) -> None:
    assert verdict.broken is not None
    assert (verdict.broken.seq, message in verdict.broken.what) == (seq, True), verdict.broken
    assert verdict.broken.remedy and not verdict.ok
    assert str(verdict.broken.error()).startswith(f"Record {seq} of the ledger: ")


def test_a_whole_chain_verifies_and_tells_what_it_holds() -> None:
    lines = chain(8)
    verdict = judge(lines, {"a.json": checkpoint(head(lines[:5]), NOW, FIRST)})
    assert verdict.ok and verdict.records == 9 and verdict.covered == 5 and verdict.checkpoints == 1
    assert [(use.id, use.since, use.records) for use in verdict.keys] == [(FIRST.id, 1, 9)]
    assert verdict.hash == json.loads(lines[-1])["hash"]
    assert (verdict.first_at, verdict.last_at) == ("2026-01-05T12:00:00.000000Z", "2026-01-05T12:00:08.000000Z")


def test_overlapping_segments_may_repeat_a_line_but_not_change_it() -> None:
    lines = chain(8)
    assert judge([*lines[:6], *lines[2:]]).ok
    other = rewritten(lines, 4, FIRST, subject="other")
    assert_broken(judge([*lines[:6], *other[2:]]), 4, "two different records")


def test_after_a_rotation_old_records_verify_and_the_old_key_signs_no_more() -> None:
    lines = chain(6, rotate_at=3)
    verdict = judge(lines, {"a": checkpoint(head(lines, SECOND), NOW, SECOND)})
    assert verdict.ok and [(u.id, u.since, u.records) for u in verdict.keys] == [(FIRST.id, 1, 5), (SECOND.id, 5, 3)]
    assert_broken(judge([*lines[:5], resigned(lines[5], FIRST, key=FIRST.id)]), 6, "signs since record 5")
    assert_broken(judge(lines, {"a": checkpoint(head(lines, FIRST), NOW, FIRST)}), 8, "forged")


def test_a_key_that_no_trusted_chain_introduced_is_refused() -> None:
    assert_broken(judge(chain(3), trusted=STRANGER), 1, "which you do not trust")
    lines = chain(3)
    handover = introduce(head(lines), NOW, STRANGER, STRANGER)
    assert_broken(judge([*lines, handover.line]), 5, "no record introduces another key")
    own = extend(head(lines), NOW, "key", SECOND.id, {"public": to_base64(STRANGER.public)}, FIRST)
    assert_broken(judge([*lines, own.line]), 5, "whose id does not match its public half")
    headless = extend(Head(), NOW, "decision", "x", {}, FIRST)
    assert_broken(judge([headless.line]), 1, "does not introduce the key that signs it")


@pytest.mark.parametrize("seq", [1, 4, 9])
def test_a_changed_field_is_found(seq: int) -> None:
    lines = chain(8)
    lines[seq - 1] = lines[seq - 1].replace('"v":1', '"v":1 ') if seq == 1 else lines[seq - 1].replace("site", "Site")
    assert_broken(judge(lines), seq, "canonical" if seq == 1 else "the record was changed")


def test_a_changed_record_with_a_new_hash_and_no_key_is_found() -> None:
    lines = chain(8)
    forged = json.loads(resigned(lines[3], STRANGER, subject="other"))
    assert_broken(judge([*lines[:3], resigned(lines[3], STRANGER, subject="other"), *lines[4:]]), 4, "signature")
    assert forged["record"]["key"] == FIRST.id
    assert_broken(
        judge([*lines[:3], resigned(lines[3], STRANGER, key=STRANGER.id), *lines[4:]]),
        4,
        "no record introduces another key",
    )


def test_a_deleted_record_is_found() -> None:
    lines = chain(8)
    assert_broken(judge(lines[:3] + lines[4:]), 4, "record 5 is in its place")
    assert_broken(judge(lines[1:]), 1, "missing")
    assert_broken(judge([]), 1, "the chain has no record")


def test_reordered_records_are_found() -> None:
    lines = chain(8)
    assert_broken(judge([*lines[:4], lines[5], lines[4], *lines[6:]]), 5, "record 6 is in its place")
    renumbered = [resigned(lines[5], FIRST, seq=5), resigned(lines[4], FIRST, seq=6)]
    assert_broken(judge([*lines[:4], *renumbered]), 5, "does not follow")


def test_a_cut_tail_is_found_by_a_checkpoint_and_a_forged_one_does_not_help() -> None:
    lines = chain(8)
    kept = {"9": checkpoint(head(lines), NOW, FIRST)}
    assert judge(lines[:6]).ok, "without a checkpoint nothing is missed"
    assert_broken(judge(lines[:6], kept), 7, "its end was removed")
    forged = checkpoint(head(lines[:6]), NOW, STRANGER)
    assert_broken(judge(lines[:6], {"6": forged}), 6, "forged")
    assert_broken(judge(lines[:6], {"6": forged.replace(STRANGER.id, FIRST.id)}), 6, "forged")
    assert_broken(judge(lines[:6], kept | {"6": checkpoint(head(lines[:6]), NOW, FIRST)}), 7, "its end was removed")


def test_history_rewritten_with_the_key_is_found_by_the_checkpoints_alone() -> None:
    lines = chain(8)
    witnessed = {str(n): checkpoint(head(lines[:n]), NOW, FIRST) for n in (3, 6)}
    insiders = rewritten(lines, 5, FIRST, body={"allowed": False})
    assert judge(insiders).ok, "with the key, the chain itself is perfect"
    assert_broken(judge(insiders, witnessed), 6, "history was rewritten")
    own = {"6b": checkpoint(head(insiders[:6]), NOW, FIRST)}
    assert_broken(judge(insiders, witnessed | own), 6, "history was rewritten")
    assert judge(rewritten(lines, 7, FIRST, subject="x"), witnessed).ok, "after the newest checkpoint is the window"


@pytest.mark.parametrize("text", ["", "{}", "[]", "\udcff", '{"checkpoint":{"v":1},"sig":"' + "A" * 86 + '=="}'])
def test_a_checkpoint_that_is_none_is_named(text: str) -> None:
    verdict = judge(chain(3), {"odd.json": text})
    assert verdict.broken and "odd.json" in verdict.broken.what and verdict.broken.seq == 0


@pytest.mark.parametrize(
    "line", ["x", "{}", '{"hash":"","record":{},"sig":""}', "\udcff" * 9, '{"record":' + "[" * 9999]
)
def test_a_line_that_is_none_is_named_by_its_place(line: str) -> None:
    lines = chain(3)
    assert_broken(judge([*lines[:2], line, *lines[2:]]), 3, "line")


@given(st.integers(0, 8), st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_passes(record: int, place: int, value: int) -> None:
    lines = LINES.copy()
    data = bytearray(lines[record].encode())
    if data[place % len(data)] == value:
        return
    data[place % len(data)] = value
    lines[record] = data.decode(errors="surrogateescape")
    verdict = judge(lines)
    assert verdict.broken and verdict.broken.seq in (record + 1, record + 2)


def test_a_signature_in_another_spelling_of_the_same_bytes_does_not_pass() -> None:
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    at = LINES[4].rindex("==") - 1
    alike = {letter for letter in letters if letters.index(letter) // 16 == letters.index(LINES[4][at]) // 16}
    assert len(alike) == 16
    for letter in alike - {LINES[4][at]}:
        verdict = judge([*LINES[:4], LINES[4][:at] + letter + LINES[4][at + 1 :], *LINES[5:]])
        assert verdict.broken and verdict.broken.seq == 5


@given(st.lists(st.integers(0, 8), max_size=12))
def test_only_the_whole_chain_in_its_order_passes(order: list[int]) -> None:
    # a line that was there before may be repeated, and nothing else
    growing = [n for i, n in enumerate(order) if n not in order[:i]]
    verdict = judge([LINES[n] for n in order])
    assert verdict.ok == (growing == list(range(len(growing))) and bool(growing))


LINES = chain(8)
