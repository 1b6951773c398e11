"""List every feature view with its champions and lineage, as the pipeline files and the ledger know them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rempart.errors import PipelineError
from rempart.features.catalogue.entries import Catalogue, CatalogueFacts, ChampionInputs, catalogue
from rempart.features.catalogue.origins import Lineage
from rempart.settings.config import Config
from rempart.settings.sections import DagDefaults
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.data import newest_snapshot
from rempart.web.read_models.messages import Moment, moment
from rempart.web.read_models.model_versions import model_states


@dataclass(frozen=True)
class Features:
    """The page's content."""

    moment: Moment
    catalogue: Catalogue


def features(facts: CockpitFacts, now: datetime) -> Features:
    """Return the page's content."""
    return Features(moment(facts, now), of_facts(facts))


def of_facts(facts: CockpitFacts) -> Catalogue:
    """Return the catalogue of the pipelines in the facts."""
    pipelines = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    snapshots = {name: newest_snapshot(facts, name) for name in pipelines}
    known = CatalogueFacts(
        owner=(facts.config.dags if isinstance(facts.config, Config) else DagDefaults()).owner,
        snapshots={name: snapshot for name, snapshot in snapshots.items() if snapshot},
        champions=None if isinstance(facts.evidence, Unknown) else _champions(facts),
        derived=_derived(facts),
    )
    return catalogue(pipelines, known)


def _champions(facts: CockpitFacts) -> tuple[ChampionInputs, ...]:
    return tuple(
        ChampionInputs(
            state.model,
            champion.version,
            champion.snapshot,
            champion.run_id,
            _definitions(facts, state.model, champion.version),
            champion.used,
        )
        for state in model_states(facts).values()
        if (champion := state.champion)
    )


def _definitions(facts: CockpitFacts, model: str, version: str) -> dict[str, str] | None:
    """Return the definition of each feature that a version reads, as its training recorded it; None without record."""
    for record in facts.standing("candidate"):
        if record.subject == model and str(record.body["version"]) == version:
            features = record.body.get("features") or ()
            return {str(feature["name"]): str(feature.get("definition", "")) for feature in features}
    return None


def _derived(facts: CockpitFacts) -> dict[str, Lineage]:
    """Return the lineage that the last run of each derived pipeline recorded; without one, no column's is known."""
    pipelines = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    found: dict[str, Lineage] = {
        name: {}
        for name, pipeline in pipelines.items()
        if not isinstance(pipeline, PipelineError) and pipeline.source.kind == "derived"
    }
    for record in reversed(facts.standing("derivation")):
        if record.subject in found:
            told = record.body.get("lineage") or {}
            found[record.subject] = {
                column: None if sources is None else tuple(map(str, sources)) for column, sources in told.items()
            }
    return found
