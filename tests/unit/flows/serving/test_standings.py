"""A reading of the ledger from which a decision vanished: the scorer keeps its champion until a newer decision."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rempart.flows.serving.standings import Standings, with_undecided
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def reading(seq: int, **champions: str) -> Standings:
    return Standings(NOW, seq, {name: {"version": version} for name, version in champions.items()}, {}, (), {})


@pytest.mark.parametrize("found", [{}, {"a": "1"}])
def test_a_champion_stays_if_its_decision_is_gone_and_a_newer_decision_counts(
    found: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = MemoryLedger(signer(bytes(31) + b"1"), lambda: NOW)
    before, names = reading(5, a="2"), ["a"]
    kept = with_undecided(ledger, before, reading(9, **found), names)
    assert kept.champions == {"a": {"version": "2"}} and kept.seq == 9
    assert "version 2 as champion any more" in caplog.text
    assert with_undecided(ledger, before, reading(9, **found), []).champions == reading(9, **found).champions
    for _ in range(6):
        ledger.append("promotion", "a", {"version": "1", "previous": None, "reasons": []})
    assert with_undecided(ledger, before, reading(9, **found), names) == reading(9, **found)
    assert with_undecided(ledger, None, reading(9, **found), names) == reading(9, **found)
