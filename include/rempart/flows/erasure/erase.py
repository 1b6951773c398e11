"""Erase rows of a data set for good, from feature stores, snapshots, deliveries and training sets at every site.

The register is written first: the next run completes an interrupted one, and no restore brings the rows back. Locked
backups are not rewritten; a restore applies the register again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rempart.backup.points.erasures import REASONS, Erasure
from rempart.coordination.active import backup_site, is_open
from rempart.errors import BackupError, FeatureError, SiteFenced
from rempart.features import offline
from rempart.flows.erasure import erase_listing, erase_objects
from rempart.flows.erasure.erase_objects import Search
from rempart.flows.erasure.erase_report import ErasureResult, places
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import feature_databases, materialize_table
from rempart.ingestion import erasing, snapshots
from rempart.ingestion.erasing import Gone
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import named
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
    wanted = set(keys)
    if dry_run:
        return look(platform, pipeline, lambda key: tuple(key) in wanted, len(wanted))
    sites, _ = erasures.open_sites(platform)
    must = backup_site(platform.config, platform.active().site)
    entries = _converged(platform, sites, must)
    before = erasures.erased_by(pipeline.name, entries, erasures.secrets_of(platform))
    if fresh := [key for key in keys if not (before and before.has(key))]:
        entries.append(erasures.new_entry(platform, pipeline.name, fresh, by, reason))
        logger.info("recorded %d rows as erased: no restore brings them back", len(fresh))
    silent = erasures.register(platform, sites, entries, must=must)
    mine = [entry for entry in entries if entry.pipeline == pipeline.name]
    return apply(platform, pipeline, mine, erasures.secrets_of(platform), silent=silent)


def again(platform: Platform) -> list[ErasureResult]:
    """Apply every recorded erasure again, for expired locks and returned sites. Raises the errors of `erase`."""
    sites, _ = erasures.open_sites(platform)
    must = backup_site(platform.config, platform.active().site)
    entries = _converged(platform, sites, must)
    silent = erasures.register(platform, sites, entries, must=must)
    return apply_all(platform, entries, erasures.secrets_of(platform), silent=silent)


def apply_all(
    platform: Platform,
    entries: Sequence[Erasure],
    secret_of: erasures.SecretOf,
    *,
    home: str | None = None,
    silent: Mapping[str, str] | None = None,
) -> list[ErasureResult]:
    """Apply entries, pipeline by pipeline.

    Raises the errors of `erase`, and PipelineError for an invalid pipeline file.
    """
    return [
        apply(
            platform,
            named(name),
            [entry for entry in entries if entry.pipeline == name],
            secret_of,
            home=home,
            silent=silent,
        )
        for name in sorted({entry.pipeline for entry in entries})
    ]


def _converged(platform: Platform, sites: Mapping[str, Site], must: str) -> list[Erasure]:
    """Return every entry in a site's register or the ledger. Report untrusted files."""
    bucket, trusted = platform.config.buckets.backups, platform.trusted_keys()
    entries, doubts, _ = erasures.registered(sites, bucket, trusted, must)
    for key, why in doubts.items():
        logger.warning("skipped %s/%s: %s. Find out who wrote it", bucket, key, why)
    found = {entry.id: entry for entry in (*entries, *erasures.on_record(platform.ledger))}
    return [found[name] for name in sorted(found)]


def look(platform: Platform, pipeline: Pipeline, gone: Gone, subjects: int) -> ErasureResult:
    """Find the rows, also in old versions of objects, without changes."""
    sites, shut = erasures.open_sites(platform)
    with spool_folder() as folder:
        scan = _search(platform, pipeline, gone, platform.active().site, folder).all(sites)
    found = places(scan) | _feature_rows(platform, pipeline, gone)
    return ErasureResult(pipeline.name, True, subjects, found, silent=shut | scan.silent, unread=scan.unread)


def apply(
    platform: Platform,
    pipeline: Pipeline,
    entries: Sequence[Erasure],
    secret_of: erasures.SecretOf,
    *,
    home: str | None = None,
    silent: Mapping[str, str] | None = None,
) -> ErasureResult:
    """Remove the rows of these entries everywhere. Safe to repeat. `home` is the site where pipelines work.

    The replacement of an object is stored and recorded before any version is deleted. Raises the errors of `erase`.
    """
    who = erasures.erased_by(pipeline.name, entries, secret_of)
    if who is None:
        return ErasureResult(pipeline.name, False, 0, {})
    with spool_folder() as folder:
        return _apply(platform, pipeline, who, folder, home=home, silent=silent or {})


