"""Score the rows of a snapshot with the champion: predictions become Parquet files, a table, and evidence.

Rows come in batches, so memory does not grow with the snapshot. The same champion predicts the rows of a snapshot once.
A later snapshot counts by the partitions that changed. Each step may be repeated: a run that was killed leaves the
former table, and the next run completes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rempart.coordination.active import Active
from rempart.counts import counted
from rempart.errors import InputMissing, ObjectMissing, PredictionError
from rempart.flows.ingestion import current_snapshot, delta_log, derived_run
from rempart.flows.prediction import brought, chosen_rows, scorings
from rempart.flows.prediction.champion import champion_of, champion_version
from rempart.flows.prediction.chosen_rows import RowPeriod, Targets
from rempart.flows.prediction.judged_rows import UNKNOWN
from rempart.flows.prediction.made_scoring import Run, keep, predicted
from rempart.flows.prediction.scorings import Scoring, ScoringQuestion
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.platform import Platform
from rempart.flows.training import labelled
from rempart.ingestion import snapshots
from rempart.ingestion.snapshots import Snapshot
from rempart.ledger.port import Ledger
from rempart.settings.champions.scoring import Into
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import named
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.sovereignty import places
from rempart.sovereignty.classification import highest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreResult:
    """Result of a run. `rows` were predicted and `refused` are in quarantine, with `reasons` by their number of rows.

    `new`: this run wrote them. `scoring`: None if no row was to be predicted. `changed_rows`: of the user's table;
    `former_rows`: its rows that versions predicted which are no longer champion. `superseded`: another version became
    champion during the run, so the rest did not come into the table.
    """

    pipeline: str
    version: str
    sha256: str
    rows_of: str
    snapshot: str
    scoring: str | None = None
    rows: int = 0
    refused: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    new: bool = False
    table: str = ""
    changed_rows: int | None = None
    former_rows: int = 0
    superseded: bool = False


def score(
    platform: Platform,
    pipeline: ModelPipeline,
    *,
    snapshot: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> ScoreResult:
    """Predict rows of a snapshot (default: the current one) with the champion, and publish the predictions.

    `since` and `until` name a window in the column that partitions the rows: `until` is not in it. Without a window,
    of rows of the pipeline itself those without a target are predicted. Raises PredictionError, also if the champion
    knows none of the rows, whose keys and reasons are stored then; InputMissing, IngestError if evidence names a newer
    snapshot, ErasedMeanwhile, and the errors of `champion_of`, `brought.bring` and the site.
    """
    source, today = source_of(pipeline), platform.clock().date()
    classification = highest([pipeline.classification, source.classification])
    into = pipeline.scoring.into if pipeline.scoring else None
    if into:
        platform.record(places.decide_connection(platform.config, classification, into.connection, on=today))
    active = platform.active()
    opened = {name: removals.check_open(platform.ledger, name) for name in {pipeline.name, source.name}}
    site, bucket = platform.active_site(classification, active), platform.config.buckets.lake
    erased = erasures.erased(platform.ledger, source.name, erasures.secrets_of(platform))
    found = _snapshot(platform.ledger, active, site, bucket, source.name, snapshot)
    run = Run(platform, pipeline, source, site, bucket, active, found)
    window = chosen_rows.window(source.partition_by, source.columns[source.partition_by].type, since, until)
    targets = _targets(run, window)
    champion = champion_of(platform, pipeline)
    asked = ScoringQuestion(
        pipeline.name,
        champion.model.sha256,
        source.name,
        found.id,
        targets.snapshot if targets else None,
        since,
        until,
    )
    result = ScoreResult(
        pipeline.name, champion.model.version, asked.sha256, source.name, found.id, table=f"{bucket}/{run.root}"
    )
    with spool_folder() as folder:
        scoring, files = scorings.find(site, bucket, asked), list[Path]()
        is_new = False
        if scoring is None:
            made = predicted(run, champion, asked, window, targets, classification, folder)
            if made.rows:
                scoring, files, is_new = made.scoring, made.files, True
                keep(run, made)

        @contextmanager
        def committing() -> Iterator[bool]:
            with platform.committing(active):
                erasures.check_same(platform.ledger, source.name, erased)
                for name, removal in opened.items():
                    removals.check_same(platform.ledger, name, removal)
                derived_run.check_clean(platform.ledger, found)
                yield not into or champion_version(platform, pipeline.name) == champion.model.version

        with committing() as is_champion:
            if scoring is not None:
                if is_new:
                    scorings.store(site, bucket, scoring)
                _record(platform.ledger, site.name, bucket, scoring, into)
                publish(site, bucket, run.root)
        if not is_champion:
            result = replace(result, superseded=True)
        elif into:
            done = brought.bring(run, into, asked.sha256, scoring, files, folder, committing)
            result = replace(result, changed_rows=done.changed, former_rows=done.of_others, superseded=done.superseded)
    if scoring is None:
        logger.info("no row of snapshot %s of '%s' is to be predicted", found.id, source.name)
        return result
    logger.info("%d rows predicted by version %s, %d refused", scoring.rows, scoring.version, scoring.refused)
    if not result.superseded:
        _check_known(pipeline, scoring)
    return replace(
        result,
        scoring=scoring.id,
        rows=scoring.rows,
        refused=scoring.refused,
        reasons=scoring.reasons,
        new=is_new,
    )


def _check_known(pipeline: ModelPipeline, scoring: Scoring) -> None:
    """Raise PredictionError if the champion does not know a value in any of the rows: it predicted none."""
    other = [reason for reason in scoring.reasons if not all(part.endswith(UNKNOWN) for part in reason.split("; "))]
    if scoring.rows or not scoring.refused or not scoring.reasons or other:
        return
    told = "; ".join(f"{reason} in {counted(rows, 'row')}" for reason, rows in scoring.reasons.items())
    raise PredictionError(
        f"score {counted(scoring.refused, 'row')} of '{scoring.asked.rows_of}' with model {pipeline.name} version "
        f"{scoring.version}: none can be predicted, and their keys are in quarantine: {told}",
        f"Add the value to `values` in {pipeline.name}.yaml if it is not there, and train again: `rempart pipeline run "
        f"{pipeline.name} --follow`. If the gate refuses the candidate because the champion knows no such value, start "
        f"validate_model_{pipeline.name} in Airflow with the candidate's version.",
    )


def source_of(pipeline: ModelPipeline) -> Pipeline:
    """Return the pipeline whose rows are predicted.

    Raises PipelineError for a missing or invalid file, PredictionError if its rows lack columns of the moment.
    """
    name = pipeline.scoring.from_ if pipeline.scoring else None
    if name is None or name == pipeline.name:
        return pipeline
    source = named(name)
    needed = pipeline.moments[pipeline.prediction.at].columns
    if lacking := [column for column in needed if column not in source.columns]:
        raise PredictionError(
            f"score rows of '{name}' with model '{pipeline.name}': they lack column '{lacking[0]}', which tells the "
            "moment of the prediction",
            f"Add it to the schema of include/pipelines/{name}.yaml.",
        )
    return source


def publish(site: Site, bucket: str, root: str) -> int | None:
    """Make the open table equal to the scorings that exist; return its version, or None without any. Safe to repeat.

    Raises SiteError, IntegrityError.
    """

    def newest() -> scorings.PredictionTable | None:
        return scorings.table(root, scorings.all_of(site, bucket, root))

    now = newest()
    return None if now is None else delta_log.publish(site, bucket, now, newest)


def _snapshot(ledger: Ledger, active: Active, site: Site, bucket: str, name: str, wanted: str | None) -> Snapshot:
    if wanted is None:
        if found := current_snapshot.checked(ledger, active, site, bucket, name):
            return found
        raise InputMissing(
            f"score rows of '{name}': it has no snapshot yet", f"Run `rempart pipeline run {name}` first."
        )
    try:
        return snapshots.read(site, bucket, name, wanted)
    except ObjectMissing as missing:
        raise PredictionError(
            f"score snapshot {wanted} of '{name}': site '{site.name}' does not have it",
            f"Take an id from `rempart pipeline show {name}`, or leave `snapshot` out for the newest.",
        ) from missing


def _targets(run: Run, window: RowPeriod | None) -> Targets | None:
    """Return the targets whose rows are left out. Raises PredictionError if every row has its target."""
    pipeline = run.pipeline
    if window is not None or run.source.name != pipeline.name:
        return None
    if found := labelled.delivered(run.platform, pipeline, run.active):
        return Targets(found.rows, found.feed.key, found.snapshot)
    if pipeline.prediction.has_open_rows(pipeline.columns):
        if pipeline.prediction.target not in run.snapshot.columns:
            return None
        return Targets(snapshots.rows(run.site, run.bucket, run.snapshot), pipeline.key)
    raise PredictionError(
        f"score the rows of '{run.pipeline.name}' without a target: each of its rows has its target, "
        f"'{run.pipeline.prediction.target}'",
        "Name a window by the run parameters `from` and `to`, or the pipeline with the new rows in `scoring.from`.",
    )


def _record(ledger: Ledger, site: str, bucket: str, scoring: Scoring, into: Into | None) -> None:
    """Write evidence of a scoring, unless it is on record."""
    asked = scoring.asked
    if any(record.body.get("scoring") == scoring.id for record in ledger.each("scoring", asked.model)):
        return
    ledger.append(
        "scoring",
        asked.model,
        {
            "scoring": scoring.id,
            "version": scoring.version,
            "sha256": asked.sha256,
            "rows_of": asked.rows_of,
            "snapshot": asked.snapshot,
            "from": asked.since,
            "to": asked.until,
            "rows": scoring.rows,
            "quarantined": scoring.refused,
            "reasons": dict(scoring.reasons),
            "digest": scoring.digest,
            "into": into.model_dump() if into else None,
            "site": site,
            "bucket": bucket,
        },
    )
