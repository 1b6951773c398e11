"""A job's record: a second writer reads the record of the first."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rempart.errors import TrainingError
from rempart.training.attempts.record import Record, read_order
from rempart.training.placement import Attempt
from tests.unit.training import stage
from tests.unit.training.test_job import spec

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
BY = {"dag": "train_rooms", "run": "manual", "task": "run"}


@pytest.fixture
def record() -> Record:
    return Record(stage.memory_site(), spec())


def test_what_was_ordered_is_read_back(record: Record) -> None:
    key = record.order()
    assert record.order() == key
    assert read_order(record.site, "artifacts", key).spec == record.spec


def test_of_two_who_begin_or_end_an_attempt_one_wins(record: Record) -> None:
    assert record.begin(1, "a", NOON, BY)
    assert not record.begin(1, "b", NOON, BY)
    assert record.attempts() == [Attempt(1, "a", NOON)]
    assert record.end(1, "capacity", "full", NOON, None)
    assert not record.end(1, "succeeded", "", NOON, {"pool": "a"})
    assert record.attempts() == [Attempt(1, "a", NOON, "capacity", NOON, "full")]


def test_where_the_attempt_that_succeeded_ran(record: Record) -> None:
    assert record.ran() is None
    record.begin(1, "a", NOON, BY)
    record.end(1, "interrupted", "evicted", NOON, {"pool": "a"})
    record.begin(2, "b", NOON, BY)
    assert record.admitted(2) is None
    assert record.admit(2, {"pool": "b", "node": "n1"})
    assert record.admitted(2) == {"pool": "b", "node": "n1"}
    record.end(2, "succeeded", "", NOON, {"pool": "b", "node": "n1", "seconds": 3})
    assert record.ran() == {"pool": "b", "node": "n1", "seconds": 3}
    assert record.result() is None


def test_each_attempt_that_got_a_node_counts_for_the_cost(record: Record) -> None:
    record.begin(1, "a", NOON, BY)
    record.end(1, "capacity", "full", NOON, None)
    for number, seconds in ((2, {"seconds": 30.0}), (3, {}), (4, {"seconds": 5.0})):
        record.begin(number, "a", NOON, BY)
        record.admit(number, {"pool": "a", "gpus": 1})
        if number != 3:
            record.end(number, "interrupted", "", NOON, {"pool": "a", "gpus": 1, **seconds})
    assert [ran.get("seconds") for ran in record.admitted_attempts()] == [30.0, None, 5.0]


@pytest.mark.parametrize("body", [b"not json", b"[]", b"{}", b'{"pool": "a", "started": "yesterday"}'])
def test_a_record_that_is_not_as_written_is_named_and_nothing_is_guessed(record: Record, body: bytes) -> None:
    record.site.write("artifacts", record.spec.key("attempts/000001.json"), body)
    with pytest.raises(TrainingError, match=r"attempts/000001\.json") as refused:
        record.attempts()
    assert "delete the object" in refused.value.hint


def test_an_outcome_that_is_not_known_is_no_success(record: Record) -> None:
    record.begin(1, "a", NOON, BY)
    record.site.write(
        "artifacts", record.spec.key("attempts/000001.end.json"), b'{"outcome":"fine","ended":"2026-11-01"}'
    )
    with pytest.raises(TrainingError):
        record.attempts()
