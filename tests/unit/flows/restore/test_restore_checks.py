"""Checks of a restored service, tested without a server."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.drill.checks import RestoreCheck
from rempart.errors import BackupError
from rempart.features.plan import entity_key, view_tables
from rempart.flows.restore.restore import RestoreResult
from rempart.flows.restore.restore_checks import key_columns, ledger_verifies
from rempart.flows.restore.restore_command import lines
from rempart.flows.restore.restore_objects import Bringer
from rempart.flows.restore.restore_refusals import refuse_red
from rempart.ledger.memory import MemoryLedger
from rempart.settings import pipelines
from rempart.settings.pipeline import Pipeline
from tests.restorable import house

PIPELINE = pipelines.named("hotel_bookings")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)


@given(st.data())
def test_the_columns_of_a_key_come_back_from_what_was_joined(data: st.DataObject) -> None:
    for table in view_tables(PIPELINE):
        key = {name: _value(data, PIPELINE, name) for name in table.by}
        joined = entity_key(table, PIPELINE, key)
        assert entity_key(table, PIPELINE, key_columns(PIPELINE, table, joined)) == joined


def _value(data: st.DataObject, pipeline: Pipeline, name: str) -> object:
    kind = pipeline.columns[name].type
    if kind == "integer":
        return data.draw(st.integers(-(2**62), 2**62))
    return data.draw(st.booleans()) if kind == "boolean" else data.draw(TEXTS)


def test_the_restored_ledger_must_end_where_the_signed_manifest_says_or_later() -> None:
    made = house()
    made.point()
    ledger = MemoryLedger()
    assert ledger_verifies(ledger, made.open().manifest.ledger_head).ok is None
    for number in range(4):
        ledger.append("policy", "rempart.yaml", {"number": number})
    head = list(ledger.entries())[2]
    at_head = (head.seq, head.hash)
    assert ledger_verifies(ledger, at_head).ok is True
    assert ledger_verifies(ledger, (9, head.hash)).ok is False
    assert ledger_verifies(ledger, (head.seq, "0" * 64)).ok is False
    ledger.chain[1] = dataclasses.replace(
        ledger.chain[1], text=ledger.chain[1].text.replace('"number":0', '"number":7')
    )
    broken = ledger_verifies(ledger, at_head)
    assert broken.ok is False and broken.detail.startswith("record 2:")


def test_the_end_is_told_in_seconds() -> None:
    result = RestoreResult(True, "p", (), {"objects": 1.25}, 61.0, 300.0, ("mlflow",), 3, 9, {"replica": 3}, {})
    assert list(lines(result)) == [
        "seconds: 61.0 = objects 1.2 + other 59.8",
        "restore point p is restored: 1 database, 3 objects, in 61 s; the restore point was 5 min 00 s old",
    ]
    assert "objects, in 0.4 s;" in list(lines(dataclasses.replace(result, rto_seconds=0.4)))[1]


@given(st.dictionaries(st.sampled_from("abc"), st.floats(0, 100), max_size=3), st.floats(0, 50))
def test_the_parts_add_up_to_the_seconds_that_are_told(steps: dict[str, float], rest: float) -> None:
    total = sum(steps.values()) + rest
    result = RestoreResult(True, "p", (), steps, total, 300.0, (), 3, 9, {}, {})
    told, _, parts = next(lines(result)).removeprefix("seconds: ").partition(" = ")
    assert float(told) == pytest.approx(total, abs=0.3)
    assert sum(float(part.split()[1]) for part in parts.split(" + ") if part) == pytest.approx(float(told), abs=0.01)


def test_a_bringer_does_nothing_for_nothing() -> None:
    made = house()
    brought = Bringer(None, made.primary, lambda name: name).bring(())  # type: ignore[arg-type] # it needs no copy
    assert brought.served == {}


def test_no_service_is_opened_on_data_that_is_not_as_on_record() -> None:
    what = "database mlflow is restored with the rows on record"
    red = RestoreCheck(what, False, "differs: public.runs: 1 instead of 2")
    with pytest.raises(BackupError, match=r"the services stay closed:\ndatabase mlflow .* 1 instead of 2"):
        refuse_red([RestoreCheck("x", True, ""), RestoreCheck("y", None, "not run"), red], force=False)
    refuse_red([red], force=True)
    refuse_red([RestoreCheck("y", None, "not run")], force=False)
