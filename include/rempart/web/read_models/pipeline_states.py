"""Describe the state of each pipeline: deliveries, snapshot, quarantine, model, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rempart.errors import PipelineError
from rempart.ingestion.acceptance import HELD
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.sources import DerivedSource, is_extracted
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.data import SnapshotEntry, data, newer_inputs
from rempart.web.read_models.feature_store.views import FeatureView, feature_views
from rempart.web.read_models.model_versions import LastScoring, ModelState, ModelVersion, last_scoring, model_states
from rempart.web.read_models.quarantine import Delivery, deliveries

NEWEST = 5
"""Deliveries that the state of a pipeline lists."""


@dataclass(frozen=True)
class NextStep:
    """What a person does next: a sentence, and the command for it, if any."""

    sentence: str
    command: str = ""


@dataclass(frozen=True)
class PipelineState:
    """A pipeline. `schedule`: cron expression, and `event`: what else starts its ingestion. `error`: fault of its file
    and the remedy. `known`: whether the ledger answered.

    `newest`: its newest deliveries. `quarantined`: rows that wait in quarantine now; `rules`: these by reason, most
    first; a row with two reasons counts under both. `held_rows`: good rows in quarantine only because their delivery is
    held back. `features`: its feature views online.
    """

    name: str
    description: str
    classification: str | None
    prefix: str | None
    target: str | None
    labels: str | None
    schedule: str | None
    event: str | None
    error: tuple[str, str] | None
    known: bool
    deliveries: int
    newest: tuple[Delivery, ...]
    snapshot: SnapshotEntry | None
    quarantined: int
    held_back: int
    held_rows: int
    rules: Mapping[str, int]
    features: tuple[FeatureView, ...]
    model: ModelState | None
    next: NextStep
    scoring: LastScoring | None = None

    @property
    def champion(self) -> ModelVersion | None:
        return self.model.champion if self.model else None


def pipeline_states(facts: CockpitFacts, now: datetime) -> tuple[PipelineState, ...]:
    """Return every pipeline that has a file, by name. `now` is an aware datetime."""
    files = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    models, found = model_states(facts), {entry.pipeline: entry for entry in data(facts, now).pipelines}
    known = not isinstance(facts.evidence, Unknown)
    states = []
    for name, file in sorted(files.items()):
        told = deliveries(facts, name)
        rules: dict[str, int] = {}
        for delivery in told:
            for reason, count in delivery.reasons.items():
                if delivery.quarantined and reason != HELD:
                    rules[reason] = rules.get(reason, 0) + count
        held = sum(delivery.held_back for delivery in told)
        spec = file if isinstance(file, Pipeline) else None
        snapshot, model = found[name].newest, models.get(name)
        states.append(
            PipelineState(
                name,
                spec.description if spec else "",
                spec.classification if spec else None,
                spec.source.prefix if spec else None,
                spec.prediction.target if isinstance(spec, ModelPipeline) else None,
                spec.prediction.from_.pipeline if isinstance(spec, ModelPipeline) and spec.prediction.from_ else None,
                spec.schedules.ingest if spec else None,
                _event(spec) if spec else None,
                (file.what, file.hint) if isinstance(file, PipelineError) else None,
                known,
                len(told),
                told[:NEWEST],
                snapshot,
                found[name].quarantined,
                held,
                sum(delivery.good for delivery in told if delivery.held_back),
                dict(sorted(rules.items(), key=lambda item: (-item[1], item[0]))),
                feature_views(facts, name, now),
                model,
                next_step(
                    name,
                    file,
                    known=known,
                    told=told,
                    snapshot=snapshot,
                    model=model,
                    newer=newer_inputs(facts, spec) if spec else (),
                ),
                last_scoring(facts, name),
            )
        )
    return tuple(states)


def _event(pipeline: Pipeline) -> str | None:
    """Return which event starts the ingestion of a pipeline, beside its schedule."""
    if pipeline.schedules.on_delivery:
        return "when a file lands"
    if isinstance(pipeline.source, DerivedSource) and not pipeline.schedules.ingest:
        return f"on a new snapshot of {' or '.join(pipeline.source.inputs)}"
    return None


def next_step(
    name: str,
    file: Pipeline | PipelineError,
    *,
    known: bool,
    told: tuple[Delivery, ...],
    snapshot: SnapshotEntry | None,
    model: ModelState | None,
    newer: tuple[str, ...] = (),
) -> NextStep:
    """Return what a person should do about a pipeline now: the first step that is not done yet.

    `newer`: its inputs with a newer snapshot than it was derived from.
    """
    run = f"rempart pipeline run {name} --follow"
    if isinstance(file, PipelineError):
        return NextStep("Correct the pipeline file.", f"rempart pipeline check {name}")
    if not known:
        return NextStep("The ledger does not answer. Start the stack.", "rempart up")
    if any(delivery.held_back for delivery in told):
        return NextStep(
            "A delivery is held back: decide about its rows, or leave it.",
            f"rempart quarantine show {name}",
        )
    if snapshot is None and any(delivery.accepted for delivery in told):
        return NextStep(
            "Rows were accepted, and no snapshot is on record: an ingestion was interrupted, or its record was altered "
            "or deleted (docs/how-to/verify-the-ledger.md).",
            run,
        )
    if snapshot is None and told:
        return NextStep("No row was accepted: look at the reasons.", f"rempart quarantine show {name}")
    if snapshot is None and is_extracted(file.source):
        return NextStep("Nothing was read from its source yet.", run)
    if snapshot is None:
        return NextStep("Nothing was delivered yet.", f"rempart pipeline deliver {name} FILE")
    if newer:
        have = "has a newer snapshot" if len(newer) == 1 else "have newer snapshots"
        return NextStep(f"{' and '.join(newer)} {have} than its rows were derived from.", run)
    newest = model.newest if model else None
    refused = bool(told) and told[0].refused
    if refused:
        whole = f"Delivery {told[0].sha256[:12]} was refused as a whole: look at the reasons."
        last = NextStep(whole, f"rempart quarantine show {name}")
    elif is_extracted(file.source):
        last = NextStep("Nothing to do. Its source is read again at the next run.", run)
    else:
        last = NextStep("Nothing to do. Deliver the next file.", f"rempart pipeline deliver {name} FILE")
    if not isinstance(file, ModelPipeline):
        return last
    if newest is not None and newest.seq is None:
        return NextStep(
            f"The record of the training of version {newest.version} was altered, deleted, or is older than those that "
            "are read: verify the ledger (docs/how-to/verify-the-ledger.md).",
        )
    if newest is None or (newest.snapshot != snapshot.id and newest.registered < snapshot.seq):
        return NextStep("No model was trained on the current snapshot.", run)
    if newest.standing == "not judged":
        unjudged = f"The gate did not judge version {newest.version} yet."
        return NextStep(f"{unjudged} If its run failed, `rempart status` names it, and its log in Airflow why.", run)
    if newest.standing == "refused":
        then = "Then change features, trainer or gate in the pipeline file, and run the pipeline."
        why = f"rempart model show {name} {newest.version}"
        return NextStep(f"The gate refused version {newest.version}: read why. {then}", why)
    if refused or model is None or model.champion is None:
        return last
    use = f"To use the champion: `rempart model predict {name} FILE`, or by HTTP: docs/how-to/serve-predictions.md"
    return NextStep(f"{last.sentence} {use}", last.command)
