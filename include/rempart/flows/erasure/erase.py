"""Erase rows of a data set for good, from feature stores, snapshots, deliveries and training sets at every site.

The register is written first: the next run completes an interrupted one, and no restore brings the rows back. Locked
backups are not rewritten; a restore applies the register again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rempart.backup.points.erasures import REASONS, Erasure
from rempart.coordination.active import backup_site, is_open
from rempart.errors import BackupError, RempartError, SiteFenced
from rempart.features import offline
from rempart.features.databases import FeatureDatabases
from rempart.flows.erasure import (
    erase_derived,
    erase_descendant_logs,
    erase_labels,
    erase_landing,
    erase_listing,
    erase_logged,
    erase_objects,
    erase_predictions,
    erase_used,
    erase_versions,
)
from rempart.flows.erasure.erase_labels import LabelledPipeline
from rempart.flows.erasure.erase_objects import Scan, Search
from rempart.flows.erasure.erase_report import DescendantResult, ErasureResult, places
from rempart.flows.erasure.erase_stores import ErasureStores, open_stores, reload_features
from rempart.flows.erasure.erase_versions import Derived, in_snapshots
from rempart.flows.ingestion.extract import extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared import erasures
from rempart.flows.shared.keys import open_keyring
from rempart.flows.shared.platform import Platform
from rempart.ingestion import erasing
from rempart.ingestion.erasing import IsErased
from rempart.ledger.port import Ledger
from rempart.serving import hour_files
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import named_or_removed
from rempart.settings.sources import is_extracted
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)

BARRIER_SECONDS = 300.0
"""Seconds for which an erasure waits for running commits."""
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,39}")


def read_keys(pipeline: Pipeline, keys: Iterable[str]) -> list[tuple[Any, ...]]:
    """Parse keys of rows as people write them: the columns of `key`, separated by |.

    Raises BackupError with the position of an invalid key, and never quotes it.
    """
    cut = [_columns(key, len(pipeline.key)) for key in dict.fromkeys(keys) if key.strip()]
    wrong = next((number for number, key in enumerate(cut, 1) if len(key) != len(pipeline.key)), None)
    typed = erasing.typed_keys(cut, pipeline) if wrong is None else []
    wrong = wrong or next((number for number, key in enumerate(typed, 1) if key is None), None)
    if wrong or not cut:
        columns = ", ".join(f"{name} ({pipeline.columns[name].type})" for name in pipeline.key)
        raise BackupError(
            f"Key {wrong} of {len(cut)} is none of '{pipeline.name}'" if wrong else "No key was given",
            f"Write {columns} for each row" + (", with | between them." if len(pipeline.key) > 1 else "."),
        )
    return [key for key in typed if key is not None]


def _columns(text: str, count: int) -> list[str]:
    if count == 1:
        return [text.strip()]
    return [re.sub(r"\\(.)", r"\1", column) for column in re.findall(r"(?:^|\|)((?:\\.|[^\\|])*)", text.strip())]


def erase(
    platform: Platform,
    pipeline: Pipeline,
    keys: Sequence[tuple[Any, ...]],
    *,
    by: str,
    reason: str,
    dry_run: bool = True,
) -> ErasureResult:
    """Erase the rows with these keys; with `dry_run` (default) only search for them.

    `by` is a role and `reason` one of `erasures.REASONS`: neither names a person. Recorded rows are not recorded again.
    Raises BackupError for an unknown role or reason, SiteError, DatabaseUnavailable, FeatureError, LeaseHeld,
    SiteFenced.
    """
    if not dry_run and not (_ROLE.fullmatch(by) and reason in REASONS):
        raise BackupError(
            "An erasure is recorded with a role and a reason code, without personal data",
            f"Pass --role data-protection-officer, and --reason with one of {', '.join(REASONS)}.",
        )
    wanted, stores = set(keys), open_stores(platform)
    if dry_run:
        derived = erase_derived.descendants(stores, [pipeline.name])
        below = [DescendantResult(name) for name in derived]
        below += [DescendantResult(name, uses=True) for name in erase_used.users(stores, [pipeline.name, *derived])]
        logged = erase_logged.by_keys(pipeline, keys, erasures.secrets_of(platform))
        found = look(stores, pipeline, lambda key: tuple(key) in wanted, len(wanted), logged)
        return replace(found, descendants=below)
    config, register, secret_of = platform.config, erasures.open_register(platform), erasures.secrets_of(platform)
    must = backup_site(config, stores.active.site)
    entries = _converged(stores, register, platform.trusted_keys(), must)
    before = erasures.erased_by(pipeline.name, entries, secret_of)
    if fresh := [key for key in keys if not (before and before.has(key))]:
        keyring, now = open_keyring(platform), platform.clock()
        key = erasures.pseudonym_key(platform.ledger, keyring, register.kept)
        for each in (key, *erase_logged.former_keys(platform.ledger, keyring, pipeline.name, key)):
            entries.append(erasures.new_entry(each, now, pipeline.name, fresh, by, reason))
        logger.info("recorded %d rows as erased: no restore brings them back", len(fresh))
    silent = register.write(stores.sites, entries, must=must)
    mine = [entry for entry in entries if entry.pipeline == pipeline.name]
    done = apply(stores, pipeline, mine, secret_of, silent=silent)
    return _followed(stores, done, partial(derive_again, platform))


def _followed(stores: ErasureStores, done: ErasureResult, derive: erase_derived.Derive | None) -> ErasureResult:
    """Follow an erasure in pipelines that are derived from its pipeline, and in those that use views of any of these.

    Their prediction logs follow last, when their features are clean. Return its result with theirs.
    """
    derived = erase_derived.follow(stores, [done.pipeline], derive)
    users = erase_used.follow(stores, [done.pipeline, *(each.pipeline for each in derived)])
    return replace(done, descendants=[erase_descendant_logs.follow(stores, each) for each in (*derived, *users)])


def derive_again(platform: Platform, pipeline: Pipeline) -> None:
    """Derive the rows of a pipeline again, and ingest them. Raises the errors of `extract` and `ingest`."""
    extract(platform, pipeline)
    ingest(platform, pipeline)


def again(platform: Platform) -> list[ErasureResult]:
    """Apply every recorded erasure again, for expired locks and returned sites. Raises the errors of `erase`."""
    stores, register = open_stores(platform), erasures.open_register(platform)
    must = backup_site(platform.config, stores.active.site)
    entries = _converged(stores, register, platform.trusted_keys(), must)
    silent = register.write(stores.sites, entries, must=must)
    derive = partial(derive_again, platform)
    return apply_all(stores, entries, erasures.secrets_of(platform), silent=silent, derive=derive)


def apply_all(
    stores: ErasureStores,
    entries: Sequence[Erasure],
    secret_of: erasures.SecretOf,
    *,
    silent: Mapping[str, str] | None = None,
    derive: erase_derived.Derive | None = None,
) -> list[ErasureResult]:
    """Apply entries, pipeline by pipeline, and follow each in pipelines that are derived from it or use its views.

    Without `derive` these have no snapshot until their next run. A failure of one pipeline does not keep the others,
    unless the active site changed. Raises the first failure at the end: the errors of `erase`, and PipelineError for an
    invalid pipeline file.
    """
    done, failed = list[ErasureResult](), list[RempartError]()
    for name in sorted({entry.pipeline for entry in entries}):
        mine = [entry for entry in entries if entry.pipeline == name]
        try:
            done.append(apply(stores, named_or_removed(name), mine, secret_of, silent=silent))
        except SiteFenced:
            raise
        except RempartError as error:
            logger.exception("the erasure in pipeline '%s' is not complete", name)
            failed.append(error)
    followed = [_followed(stores, of, derive) for of in done]
    for first in failed:
        raise first
    return followed


def _converged(
    stores: ErasureStores, register: erasures.Register, trusted: Mapping[str, bytes], must: str
) -> list[Erasure]:
    """Return every entry in a site's register or the ledger. Report untrusted files."""
    entries, doubts, _ = erasures.registered(stores.sites, register.bucket, trusted, must)
    for key, why in doubts.items():
        logger.warning("skipped %s/%s: %s. Find out who wrote it", register.bucket, key, why)
    found = {entry.id: entry for entry in (*entries, *erasures.on_record(stores.ledger))}
    return [found[name] for name in sorted(found)]


