"""A version is opened only if the ledger tells that it was trained here, since the model was removed last."""

from __future__ import annotations

import pytest

from rempart.errors import ModelRefused
from rempart.flows.training.candidates.record import trained_version
from rempart.ledger.memory import MemoryLedger


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
    record = ledger.append("candidate", "trips", {"version": "1"})
    assert trained_version(ledger, "trips", "1").seq == record.seq
