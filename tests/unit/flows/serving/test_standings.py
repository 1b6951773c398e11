"""A reading of the ledger from which a decision vanished: the scorer keeps its champion until a newer decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rempart.flows.serving import standings
from rempart.flows.serving.standings import Standings, with_undecided
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import load_all

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def reading(seq: int, decided: int, **champions: str) -> Standings:
    shown = {name: {"version": version} for name, version in champions.items()}
    return Standings(NOW, seq, shown, {}, (), {}, {"a": decided})


@pytest.mark.parametrize("found", [{}, {"a": "1"}])
def test_a_champion_stays_if_its_decision_is_gone_and_a_newer_decision_counts(
    found: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    before, names = reading(5, 4, a="2"), ["a"]
    altered = replace(reading(9, 2, **found), shadows={"a": {"version": "2"}})
    kept = with_undecided(before, altered, names)
    assert kept.champions == {"a": {"version": "2"}} and kept.seq == 9 and kept.decided == {"a": 4}
    assert not kept.shadows, "a version does not shadow itself"
    assert "version 2 as champion any more" in caplog.text
    assert with_undecided(kept, reading(12, 2, **found), names).champions == kept.champions, "nor after the next look"
    assert with_undecided(before, reading(9, 2, **found), []).champions == reading(9, 2, **found).champions
    assert with_undecided(kept, reading(13, 13, **found), names) == reading(13, 13, **found)
    assert with_undecided(None, reading(9, 2, **found), names) == reading(9, 2, **found)


def test_a_decision_counts_although_forged_records_were_read_before_it() -> None:
    """Records 5 to 8 were forged, and removed. The promotion after that has number 6."""
    before, after = reading(8, 4, a="1"), reading(9, 6, a="2")
    assert with_undecided(before, after, ["a"]).champions == {"a": {"version": "2"}}


def test_a_reading_tells_the_record_that_decided_also_after_a_removal_and_from_disk(tmp_path: Path) -> None:
    ledger = MemoryLedger(signer(bytes(31) + b"1"), lambda: NOW)
    name, pipelines = next(
        (name, {name: found}) for name, found in load_all().items() if isinstance(found, ModelPipeline)
    )
    ledger.append("candidate", name, {"version": "1", "files": {}})
    promoted = ledger.append("promotion", name, {"version": "1", "previous": None, "reasons": []}).seq
    ledger.append("drill", "another", {})
    first = standings.read(ledger, pipelines, (), NOW)
    assert first.decided == {name: promoted} and first.champions[name]["version"] == "1"
    standings.keep(first, tmp_path)
    assert standings.kept(tmp_path) == first
    removed = ledger.append("removal", name, {"id": "1", "what": "remove", "state": "ended"}).seq
    after = standings.read(ledger, pipelines, (), NOW)
    assert after.decided == {name: removed} and not with_undecided(first, after, pipelines).champions
