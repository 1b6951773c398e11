"""A pipeline's quarantine by delivery, and the results of each expectation over time. Counts alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rempart.errors import PipelineError
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.deliveries import HELD_BACK, REFUSED, comings
from rempart.ingestion.reading import EMPTY, NO_ROWS
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import DerivedSource
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.feature_store.views import FeatureView, feature_views
from rempart.web.read_models.messages import Moment, State, moment
from rempart.web.read_models.model_versions import LastScoring, last_scoring

SHOWN = 120
"""So many deliveries of an expectation's history at most, the newest."""
DERIVED_AGAIN = "derived again since"
"""Outcome of a derived delivery that is not the newest: all its rows were derived and judged again."""


@dataclass(frozen=True)
class Delivery:
    """Outcome of a delivery the last time that it was taken in; `again` says how often that was done again.

    It is known by its SHA-256: how its file was called is not in the ledger. `quarantined`: its rows that wait in
    quarantine now. `earlier`: its outcomes when the same bytes were delivered before, newest first; of these no row
    waits any more, because each row was judged again when the bytes came again.
    """

    sha256: str
    landed_at: datetime
    seq: int
    outcome: str
    fault: str | None
    delivered: int
    accepted: int
    repeated: int
    quarantined: int
    reasons: Mapping[str, int]
    again: int
    replaced: int = 0
    earlier: tuple[Delivery, ...] = ()

    @property
    def held_back(self) -> bool:
        """Return whether its good rows wait in quarantine until a person accepts the delivery."""
        return self.outcome == HELD_BACK

    @property
    def refused(self) -> bool:
        """Return whether no row was accepted although the delivery has content."""
        return self.outcome == REFUSED and self.fault not in (EMPTY, NO_ROWS)

    @property
    def good(self) -> int:
        """Return the rows that are in quarantine only because the delivery is held back."""
        return self.reasons.get(HELD, 0)


@dataclass(frozen=True)
class Result:
    """Result of an expectation for the rows of one delivery. `share`: of `judged` rows; None if there were none."""

    sha256: str
    landed_at: datetime
    judged: int
    unexpected: int
    share: float | None
    state: State


@dataclass(frozen=True)
class Expectation:
    """One expectation, identified by the reason that it gives for a row.

    `history` is oldest first; `state` is the state of the newest delivery.
    """

    reason: str
    expect: str | None
    columns: tuple[str, ...]
    judged: int
    unexpected: int
    state: State
    history: tuple[Result, ...]

    @property
    def has_plot(self) -> bool:
        """Return whether a row broke the expectation, or whether none did is unknown of a delivery."""
        return any(result.state != "good" for result in self.history)


@dataclass(frozen=True)
class Quality:
    """The page's content. `known` is false if the ledger did not answer: then no delivery is listed. `features`: the
    views of a pipeline with a model.

    `quarantined`: rows that wait in quarantine now. `earlier` of them are of deliveries that the facts do not reach;
    only the site has details about these. `whole`: deliveries that were refused as a whole, such as files without a
    column: their rows are not counted.
    """

    moment: Moment
    pipeline: str
    classification: str | None
    known: bool
    deliveries: int
    quarantined: int
    earlier: int
    in_quarantine: tuple[Delivery, ...]
    whole: tuple[Delivery, ...]
    taken_again: tuple[Delivery, ...]
    expectations: tuple[Expectation, ...]
    features: tuple[FeatureView, ...] = ()
    scoring: LastScoring | None = None


def quality(facts: CockpitFacts, pipeline: str, now: datetime) -> Quality | None:
    """Return the page of a pipeline; None if neither a file nor the ledger knows it."""
    pipelines = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    found = deliveries(facts, pipeline)
    if pipeline not in pipelines and not found and not isinstance(facts.pipelines, Unknown):
        return None
    spec, earlier = pipelines.get(pipeline), _earlier(facts).get(pipeline, 0)
    return Quality(
        moment(facts, now),
        pipeline,
        None if spec is None or isinstance(spec, PipelineError) else spec.classification,
        not isinstance(facts.evidence, Unknown),
        len(found),
        _waiting(found, earlier),
        earlier,
        tuple(delivery for delivery in found if delivery.quarantined),
        tuple(delivery for delivery in found if delivery.refused and not delivery.quarantined),
        tuple(delivery for delivery in found if delivery.again and not delivery.quarantined),
        expectations(facts, pipeline),
        feature_views(facts, pipeline, now),
        last_scoring(facts, pipeline),
    )


def deliveries(facts: CockpitFacts, pipeline: str) -> tuple[Delivery, ...]:
    """Return each delivery of a pipeline with evidence, in its present state, newest first."""
    told: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for seq, delivery in _told(facts, pipeline):
        told.setdefault(str(delivery["sha256"]), []).append((seq, delivery))
    found = sorted(map(_of_bytes, told.values()), key=lambda each: (each.landed_at, each.sha256), reverse=True)
    file = None if isinstance(facts.pipelines, Unknown) else facts.pipelines.get(pipeline)
    if isinstance(file, Pipeline) and isinstance(file.source, DerivedSource):
        found[1:] = [replace(each, outcome=DERIVED_AGAIN, quarantined=0, reasons={}) for each in found[1:]]
    return tuple(found)


