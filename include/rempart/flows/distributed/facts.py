"""Facts that jobs tell beside their objects, by kind of work. Pure: from a result, and refused if malformed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from rempart.errors import SparkError
from rempart.settings.schema import Strict
from rempart.sovereignty.job_permission import SHA256
from rempart.spark.order import MadeObject, SparkResult

F = TypeVar("F", bound=BaseModel)
Count = Annotated[int, Field(ge=0)]
Content = tuple[Count, Annotated[str, Field(pattern=SHA256)]]
"""Number of rows, and their hash."""


class DeliveryFacts(Strict):
    """Numbers of rows of one delivery, by their outcome. `fault`: why it could not be read as a whole."""

    good: Count
    judged: Count
    refused: Count
    fault: str | None
    replaced: Count
    repeated: Count


class PartitionFacts(Strict):
    """Rows and hash of one changed partition before and now. `whole`: all its rows are in new parts."""

    had: Content
    has: Content
    whole: bool


class IngestFacts(Strict):
    """Facts of an ingestion: each delivery in the order's order, positions of held-back ones, changed partitions."""

    deliveries: tuple[DeliveryFacts, ...]
    held: frozenset[Count]
    partitions: dict[str, PartitionFacts]


class PartFacts(Strict):
    """Facts of one new part of a snapshot."""

    partition: str


class RefusedFacts(Strict):
    """Facts of one object of refused rows: the position of its delivery."""

    delivery: Count


class Missing(Strict):
    """The error of labels that no row has."""

    what: str
    hint: str


class Labels(Strict):
    """Rows by the state of their label (`label_feed.LabelCounts`)."""

    labelled: Count
    missing: Count
    not_yet: Count
    too_early: Count


class TrainingSetFacts(Strict):
    """Facts of a training set: its rows, rows without their own target, and rows by the state of their label. Or one of
    the others alone: a column whose sums need PostgreSQL, or the error of missing labels.
    """

    examples: Count = 0
    open: Count = 0
    labels: Labels | None = None
    inexact: str | None = None
    missing: Missing | None = None


def of_result(kind: type[F], result: SparkResult) -> F:
    """Return the facts of a result. Raises SparkError, which names the job."""
    return _read(kind, result, result.facts, "facts")


def of_object(kind: type[F], result: SparkResult, made: MadeObject) -> F:
    """Return the facts of an object of a result. Raises SparkError, which names the job."""
    return _read(kind, result, made.facts, f"facts of an object of role '{made.role[:20]}'")


def ingested(result: SparkResult, deliveries: int) -> IngestFacts:
    """Return the facts of an ingestion of some deliveries. Raises SparkError for another number of them."""
    found = of_result(IngestFacts, result)
    if len(found.deliveries) != deliveries or any(position >= deliveries for position in found.held):
        raise malformed(result, "facts", f"they tell of {len(found.deliveries)} deliveries, not {deliveries}")
    return found


def malformed(result: SparkResult, which: str, why: str) -> SparkError:
    """Return the error of facts that cannot be used."""
    return SparkError(
        f"read the result of job {result.order_id}: its {which} are not those of its work: {why}",
        "Nothing was committed. Run `make setup-spark`, then run again. If this repeats, report it as a bug.",
    )


def _read(kind: type[F], result: SparkResult, facts: Mapping[str, Any], which: str) -> F:
    try:
        return kind.model_validate(dict(facts))
    except ValidationError as cause:  # it quotes values
        faults = "; ".join(f"{[*e['loc'], '(whole)'][0]}: {e['type']}"[:80] for e in cause.errors()[:3])
        raise malformed(result, which, faults) from None
