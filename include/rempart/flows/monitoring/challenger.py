"""The newest candidate that is not champion, measured beside the champion on the rows of a watch.

It is the version that the scorer asks as a shadow. It predicts the same rows with the same features as the champion, so
its answers in the prediction log are not needed: these are a sample, sealed, and of the rows that clients asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.errors import RempartError
from rempart.flows.monitoring.answered import Answered, Unseen, answered, is_unseen, row_metric, row_time, unseen
from rempart.flows.prediction.champion import check_definitions
from rempart.flows.shared import erasures, removals, retirements
from rempart.flows.training.train import target_feature
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.models import metrics
from rempart.models.predictions import figures_of
from rempart.monitoring import performance, standings
from rempart.monitoring.standings import PairedComparison, Standing
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets

if TYPE_CHECKING:
    from rempart.models.loading import LoadedModel
    from rempart.sites.port import Site

logger = logging.getLogger(__name__)
_DECISIONS: tuple[tuple[Kind, Standing], ...] = (
    ("refusal", "refused"),
    ("approval", "awaits approval"),
    ("rollback", "rolled back"),
)


@dataclass(frozen=True)
class Challenger:
    """A version beside the champion. `unseen`: times from which it learned from no row, None without a hold-out.

    `why`: it cannot be asked; then there is no model.
    """

    version: str
    standing: Standing
    model: LoadedModel | None
    unseen: Unseen | None
    why: str = ""


def find(ledger: Ledger, pipeline: ModelPipeline, champion: str) -> tuple[Evidence, Standing] | None:
    """Return the evidence of the newest candidate, and why it is no champion; None if it is champion, or retired."""
    name = pipeline.name
    found = removals.since(ledger.find("candidate", name, limit=1), removals.removal_of(ledger, name))
    if not found or (version := str(found[0].body["version"])) == champion:
        return None
    if version in retirements.on_record(ledger, name):
        return None
    judged = [
        (record.seq, standing)
        for kind, standing in _DECISIONS
        for record in ledger.find(kind, name)
        if str(record.body.get("replaces" if kind == "rollback" else "version")) == version
    ]
    unjudged: Standing = "shadow" if pipeline.serving.shadow else "not judged"
    return found[0], max(judged)[1] if judged else unjudged


def opened(
    ledger: Ledger, site: Site, pipeline: ModelPipeline, champion: str, load: Callable[[str], LoadedModel]
) -> Challenger | None:
    """Return the challenger with its model, or None without one. A challenger that cannot be asked has a reason.

    `load`: returns a version's verified model. Raises LedgerError, DatabaseUnavailable: the ledger did not answer.
    """
    if (found := find(ledger, pipeline, champion)) is None:
        return None
    record, standing = found
    version = str(record.body["version"])
    try:
        begin, model = _unseen(ledger, site, pipeline, record), load(version)
        check_definitions(pipeline, model)
    except RempartError as error:  # the verdict is on the champion: it does not wait for a challenger
        logger.warning("challenger %s of %s is not compared: %s", version, pipeline.name, error.what)
        return Challenger(version, standing, None, None, error.what)
    return Challenger(version, standing, model, begin)


def _unseen(ledger: Ledger, site: Site, pipeline: ModelPipeline, record: Evidence) -> Unseen | None:
    """Return the times from which a candidate learned from no row, None if its hold-out has no row."""
    known, dataset = erasures.rewritten(ledger), record.body["dataset"]
    bodies = (erasures.read_dataset(known, site, part) for part in (dataset["held_out"], dataset))
    return unseen(pipeline, *(datasets.decoded(body, [row_time(pipeline)]) for body in bodies))


def compare(pipeline: ModelPipeline, given: Challenger, window: Answered) -> PairedComparison:
    """Return how a challenger does beside the champion. `window`: rows with a known target, answered by the champion.

    Only rows that neither learned from count. A challenger that fails on them is not known.
    """
    metric = row_metric(pipeline)
    if given.model is None or given.unseen is None:
        why = given.why or "its hold-out has no row left"
        return standings.unknown(given.version, given.standing, metric, why)
    shared = window.only(is_unseen(pipeline, window.rows, given.unseen))
    target = target_feature(pipeline)
    if (given.model.target.values if given.model.target else ()) != target.values:  # of a number there are none
        return standings.unknown(given.version, given.standing, metric, "it knows other classes than the pipeline file")
    try:
        theirs = answered(given.model, shared.rows)
    except RempartError as error:
        return standings.unknown(given.version, given.standing, metric, error.what, shared.rows.num_rows)
    truth = metrics.target_values(target, shared.rows)
    mine, other = (performance.losses(metric, truth, figures_of(target, each.predicted)) for each in (shared, theirs))
    return standings.compare(given.version, given.standing, metric, mine, other, pipeline.monitoring.least_rows)
