"""A version is opened only if the ledger tells that it was trained here, since the model was removed last."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rempart.errors import ModelRefused
from rempart.flows.training.candidates import record
from rempart.flows.training.candidates.record import MeasuredVersion, trained_version
from rempart.ledger.memory import MemoryLedger
from rempart.training.gpus.cost import NOTHING_SPENT
from rempart.training.job import parse_result
from tests.unit.training import test_job

NOW = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)


def test_the_newest_training_of_a_version_counts() -> None:
    ledger = MemoryLedger()
    for version, job in (("1", "a"), ("1", "b"), ("2", "c")):
        ledger.append("candidate", "trips", {"version": version, "job_id": job})
    ledger.append("candidate", "hires", {"version": "1", "job_id": "d"})
    assert trained_version(ledger, "trips", "1").body["job_id"] == "b"


def test_a_version_without_evidence_is_refused() -> None:
    ledger = MemoryLedger()
    ledger.append("candidate", "trips", {"version": "1"})
    with pytest.raises(ModelRefused, match="no evidence that model trips version 2 was trained here"):
        trained_version(ledger, "trips", "2")


def test_a_version_of_a_removed_model_is_not_one_of_its_successor() -> None:
    ledger = MemoryLedger()
    ledger.append("candidate", "trips", {"version": "1"})
    ledger.append("removal", "trips", {"what": "remove"})
    with pytest.raises(ModelRefused, match="was trained here"):
        trained_version(ledger, "trips", "1")
    again = ledger.append("candidate", "trips", {"version": "1"})
    assert trained_version(ledger, "trips", "1").seq == again.seq


def test_a_training_that_finds_the_version_of_an_earlier_run_says_which_and_when() -> None:
    ledger, spec = MemoryLedger(clock=lambda: NOW), test_job.spec()
    result = parse_result(test_job.result().encode(), spec.job_id)
    version = MeasuredVersion({"mae": 9.0}, 4, "2", "personal", 1, {})
    first, again = (
        record.write(ledger, spec, result, version, ran=None, spent=NOTHING_SPENT, verdict=None) for _ in range(2)
    )
    assert first is None and again is not None and len(ledger.find("candidate")) == 1
    told = record.reused(again)
    assert told.startswith("version 2 was trained already, by the same recipe on the same rows")
    assert told.endswith(f"run {result.run_id} in MLflow, on 2026-03-01 12:05 UTC")
