"""Delete the models of old trials: the files of each job of a finished search that no version came of.

Nothing uses such a model once its search has ended. The record `search` stays, and in MLflow the run of each trial with
its parameters and figures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.backup.points.references import BELOW
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.retirement.deletion import delete_below_all
from rempart.flows.retirement.due_trials import DueTrials, due_trials
from rempart.flows.search import records
from rempart.flows.shared import removals
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.models import removal as model_removal
from rempart.settings.config import Connection

logger = logging.getLogger(__name__)
_KIND: Kind = "trial-retirement"


@dataclass(frozen=True)
class RetiredTrials:
    """What was deleted with the trials of one search. `evidence`: None if something is left."""

    evidence: int | None
    deleted: int
    locked: Mapping[str, datetime]
    left: tuple[str, ...]


def due(ledger: Ledger, model: str, after: timedelta, now: datetime) -> dict[str, DueTrials]:
    """Return the trials of a model whose files go, by search. Raises LedgerError, DatabaseUnavailable."""
    removed = removals.removal_of(ledger, model)

    def found(kind: Kind) -> list[Evidence]:
        return removals.since(ledger.find(kind, model), removed)

    return due_trials(
        [records.search_of(record) for record in found("search")],
        [(str(record.body["dataset"]["sha256"]), record.at) for record in found("search-rows")],
        {str(record.body["job_id"]) for record in found("candidate")},
        {str(record.body["search"]): record.seq for record in reversed(found(_KIND))},
        after,
        now,
    )


def retire(stores: ErasureStores, tracking: Connection, model: str, search: str, goes: DueTrials) -> RetiredTrials:
    """Delete the files of a search's trials at every site, then their models in MLflow; record it if nothing is left.

    Safe to repeat: a run that was killed is completed by the next one. Raises SiteError, LeaseHeld,
    DatabaseUnavailable, TrackingUnavailable, TrackingRefused, ModelRefused.
    """
    prefixes = {f"jobs/{trial.job}/" for trial in goes.trials}
    logged = {trial.run: model_removal.models_of(tracking, trial.run) for trial in goes.trials if trial.run is not None}
    for run, models in logged.items():
        for each in models:
            prefixes.update(f"{BELOW}{folder}" for folder in model_removal.folders(tracking, each, run))
    gone = delete_below_all(stores, stores.config.buckets.artifacts, tuple(sorted(prefixes)))
    if gone.left:  # MLflow still names the folders for the next run
        return RetiredTrials(None, gone.deleted, gone.locked, gone.left)
    for run, models in logged.items():
        model_removal.remove_models(tracking, run, models, f"trial of search {search}")
    body = {
        "search": search,
        "jobs": sorted(trial.job for trial in goes.trials),
        "deleted": gone.deleted,
        "locked": sorted(gone.locked),
        "sites": sorted(stores.sites),
    }
    evidence = stores.ledger.append(_KIND, model, body)
    logger.info("deleted %d object versions of %d trials of search %s", gone.deleted, len(goes.trials), search)
    return RetiredTrials(evidence.seq, gone.deleted, gone.locked, ())