def look(
    stores: ErasureStores, pipeline: Pipeline, gone: IsErased, subjects: int, logged: hour_files.IsErased
) -> ErasureResult:
    """Find the rows, also in old versions of objects, without changes."""
    labelled = erase_labels.readers(stores, pipeline, gone)
    with spool_folder() as folder:
        scan = _scan(_searches(stores, pipeline, gone, logged, labelled, folder), stores.sites)
        landed = erase_landing.search(stores, pipeline, gone, folder)
    found = places(scan) | landed.places() | _feature_rows(stores.features(), pipeline, gone, labelled)
    theirs, shut = erase_predictions.in_user_tables(stores, pipeline, gone, dry_run=True)
    silent, faults = {**stores.shut, **scan.silent, **landed.silent}, {**scan.faults, **landed.faults, **shut}
    return ErasureResult(
        pipeline.name, True, subjects, found | theirs, silent=silent, unread=scan.unread | landed.unread, faults=faults
    )


def apply(
    stores: ErasureStores,
    pipeline: Pipeline,
    entries: Sequence[Erasure],
    secret_of: erasures.SecretOf,
    *,
    silent: Mapping[str, str] | None = None,
) -> ErasureResult:
    """Remove the rows of these entries everywhere. Safe to repeat.

    The replacement of an object is stored and recorded before any version is deleted. Raises the errors of `erase`.
    """
    who = erasures.erased_by(pipeline.name, entries, secret_of)
    if who is None:
        return ErasureResult(pipeline.name, False, 0, {})
    with spool_folder() as folder:
        return _apply(stores, pipeline, who, erase_logged.by_entries(pipeline, entries), folder, silent or {})


