"""Gather the facts of a version's model card from the ledger, the site and the pipeline file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePosixPath

from rempart.coordination.active import is_open
from rempart.features.catalogue import told
from rempart.flows.shared import retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import trained_version
from rempart.flows.training.champions import decisions_on, succession
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.models import definitions
from rempart.models.card import facts
from rempart.models.card.facts import Card, CardPlace, Intended, Standing
from rempart.models.explanations import figures
from rempart.models.explanations.figures import Explanations
from rempart.settings.config import Config
from rempart.settings.evaluation.splits import Holdout
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.policy.rules import Place
from rempart.sites.port import Site
from rempart.training.evaluation import EXPLANATIONS

JUDGEMENTS: tuple[Kind, ...] = ("promotion", "approval", "refusal")


def gather(platform: Platform, pipeline: ModelPipeline, version: str) -> Card:
    """Return the card of a version, with what explains it read from the active site and compared with its record.

    Raises ModelRefused for a version that was not trained here or was retired, IntegrityError, ObjectMissing,
    SiteError, PlacementDenied, LedgerError, DatabaseUnavailable.
    """
    name, ledger, config = pipeline.name, platform.ledger, platform.config
    retirements.check_kept(ledger, name, version, "make the model card")
    candidate = trained_version(ledger, name, version)
    decisions = [record for kind in JUDGEMENTS for record in _about(ledger, kind, candidate)]
    return facts.card(
        candidate,
        decisions,
        _standing(version, succession(decisions_on(ledger, name)), decisions),
        _about(ledger, "monitoring", candidate),
        explanations(
            platform.site_to_read(is_open(platform.active()).site, candidate.body["classification"]),
            config.buckets.artifacts,
            candidate,
        ),
        _intended(pipeline, candidate),
        tuple(_places(config, is_open(platform.active()).site, candidate)),
    )


def explanations(site: Site, bucket: str, candidate: Evidence) -> Explanations | None:
    """Return what explains a version, compared with its record; None if it was not measured.

    Raises IntegrityError, ObjectMissing, SiteError.
    """
    stem, _, ending = EXPLANATIONS.partition(".")
    for key, digest in sorted(candidate.body["outputs"].items()):
        name = PurePosixPath(key).name
        if name.startswith(f"{stem}-") and name.endswith(f".{ending}"):
            return figures.read(site.read(bucket, key, sha256=digest), f"{bucket}/{key} at site '{site.name}'")
    return None


def _about(ledger: Ledger, kind: Kind, candidate: Evidence) -> list[Evidence]:
    version = str(candidate.body["version"])
    found = ledger.find(kind, candidate.subject)
    return [record for record in found if str(record.body.get("version")) == version and record.seq > candidate.seq]


def _standing(version: str, champions: list[str], decisions: list[Evidence]) -> Standing:
    if champions and champions[-1] == version:
        return "champion"
    if version in champions:
        return "champion before"
    newest = max(decisions, key=lambda record: record.seq, default=None)
    match newest.kind if newest else None:
        case None:
            return "not judged"
        case "refusal":
            return "refused"
        case "approval":
            return "awaits approval"
    return "rolled back"


def _intended(pipeline: ModelPipeline, candidate: Evidence) -> Intended:
    digests, texts = definitions.of_pipeline(pipeline), told.definitions(pipeline)
    known = {str(each["name"]): each.get("definition") for each in candidate.body["features"]}
    return Intended(
        pipeline.description,
        pipeline.owner or "",
        pipeline.prediction.at,
        rule_of(pipeline.holdout),
        {name: texts[name] for name, digest in known.items() if name in texts and digests.get(name) == digest},
    )


def rule_of(holdout: Holdout) -> str:
    """Return in words which rows are held out. Pure."""
    if holdout.column is None:
        which = f"the groups by {', '.join(holdout.by)}" if holdout.by else "the rows of each class"
        return f"{holdout.share or 0:.0%} of {which}"
    if holdout.start:
        return f"from {holdout.start} of {holdout.column}"
    return f"the last {_told_time(holdout.last or timedelta())} of {holdout.column}"


def _told_time(time: timedelta) -> str:
    """Return a duration in words: days, or hours if it is no number of whole days."""
    return f"{time.days} days" if time == timedelta(time.days) else f"{time / timedelta(hours=1):g} hours"


def _places(config: Config, active: str, candidate: Evidence) -> Iterator[CardPlace]:
    site = config.sites.get(active)
    if site is not None:
        yield _place(config, "data", f"site {active}", site)
    ran = candidate.body.get("placement") or {}
    if ran:
        pool = config.gpu_pools.get(str(ran.get("pool")))
        yield _place(config, "training", f"pool {ran.get('pool')}", pool)
    else:
        yield _place(config, "training", "the machine of the platform", config.machine)


def _place(config: Config, what: facts.What, name: str, place: Place | None) -> CardPlace:
    if place is None:
        return CardPlace(what, name, "", None, None, None)
    operator = config.operators[place.operator]
    region = operator.regions.get(place.region)
    return CardPlace(
        what,
        name,
        operator.name or place.operator,
        region.country if region else None,
        operator.jurisdiction.value,
        operator.owner_jurisdiction.value,
    )