def _apply(
    platform: Platform,
    pipeline: Pipeline,
    who: erasures.Erased,
    folder: Path,
    *,
    home: str | None,
    silent: Mapping[str, str],
) -> ErasureResult:
    active = is_open(platform.active())
    home, bucket = home or active.site, platform.config.buckets.lake
    sites, shut = erasures.open_sites(platform, home)
    search = _search(platform, pipeline, who.has, home, folder)
    scan = search.all(sites)
    found = places(scan) | _feature_rows(platform, pipeline, who.has)
    told = erase_objects.store(sites[home], bucket, scan.held)
    known = erasures.rewritten(platform.ledger)
    news = [
        change
        for change in told
        if known.get((bucket, change["key"]), ()) != (change["to"] and (change["to"], change["to_sha256"]))
    ]
    if news:
        platform.ledger.append("erasure", pipeline.name, {"state": "rewritten", "successors": news})
    with platform.continuity.active_sites(platform.config.active_site).barrier(BARRIER_SECONDS):
        if is_open(platform.active()).generation != active.generation:
            raise SiteFenced(
                f"The active site changed while rows of '{pipeline.name}' were erased", "Run `rempart erase --again`."
            )
        if erase_objects.repoint(platform, sites[home], bucket, pipeline, scan.succeeded):
            logger.info("published a snapshot of '%s' without the erased rows", pipeline.name)
    with platform.committing(active):
        _strike_features(platform, pipeline, sites[home])
    deleted, locked, failed = erase_objects.delete_versions(platform, sites, bucket, scan.held)
    second = search.all({name: site for name, site in sites.items() if name not in {**failed, **scan.silent}})
    left = sum(
        f"{bucket}/{held_object.info.key} at site '{held_object.site}'" not in locked for held_object in second.held
    )
    left += sum(_feature_rows(platform, pipeline, who.has).values())
    result = ErasureResult(
        pipeline.name,
        False,
        who.subjects,
        found,
        deleted,
        len(told),
        locked,
        {**silent, **shut, **scan.silent, **failed},
        scan.unread,
        left,
    )
    _record(platform, result, who)
    return result


def _search(platform: Platform, pipeline: Pipeline, gone: Gone, home: str, folder: Path) -> Search:
    known = partial(erase_listing.known, platform, pipeline.name)
    return Search(pipeline, platform.config.buckets.lake, gone, home, known, folder)


def _record(platform: Platform, result: ErasureResult, who: erasures.Erased) -> None:
    """Record the outcome as evidence, unless the previous run had the same outcome and this one found nothing."""
    pending = sorted({*(f"{key}, locked until {at:%Y-%m-%d}" for key, at in result.locked.items()), *result.silent})
    body = {
        "state": "ended",
        "erasures": sorted(who.entries),
        "found": dict(result.found),
        "deleted": result.deleted,
        "rewritten": result.rewritten,
        "pending": pending,
        "unread": sum(result.unread.values()),
        "left": result.left,
    }
    records = platform.ledger.find("erasure", result.pipeline, limit=erasures.ALL)
    last = next((record.body for record in records if record.body["state"] == "ended"), None)
    same = last is not None and all(last[name] == body[name] for name in ("erasures", "pending", "left"))
    if not same or result.found:
        platform.ledger.append("erasure", result.pipeline, body)


def _strike_features(platform: Platform, pipeline: Pipeline, site: Site) -> None:
    """Load the current snapshot into both feature stores; do nothing if no snapshot was ever loaded."""
    databases, bucket = feature_databases(platform), platform.config.buckets.lake
    if not _is_loaded(platform, pipeline):
        return
    current = snapshots.current(site, bucket, pipeline.name)
    if current is None:
        raise FeatureError(
            f"The feature store has rows of '{pipeline.name}', but its lake has no snapshot to load instead",
            f"Restore dataset:{pipeline.name} first, then run `rempart erase --again`.",
        )
    table = snapshots.load_table(site, bucket, current)
    materialize_table(databases, pipeline, table, current.id, platform.clock())


def _is_loaded(platform: Platform, pipeline: Pipeline) -> bool:
    try:
        offline.loaded_snapshot(feature_databases(platform), pipeline)
    except FeatureError:
        return False
    return True


def _feature_rows(platform: Platform, pipeline: Pipeline, gone: Gone) -> dict[str, int]:
    rows = sum(gone(key) for key in offline.keys(feature_databases(platform), pipeline))
    return {"feature stores, offline and online": rows} if rows else {}