def _apply(
    stores: ErasureStores,
    pipeline: Pipeline,
    who: erasures.Erased,
    logged: hour_files.IsErased,
    folder: Path,
    silent: Mapping[str, str],
) -> ErasureResult:
    active, bucket, sites = is_open(stores.active), stores.lake, stores.sites
    home, ledger, features = sites[stores.home], stores.ledger, stores.features()
    labelled = erase_labels.readers(stores, pipeline, who.has)
    searches = _searches(stores, pipeline, who.has, logged, labelled, folder)
    scan = _scan(searches, sites)
    told = erase_objects.store(home, bucket, scan.held)
    known = erasures.rewritten(ledger)
    news = [
        change
        for change in told
        if known.get((bucket, change["key"]), ()) != (change["to"] and (change["to"], change["to_sha256"]))
    ]
    if news:
        ledger.append("erasure", pipeline.name, {"state": "rewritten", "successors": news})
    with stores.active_sites.barrier(BARRIER_SECONDS):
        if is_open(stores.active_sites.active()).generation != active.generation:
            raise SiteFenced(
                f"The active site changed while rows of '{pipeline.name}' were erased",
                "Run `rempart pipeline erase --again`.",
            )
        if erase_objects.repoint(stores, pipeline, scan.succeeded):
            logger.info("published a snapshot of '%s' without the erased rows", pipeline.name)
        table = erase_versions.restart_table(stores, pipeline.name) if in_snapshots(scan.held) else None
        tables = erase_predictions.repoint(home, bucket, pipeline.name, scan.held)
    landed = erase_landing.search(stores, pipeline, who.has, folder)
    erase_landing.store(stores, landed)
    unanswered = erase_landing.clear_jobs(stores, pipeline)
    found = places(scan) | landed.places() | _feature_rows(features, pipeline, who.has, labelled)
    theirs, shut = erase_predictions.in_user_tables(stores, pipeline, who.has, dry_run=False)
    found |= theirs
    with stores.active_sites.committing(active):
        reload_features(stores, features, pipeline)
        erase_labels.strike(stores, features, pipeline, labelled)
    extracted = is_extracted(pipeline.source)
    derived = Derived(pipeline, in_snapshots(scan.held), table, extracted, tables) if scan.held else None
    condemned = erase_versions.condemn(stores, pipeline.name, scan.held, derived)
    deleted = erase_versions.delete_versions(stores, scan.held, derived, condemned=condemned)
    waiting = erase_versions.delete_versions(stores, landed.held, bucket=stores.config.buckets.landing)
    locked, failed = deleted.locked | waiting.locked, deleted.failed | waiting.failed
    second = _scan(searches, {name: site for name, site in sites.items() if name not in {**failed, **scan.silent}})
    left = sum(
        f"{bucket}/{held_object.info.key} at site '{held_object.site}'" not in locked for held_object in second.held
    )
    left += sum(_feature_rows(features, pipeline, who.has, labelled).values())
    left += len(erase_landing.search(stores, pipeline, who.has, folder).held) - len(waiting.locked)
    result = ErasureResult(
        pipeline.name,
        False,
        who.subjects,
        found,
        deleted.rows + waiting.rows,
        len(told),
        locked,
        {**silent, **stores.shut, **unanswered, **scan.silent, **landed.silent, **failed},
        {**scan.unread, **landed.unread},
        left,
        {**scan.faults, **landed.faults, **shut},
        derived={"Delta log": deleted.log, "profiles": deleted.profiles, "states of the source": deleted.states},
    )
    _record(ledger, result, who)
    return result


