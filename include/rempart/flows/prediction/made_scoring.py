"""Make a scoring: predict the chosen rows of a snapshot into files, batch by batch, and store them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.coordination.active import Active
from rempart.counts import counted
from rempart.errors import ObjectMissing, PredictionError
from rempart.features.prediction.rows import moments
from rempart.flows.prediction import chosen_rows, scorings
from rempart.flows.prediction.champion import ROWS, Champion
from rempart.flows.prediction.chosen_rows import RowPeriod, Targets, Unlabelled
from rempart.flows.prediction.judged_rows import judge
from rempart.flows.prediction.scorings import Scoring, ScoringQuestion
from rempart.flows.prediction.written_parts import PartWriter
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.parsing.moments import beyond
from rempart.ingestion.snapshots import Snapshot, SnapshotColumn, arrow_schema
from rempart.settings.champions.scoring import Scoring as Section
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.sections import Classification
from rempart.sites.once import keep_file
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What a run of scoring works with. `bucket`: that of the lake."""

    platform: Platform
    pipeline: ModelPipeline
    source: Pipeline
    site: Site
    bucket: str
    active: Active
    snapshot: Snapshot

    @property
    def root(self) -> str:
        return scorings.folder(self.source.name, self.pipeline.name)


@dataclass(frozen=True)
class Made:
    scoring: Scoring
    parts: list[WrittenPart]
    quarantine: list[WrittenPart]

    @property
    def rows(self) -> int:
        return self.scoring.rows + self.scoring.refused

    @property
    def files(self) -> list[Path]:
        return [part.file for part in self.parts]


def predicted(
    run: Run,
    champion: Champion,
    asked: ScoringQuestion,
    window: RowPeriod | None,
    targets: Targets | None,
    classification: Classification,
    folder: Path,
) -> Made:
    """Predict the chosen rows into files of a folder."""
    import pyarrow.compute as pc

    at, model, source = run.platform.clock(), champion.model, run.source
    keys = scorings.key_columns(run.snapshot, source.row_key)
    columns = scorings.table_columns(model, keys)
    refused_columns = {**keys, scorings.REASON: SnapshotColumn("string", False)}
    needed = list(run.pipeline.moments[run.pipeline.prediction.at].columns)
    _check_columns(run, champion, needed)
    reasons = Counter[str]()
    with ExitStack() as stack:
        good = stack.enter_context(PartWriter(folder, "part", arrow_schema(columns)))
        bad = stack.enter_context(PartWriter(folder, "refused", arrow_schema(refused_columns)))
        unlabelled = stack.enter_context(chosen_rows.without_labels(targets, run.pipeline))
        partitions, based_on = _partitions(run, asked, window)
        for rows in _chosen(run, partitions, window, unlabelled):
            taken, left, why = judge(model.inputs, needed, rows, _beyond(run, champion, needed, rows))
            refusals = [(left, why)]
            if taken.num_rows:
                answers = champion.answers(taken)
                refusals.append((taken.filter(answers.unknown), answers.reasons))
                taken = taken.filter(pc.invert(answers.unknown))
            if taken.num_rows:
                good.write(_with_facts(_keyed(taken, source), answers.predicted, run, asked, taken, model.version, at))
            for refused, told in refusals:
                if refused.num_rows:
                    bad.write(_keyed(refused, source).append_column(scorings.REASON, told))
                    reasons.update({entry["values"]: entry["counts"] for entry in told.value_counts().to_pylist()})
            logger.info("%d rows predicted, %d refused so far", good.rows, bad.rows)
    for reason, count in reasons.most_common():
        logger.warning("%s not predicted: %s", counted(count, "row is", "rows are"), reason)
    section = run.pipeline.scoring or Section()
    scoring = Scoring(
        asked,
        model.version,
        at,
        classification,
        (at + timedelta(days=section.keep_days)).date(),
        columns,
        tuple(scorings.part(run.root, "parts", part.sha256, part.rows, part.bytes) for part in good.parts),
        tuple(scorings.part(run.root, "quarantine", part.sha256, part.rows, part.bytes) for part in bad.parts),
        based_on,
        dict(reasons),
    )
    return Made(scoring, good.parts, bad.parts)


def _check_columns(run: Run, champion: Champion, needed: list[str]) -> None:
    there = run.snapshot.columns
    wanted = [*(each.name for each in champion.model.inputs), *needed, run.source.partition_by]
    if lacking := [name for name in wanted if name not in there]:
        raise PredictionError(
            f"score snapshot {run.snapshot.id} of '{run.source.name}' with model {run.pipeline.name} version "
            f"{champion.model.version}: it lacks column '{lacking[0]}', which the model reads",
            f"Add the column to the schema of include/pipelines/{run.source.name}.yaml, and deliver rows with it.",
        )


