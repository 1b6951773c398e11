"""Decide whether a run that an asset started trains, and record which verdict started it and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.flows.training.champions import decisions_on, intended
from rempart.ledger.attributed import Writer, writer
from rempart.ledger.port import Evidence
from rempart.monitoring import retraining
from rempart.monitoring.retraining import TrainingDecision
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)


def decide(platform: Platform, pipeline: ModelPipeline, *, started_by: Collection[str]) -> TrainingDecision:
    """Return whether a run trains, and record the verdict that starts a training.

    `started_by`: `drift` and `features`, the assets whose updates started the run; a run that a person or a time
    started always trains. A repeated call with the same newest verdict starts no second training, and a task that was
    killed after its record goes on, also if there is a newer verdict. Raises LedgerError, DatabaseUnavailable.
    """
    if not started_by:
        return TrainingDecision(True)
    ledger, name = platform.ledger, pipeline.name
    champion = intended(decisions_on(ledger, name))
    declined = []
    if "drift" in started_by:
        known = _retrainings(platform, name)
        if (begun := _begun_by(platform.writer, known)) is not None:
            return TrainingDecision(True, f"verdict {begun} started this run", begun)
        newest = next(iter(ledger.find("monitoring", name, limit=1)), None)
        found = retraining.decide(pipeline.retrain, champion, newest, known, platform.clock())
        if found.verdict is not None and champion is not None:
            if found.verdict not in retraining.starts(known):
                ledger.append("retraining", name, retraining.body(found.verdict, champion))
            logger.info("training starts: %s", found.why)
            return found
        declined.append(found.why)
    if "features" in started_by:
        if pipeline.retrain.on_features or champion is None:
            return TrainingDecision(True)
        declined.append(f"version {champion} is champion, and `retrain.on_features` is off")
    return TrainingDecision(False, "; ".join(declined))


def trained(platform: Platform, name: str, verdict: int, version: str) -> None:
    """Record, once, the candidate of the training that a verdict started. Raises LedgerError, DatabaseUnavailable."""
    known = [record for record in _retrainings(platform, name) if record.body["verdict"] == verdict]
    if not known or any(record.body["version"] == version for record in known):
        return
    champion = str(known[0].body["champion"])
    platform.ledger.append("retraining", name, retraining.body(verdict, champion, version))


def _begun_by(run: Writer | None, retrainings: Iterable[Evidence]) -> int | None:
    """Return the verdict whose training a DAG run has started already; None if it has started none."""
    begun = ((writer(record), int(record.body["verdict"])) for record in retrainings)
    return next((verdict for by, verdict in begun if by and run and (by.dag, by.run) == (run.dag, run.run)), None)


def _retrainings(platform: Platform, name: str) -> list[Evidence]:
    ledger = platform.ledger
    return removals.since(ledger.find("retraining", name), removals.removal_of(ledger, name))