def _searches(
    stores: ErasureStores,
    pipeline: Pipeline,
    gone: IsErased,
    logged: hour_files.IsErased,
    labelled: Sequence[LabelledPipeline],
    folder: Path,
) -> list[Search]:
    """Return the searches of a pipeline's objects, and of training sets that have labels of it."""
    known = partial(erase_listing.known, stores.config, stores.continuity, pipeline.name)
    own = Search(
        pipeline, stores.lake, gone, stores.home, known, folder, cut_log=partial(hour_files.without, gone=logged)
    )
    return [own, *(reader.search(stores, folder) for reader in labelled)]


def _scan(searches: Sequence[Search], sites: Mapping[str, Site]) -> Scan:
    """Return what all searches found at these sites."""
    scan = Scan()
    for search in searches:
        scan.add(search.all(sites))
    return scan


def _record(ledger: Ledger, result: ErasureResult, who: erasures.Erased) -> None:
    """Record the outcome as evidence, unless the previous run had the same outcome and this one found nothing."""
    locked = (f"{key}, locked until {at:%Y-%m-%d}" for key, at in result.locked.items())
    pending = sorted({*locked, *(f"{key}, not searched" for key in result.faults), *result.silent})
    body = {
        "state": "ended",
        "erasures": sorted(who.entries),
        "found": dict(result.found),
        "deleted": result.deleted,
        "derived": dict(result.derived),
        "rewritten": result.rewritten,
        "pending": pending,
        "unread": sum(result.unread.values()),
        "left": result.left,
    }
    records = ledger.find("erasure", result.pipeline)
    last = next((record.body for record in records if record.body["state"] == "ended"), None)
    same = last is not None and all(last[name] == body[name] for name in ("erasures", "pending", "left"))
    if not same or result.found:
        ledger.append("erasure", result.pipeline, body)


def _feature_rows(
    databases: FeatureDatabases, pipeline: Pipeline, gone: IsErased, labelled: Sequence[LabelledPipeline]
) -> dict[str, int]:
    rows = {"feature stores, offline and online": sum(gone(key) for key in offline.keys(databases, pipeline))}
    for reader in labelled:
        rows[f"labels in the feature store of '{reader.pipeline.name}'"] = reader.labels(databases)
    return {place: count for place, count in rows.items() if count}
