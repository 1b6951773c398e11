"""Keep a version's model card when it is judged: in the ledger, at the site, and at its run in MLflow."""

from __future__ import annotations

import hashlib
import logging

from rempart.flows.shared import removals, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.explained.gather import gather
from rempart.ledger.port import Evidence, Ledger
from rempart.models.card import facts
from rempart.models.card.facts import Card
from rempart.models.card.page import page
from rempart.settings.pipeline import ModelPipeline
from rempart.sites import once
from rempart.training import experiment

logger = logging.getLogger(__name__)
FILE = "model-card.html"


def keep(platform: Platform, pipeline: ModelPipeline, version: str) -> Card:
    """Make the card of a version and keep it, unless the newest card on record is the same. Safe to repeat.

    The record has the card's facts, and the SHA-256 of the page in the job's folder at the active site. Raises the
    errors of `gather`, SiteFenced, TrackingUnavailable, TrackingRefused.
    """
    active, name, ledger = platform.active(), pipeline.name, platform.ledger
    card = gather(platform, pipeline, version)
    body = page(card).encode()
    digest = hashlib.sha256(body).hexdigest()
    key = f"jobs/{card.job_id}/model-card-{digest[:16]}.html"
    site = platform.active_site(pipeline.classification, active)
    with platform.committing(active):
        retirements.check_kept(ledger, name, version, "keep the model card")
        once.keep(site, platform.config.buckets.artifacts, key, body, metadata={}, content_type="text/html")
        newest = kept(ledger, name, version)
        if newest is None or newest.body["sha256"] != digest:
            told = {"version": version, "key": key, "sha256": digest, "card": facts.as_json(card)}
            ledger.append("model-card", subject(name, version), told)
    experiment.log_files(platform.tracking(), card.run_id, {FILE: body})
    logger.info("kept the model card of version %s of model '%s' as %s", version, name, key)
    return card


def kept(ledger: Ledger, name: str, version: str) -> Evidence | None:
    """Return the newest card on record of a version, or None. Raises LedgerError, DatabaseUnavailable."""
    found = ledger.find("model-card", subject(name, version), limit=1)
    return next(iter(removals.since(found, removals.removal_of(ledger, name))), None)


def importances(ledger: Ledger, name: str, version: str) -> dict[str, float]:
    """Return the importance of each feature by the newest card of a version; empty if none was measured.

    Raises LedgerError, DatabaseUnavailable, IntegrityError.
    """
    record = kept(ledger, name, version)
    told = facts.from_json(record.body["card"], f"record {record.seq}").explanations if record else None
    return {each.feature: each.rise for each in told.importance} if told else {}


def subject(name: str, version: str) -> str:
    """Return the subject of a version's cards in the ledger."""
    return f"{name}/{version}"
