"""Gather what decides on the versions of a model: evidence, MLflow, and the restore points of every site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rempart.backup.points import points
from rempart.errors import ObjectMissing, SiteError
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.retirement.plan import ModelFacts, VersionFacts
from rempart.flows.shared import approvals, removals, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.champions import champion_times, decisions_on, intended
from rempart.ledger.port import Evidence, Ledger
from rempart.models import removal as model_removal
from rempart.models.registry import CHAMPION
from rempart.models.removal import Registered
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Retention


@dataclass(frozen=True)
class Recorded:
    """The ledger's records of a model since its pipeline was last removed. `candidates`: bodies by version."""

    candidates: Mapping[str, Mapping[str, Any]]
    decisions: tuple[Evidence, ...]
    used: Mapping[str, datetime]
    begun: frozenset[str]
    retired: frozenset[str]
    waiting: frozenset[str]


def gather(platform: Platform, stores: ErasureStores, pipeline: ModelPipeline) -> ModelFacts:
    """Return the facts for a plan. A site that does not answer is one of them.

    Raises LedgerError, DatabaseUnavailable, TrackingUnavailable, TrackingRefused.
    """
    found, silent = _points(stores)
    registered = model_removal.registered(platform.tracking(), pipeline.name)
    rule = platform.config.retention[pipeline.classification]
    name, ledger = pipeline.name, platform.ledger
    facts = model_facts(name, recorded(ledger, name), registered, rule, found, silent, platform.clock())
    return replace(facts, altered=ledger.first_altered(removals.removal_of(ledger, name) or 0))


def model_facts(
    model: str,
    known: Recorded,
    registered: Registered,
    rule: Retention,
    found: Mapping[str, datetime],
    silent: Mapping[str, str],
    now: datetime,
) -> ModelFacts:
    """Return the facts of a model. Pure. `found`: the start of each restore point."""
    back, champion = known.retired & set(registered.versions), intended(known.decisions)
    names = {*registered.versions, *known.candidates} - (known.retired | known.begun)
    return ModelFacts(
        model,
        now,
        rule.models,
        rule.newest_models,
        tuple(
            VersionFacts(
                name,
                known.used.get(name) if name in known.candidates else None,
                tuple(alias for alias in registered.aliases.get(name, ()) if (alias, name) != (CHAMPION, champion)),
            )
            for name in sorted(names, key=lambda name: (len(name), name))
        ),
        known.decisions,
        found,
        tuple(sorted(known.begun | back)),
        tuple(sorted(known.retired - back)),
        silent,
        tuple(sorted(known.waiting)),
    )


def recorded(ledger: Ledger, model: str) -> Recorded:
    """Return what the ledger has of a model's versions. Raises LedgerError, DatabaseUnavailable."""
    removed = removals.removal_of(ledger, model)
    candidates = removals.since(ledger.find("candidate", model), removed)
    refusals = removals.since(ledger.find("refusal", model), removed)
    waits, decisions = approvals.on_record(ledger, model), decisions_on(ledger, model)
    gone = retirements.on_record(ledger, model)
    bodies = dict[str, Mapping[str, Any]]()
    for record in candidates:  # newest first
        bodies.setdefault(str(record.body["version"]), record.body)
    return Recorded(
        bodies,
        tuple(decisions),
        uses([*candidates, *refusals, *waits.values()], decisions),
        frozenset(name for name, known in gone.items() if known.ended is None),
        frozenset(name for name, known in gone.items() if known.ended is not None),
        frozenset(
            name
            for name, judged in waits.items()
            if judged.body.get("previous") == intended(decisions)  # otherwise it is judged anew before it is promoted
        ),
    )


def uses(records: Iterable[Evidence], decisions: Sequence[Evidence]) -> dict[str, datetime]:
    """Return when evidence last names each version: its training, a decision, the end of a time as champion. Pure.

    Whatever predicts does it with the champion, so that these times cover predictions, too.
    """
    found = dict[str, datetime]()
    told = [(str(record.body["version"]), record.at) for record in records]
    for decision in decisions:
        told += [(str(decision.body[name]), decision.at) for name in ("version", "replaces") if name in decision.body]
    told += [(service.version, service.until or service.since) for service in champion_times(decisions)]
    for version, at in told:
        found[version] = max(at, found.get(version, at))
    return found


def _points(stores: ErasureStores) -> tuple[dict[str, datetime], dict[str, str]]:
    """Return the restore points of all sites, and the sites that did not answer."""
    found, silent = dict[str, datetime](), dict(stores.shut)
    for name, site in stores.sites.items():
        try:
            found |= {point: points.created_at(point) for point in points.list(site, stores.config.buckets.backups)}
        except ObjectMissing:  # the site has no such bucket
            continue
        except SiteError as error:
            silent[name] = error.what
    return found, silent
