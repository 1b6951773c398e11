"""Derive classifications: derived data has its source's classification until a declared step lowers it.

A step is declared in the pipeline file (`lowered`) by the sequence number of a ledger record of kind `classification`,
which says who judged what, and why. Without both, nothing is lowered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rempart.errors import ConfigError, PlacementDenied
from rempart.settings.sections import Classification

ORDER: tuple[Classification, ...] = ("public", "internal", "personal", "sensitive")
"""From the least to the most protected."""


def may_be_personal(classification: str) -> bool:
    """Return whether data of a classification may be about persons."""
    return classification in ("personal", "sensitive")


def named(text: str) -> Classification:
    """Return a classification by its name. Raises ConfigError."""
    found = next((level for level in ORDER if level == text), None)
    if found is None:
        raise ConfigError(f"'{text}' is not a classification", f"Choose one of: {', '.join(ORDER)}.")
    return found


def highest(classifications: Iterable[Classification]) -> Classification:
    """Return the highest of several classifications; `sensitive` for none, as for unknown."""
    return max(classifications, key=ORDER.index, default="sensitive")


@dataclass(frozen=True)
class Lowering:
    """A declared step: what is derived (`features` or `model`), what it may count as, and the record that says why."""

    derived: str
    to: Classification
    evidence: int


def derived(source: Classification, lowering: Lowering | None, record: Mapping[str, Any] | None) -> Classification:
    """Return the classification of data derived from `source`.

    `record` is the body of the named ledger record, or None if there is none of kind `classification`. Raises
    PlacementDenied if the record differs from the declared step.
    """
    if lowering is None:
        return source
    wanted = {"from": source, "derived": lowering.derived, "to": lowering.to}
    found = {key: (record or {}).get(key) for key in wanted}
    if found != wanted:
        raise PlacementDenied(
            f"lowered.{lowering.derived}: record {lowering.evidence} of the ledger does not attest "
            f"{source} → {lowering.to} of {lowering.derived}",
            "Record the decision with `rempart policy lower-classification`, and put the record's number into the "
            "pipeline file.",
        )
    return min(source, lowering.to, key=ORDER.index)
