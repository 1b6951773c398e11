"""Candidates that passed the gate and wait for a person's approval, by the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from rempart.flows.shared import removals, retirements
from rempart.ledger.port import Evidence, Kind, Ledger

ENDS: tuple[Kind, ...] = ("promotion", "refusal", "rollback")
"""Kinds of evidence after which a version does not wait any more."""
REJECTED = "rejected_by"
"""Key of a refusal: who rejected a version that had passed the gate, or that the platform did, after the deadline."""


def waiting(records: Iterable[Evidence]) -> dict[str, Evidence]:
    """Return the versions of one model that wait for an approval, and the newest record of each. Pure.

    `records`: of kind `approval` and of ENDS, in any order.
    """
    found = dict[str, Evidence]()
    for record in sorted(records, key=lambda record: record.seq):
        version = str(record.body["replaces"] if record.kind == "rollback" else record.body["version"])
        if record.kind == "approval":
            found[version] = record
        else:
            found.pop(version, None)
    return found


def on_record(ledger: Ledger, model: str) -> dict[str, Evidence]:
    """Return the versions that wait since the pipeline was last removed. Raises LedgerError, DatabaseUnavailable."""
    records = [record for kind in ("approval", *ENDS) for record in ledger.find(kind, model)]
    gone = retirements.on_record(ledger, model)
    found = waiting(removals.since(records, removals.removal_of(ledger, model)))
    return {version: record for version, record in found.items() if version not in gone}


def answers_to(ledger: Ledger, model: str, judgement: int) -> list[Evidence]:
    """Return the answers on record that did not decide about a judgement, by its number, oldest first."""
    found = [record for record in ledger.find("answer", model) if record.body["approval"] == judgement]
    return sorted(found, key=lambda record: record.seq)


def rejection(ledger: Ledger, model: str, version: str) -> Evidence | None:
    """Return the refusal by which a version that had passed was rejected, if nothing was decided on it since."""
    kinds: tuple[Kind, ...] = ("approval", *ENDS)
    records = [found for kind in kinds for found in ledger.find(kind, model)]
    since = removals.since(records, removals.removal_of(ledger, model))
    for record in sorted(since, key=lambda record: record.seq, reverse=True):
        if record.kind != "rollback" and str(record.body["version"]) == version:
            return record if REJECTED in record.body else None
    return None