def _beyond(run: Run, champion: Champion, needed: list[str], rows: pa.Table) -> dict[int, list[str]]:
    """Return the reasons against rows whose moments lie outside the calendar, by position.

    A column with another type than in the model's pipeline is left to `Champion.predict`, which refuses it.
    """
    declared, there = run.pipeline.columns, run.snapshot.columns
    read = dict.fromkeys([*(each.name for each in champion.model.inputs), *needed])
    return beyond(rows.select([name for name in read if there[name].type == declared[name].type]), run.pipeline)


def _partitions(run: Run, asked: ScoringQuestion, window: RowPeriod | None) -> tuple[list[str] | None, str | None]:
    """Return the partitions with rows to predict (None for all), and the id of the scoring that has the others.

    Those of a window; else those that changed since the newest snapshot that the same champion scored in the same way.
    Such a scoring counts only while all scorings are there that it stands on: an erasure in an input may delete them.
    """
    if window is not None:
        return window.partitions(content.partition for content in run.snapshot.partitions), None
    every = scorings.all_of(run.site, run.bucket, run.root)
    complete = scorings.complete(every, _expired(run))
    before = [
        found
        for found in every
        if found.id in complete
        and found.asked.sha256 == asked.sha256
        and found.asked.since is None
        and found.asked.until is None
        and (found.asked.labels is None) == (asked.labels is None)
    ]
    if not before:
        return None, None
    name, known = before[-1].asked.snapshot, erasures.rewritten(run.platform.ledger)
    while to := known.get((run.bucket, f"{snapshots.folder(run.source.name)}{name}.json")):
        name = to[0].rsplit("/", 1)[-1].removesuffix(".json")  # an erasure replaced the snapshot
    try:
        then = snapshots.read(run.site, run.bucket, run.source.name, name)
    except ObjectMissing:
        return None, None
    changed = snapshots.changed_partitions(then, run.snapshot)
    return (None, None) if changed is None else (list(changed), before[-1].id)


def _expired(run: Run) -> set[str]:
    """Return the ids of scorings that retention deleted: their rows are not predicted again."""
    records = run.platform.ledger.find("scoring", run.pipeline.name)
    return {str(name) for record in records for name in record.body.get("expired", ())}


def _chosen(
    run: Run, partitions: list[str] | None, window: RowPeriod | None, unlabelled: Unlabelled
) -> Iterator[pa.Table]:
    """Yield the chosen rows in tables of bounded size. Erased rows are left out, also while the snapshot has them."""
    stored = snapshots.rows(run.site, run.bucket, run.snapshot, partitions)
    secrets = erasures.secrets_of(run.platform)
    for rows in chosen_rows.gathered(erasures.without_erased(run.platform.ledger, run.source, stored, secrets), ROWS):
        chosen = unlabelled.of(window.of(rows) if window else rows)
        if chosen.num_rows:
            yield chosen


def _keyed(rows: pa.Table, source: Pipeline) -> pa.Table:
    return rows.select(source.row_key).rename_columns(scorings.names_of(source.row_key))


def _with_facts(
    keys: pa.Table, predicted: pa.Table, run: Run, asked: ScoringQuestion, rows: pa.Table, version: str, at: datetime
) -> pa.Table:
    """Return the columns of `scorings.table_columns`."""
    import pyarrow as pa

    table = keys
    for name in predicted.column_names:
        table = table.append_column(name, predicted[name])
    table = table.append_column(scorings.MOMENT, moments(run.pipeline, rows))
    facts = {scorings.VERSION: version, scorings.SHA256: asked.sha256, scorings.SNAPSHOT: asked.snapshot}
    for name, value in facts.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), rows.num_rows))
    return table.append_column(scorings.SCORED_AT, pa.repeat(pa.scalar(at, pa.timestamp("us", "UTC")), rows.num_rows))


def keep(run: Run, made: Made) -> None:
    """Store the files of a scoring, read back. Nothing names them before the manifest does."""
    kept = {"retain-until": made.scoring.keep_until.isoformat()}
    stored = [
        *zip(made.scoring.parts, made.parts, strict=True),
        *zip(made.scoring.quarantine, made.quarantine, strict=True),
    ]
    for part, written in stored:
        keep_file(
            run.site,
            run.bucket,
            part.key,
            written.file,
            part.sha256,
            metadata=kept,
            content_type="application/vnd.apache.parquet",
        )
