"""The examination of one record in its place finds every change of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rempart.ledger.chain import Entry
from rempart.ledger.examination import examine
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger


def chain() -> MemoryLedger:
    ledger = MemoryLedger()
    ledger.append("drill", "point", {"ok": True})
    ledger.rotate(signer(bytes([1] * 32)))
    ledger.append("drill", "point", {"ok": False})
    return ledger


def red(entry: Entry, before: Entry | None, ledger: MemoryLedger) -> list[str]:
    return [record.what for record in examine(entry, before, ledger.find("key")) if not record.ok]


def test_each_record_of_a_chain_verifies_in_its_place_also_after_a_new_key() -> None:
    ledger = chain()
    for before, entry in zip([None, *ledger.chain], ledger.chain, strict=False):
        assert red(entry, before, ledger) == []


def changed(entry: Entry) -> Entry:
    return dataclasses.replace(entry, text=entry.text.replace('"ok":false', '"ok":true'))


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (changed, ["hash", "signature"]),
        (lambda entry: dataclasses.replace(entry, hash="0" * 64), ["hash"]),
        (lambda entry: dataclasses.replace(entry, sig="A" * 86 + "=="), ["signature"]),
        (lambda entry: dataclasses.replace(entry, text="{}"), ["form"]),
        (lambda entry: dataclasses.replace(entry, seq=9), ["form"]),
    ],
)
def test_what_was_changed_is_found(tamper: object, expected: list[str]) -> None:
    ledger = chain()
    assert red(tamper(ledger.chain[-1]), ledger.chain[-2], ledger) == expected  # type: ignore[operator] # a callable


def test_a_record_in_another_place_or_by_another_key_is_found() -> None:
    ledger = chain()
    assert red(ledger.chain[-1], ledger.chain[0], ledger) == ["follows"]
    first = [record for record in ledger.find("key") if record.seq == 1]
    found = examine(ledger.chain[-1], ledger.chain[-2], first)
    assert [check.what for check in found if not check.ok] == ["key", "signature"]


def test_pages_of_the_ledger_go_backwards_by_number() -> None:
    ledger = MemoryLedger()
    for number in range(5):
        ledger.append("drill" if number % 2 else "denial", f"s{number}", {})
    assert [record.seq for record in ledger.page(limit=3)] == [6, 5, 4]
    assert [json.loads(record.text)["subject"] for record in ledger.page(kind="drill")] == ["s3", "s1"]
    assert [record.seq for record in ledger.page(before=4, subject="s1")] == [3]