def rows(facts: CockpitFacts) -> dict[str, int]:
    """Return the number of rows that wait in quarantine now, by pipeline, as far as the facts reach.

    The evidence has counts and no keys. So a row waits until its own delivery was judged again and the row accepted, or
    the pipeline was reset or removed. A row that another delivery corrected, or that was erased, stays counted.
    """
    earlier = _earlier(facts)
    named = {*earlier, *(record.subject for record in facts.standing("deliveries"))}
    return {name: _waiting(deliveries(facts, name), earlier.get(name, 0)) for name in named}


def _waiting(found: Iterable[Delivery], earlier: int) -> int:
    return earlier + sum(delivery.quarantined for delivery in found)


def expectations(facts: CockpitFacts, pipeline: str) -> tuple[Expectation, ...]:
    """Return the results of each expectation at the first ingestion of deliveries, in the order of the newest
    record.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for _, delivery in _told(facts, pipeline):
        if not delivery.get("again") and "unexpected" in delivery:
            first.setdefault(str(delivery["sha256"]), delivery)
    rules: dict[str, Mapping[str, Any]] = {}
    for record in facts.standing("deliveries"):
        if record.subject == pipeline:
            for rule in record.body["expectations"]:
                rules.setdefault(str(rule["reason"]), rule)
    ordered = sorted(first.values(), key=lambda delivery: (str(delivery["landed_at"]), str(delivery["sha256"])))
    return tuple(_expectation(reason, rule, ordered) for reason, rule in rules.items())


def _expectation(reason: str, rule: Mapping[str, Any], ordered: list[Mapping[str, Any]]) -> Expectation:
    history = tuple(
        _result(delivery, int(delivery["unexpected"][reason]))
        for delivery in ordered
        if reason in delivery["unexpected"]
    )
    return Expectation(
        reason,
        str(rule["expect"]),
        tuple(str(column) for column in rule["columns"]),
        sum(result.judged for result in history),
        sum(result.unexpected for result in history),
        history[-1].state if history else "unknown",
        history[-SHOWN:],
    )


def _result(delivery: Mapping[str, Any], unexpected: int) -> Result:
    judged = int(delivery["judged"])
    share = unexpected / judged if judged else None
    state: State = "unknown" if share is None else "warning" if unexpected else "good"
    return Result(
        str(delivery["sha256"]), datetime.fromisoformat(delivery["landed_at"]), judged, unexpected, share, state
    )


def _told(facts: CockpitFacts, pipeline: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield outcomes of deliveries with the number of their record, newest first."""
    for record in facts.standing("deliveries"):
        if record.subject == pipeline:
            yield from ((record.seq, delivery) for delivery in record.body["deliveries"])


def _earlier(facts: CockpitFacts) -> dict[str, int]:
    """Return the number of rows in quarantine from snapshots without evidence of their deliveries, by pipeline.

    The rows of such a delivery that was judged again since count with that outcome, and not here.
    """
    told = {
        delivery.get("snapshot") for record in facts.standing("deliveries") for delivery in record.body["deliveries"]
    }
    counts: dict[str, int] = {}
    for record in facts.standing("snapshot"):
        if "snapshot" in record.body and record.body["snapshot"] not in told:
            counts[record.subject] = counts.get(record.subject, 0) + int(record.body.get("quarantined", 0))
    return {name: max(0, count - _judged_since(facts, name)) for name, count in counts.items()}


def _judged_since(facts: CockpitFacts, pipeline: str) -> int:
    """Return the rows that were in quarantine when deliveries were judged again whose first outcome is not reached."""
    oldest = {str(delivery["sha256"]): delivery for _, delivery in _told(facts, pipeline)}
    before = ("quarantined", "added", "added_repeated")
    return sum(sum(int(each.get(name, 0)) for name in before) for each in oldest.values() if each.get("again"))


def _of_bytes(told: Sequence[tuple[int, Mapping[str, Any]]]) -> Delivery:
    """Return the delivery of these bytes, from all its outcomes with the numbers of their records, newest first."""
    newest, *earlier = map(_delivery, comings([{**outcome, "seq": seq} for seq, outcome in told]))
    return replace(newest, earlier=tuple(earlier))


def _delivery(delivery: Mapping[str, Any]) -> Delivery:
    return Delivery(
        str(delivery["sha256"]),
        datetime.fromisoformat(delivery["landed_at"]),
        int(delivery["seq"]),
        str(delivery["outcome"]),
        delivery["fault"],
        int(delivery["delivered"]),
        int(delivery["accepted"]),
        int(delivery.get("repeated", 0)),
        int(delivery["quarantined"]),
        dict(sorted(delivery["reasons"].items(), key=lambda reason: (-reason[1], reason[0]))),
        int(delivery.get("again", 0)),
        int(delivery.get("replaced", 0)),
    )
