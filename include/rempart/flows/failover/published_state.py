"""Publish the newest generation of the active site at each site, for readers without the database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from rempart import canonical_json
from rempart.coordination.active import Active, ActiveSites
from rempart.errors import DatabaseUnavailable, ObjectMissing, SiteError
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings.pipelines import load_all
from rempart.sites.once import bodies
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

KEY = "continuity/active.json"


def body(active: Active) -> bytes:
    """Return the published state of a site: canonical JSON without secrets."""
    at = active.at.isoformat() if active.at else None
    plain = {"generation": active.generation, "site": active.site, "state": active.state, "at": at}
    return canonical_json.encode(plain) + b"\n"


def write(active: Active, sites: Mapping[str, Callable[[], Site]], bucket: str) -> dict[str, str]:
    """Update the published state at every site that answers. Return the outcome for each; a silent site is no error.

    The caller holds the lease of the switchover, so that no newer state is published meanwhile. Reading and writing
    have one time limit (`time_limit.SITE_SECONDS`). A site that was given up before its write gets none later. A site
    that took the write and did not answer may store it late, over a newer state: `read` looks at all versions.
    """
    wanted, given_up, found = body(active), threading.Event(), dict[str, str]()
    asked = {name: partial(_update, open_site, bucket, wanted, given_up) for name, open_site in sites.items()}
    for name, outcome in time_limit.answers(asked, time_limit.SITE_SECONDS).items():
        found[name] = f"generation {active.generation}"
        if isinstance(outcome, BaseException):
            found[name] = f"behind: {time_limit.reason(outcome)}"
            logger.warning("published state at site '%s': %s", name, found[name])
    given_up.set()
    return found


def _update(open_site: Callable[[], Site], bucket: str, wanted: bytes, given_up: threading.Event) -> None:
    site = open_site()
    if _there(site, bucket) != wanted and not given_up.is_set():
        site.write(bucket, KEY, wanted, content_type="application/json")


def _at_all(sites: Mapping[str, Callable[[], Site]], bucket: str) -> Mapping[str, bytes | BaseException | None]:
    """Return the published state of each site, None where there is none, or why it is not known."""
    return time_limit.answers(
        {name: partial(_at, open_site, bucket) for name, open_site in sites.items()}, time_limit.SITE_SECONDS
    )


def _at(open_site: Callable[[], Site], bucket: str) -> bytes | None:
    """Return the latest state among the versions at a site: an older one may be stored late.

    What readers find counts if the versions are not known.
    """
    site = open_site()
    newest = _there(site, bucket)
    if newest is None or _order(newest) is None:
        return newest
    found = [newest]
    with suppress(SiteError):
        found += [state for _, state in bodies(site, bucket, KEY)]
    return max(found, key=lambda state: _order(state) or ("", -1))  # of equal ones the first


def _order(found: bytes) -> tuple[str, int] | None:
    """Return the time and the generation of a state, by which states are ordered; None for bytes that are no state.

    The time comes first, because generations start again at 1 after a restore.
    """
    try:
        told = canonical_json.read(found)
        return str(told["at"] or ""), int(told["generation"])
    except (ValueError, KeyError, TypeError):
        return None


def _there(site: Site, bucket: str) -> bytes | None:
    try:
        return site.read(bucket, KEY)
    except ObjectMissing:
        return None


def lines(platform: Platform) -> Iterator[str]:
    """Yield the active site, an unfinished switchover and the history; from the sites if the database is
    unavailable.
    """
    sites = platform.continuity.active_sites(platform.config.active_site)
    try:
        now, history = sites.active(), sites.history()
    except DatabaseUnavailable as error:
        yield f"{error.what}; the last switchover according to the sites:"
        for name, told in read(platform).items():
            yield f"  site {name}: {told}"
        return
    yield f"'{now.site}' is {now.state} (generation {now.generation})"
    if now.switchover and not now.switchover.over:
        switchover = now.switchover
        done = ", ".join(f"{step} {'done' if switchover.did(step) else 'to do'}" for step in switchover.plan)
        yield f"{switchover.kind} from '{switchover.source}' to '{switchover.target}' is in progress: {done}"
        yield f"run `rempart site failover --to {switchover.target} --yes` to continue"
    elif now.site != platform.config.active_site:
        yield f"rempart.yaml names '{platform.config.active_site}': run `rempart site failback` to return there"
    for record in history:
        why = (
            f"{record.switchover.kind} {record.switchover.source} -> {record.switchover.target}"
            if record.switchover
            else "written by hand"
        )
        yield f"  {record.generation:>4}  {record.at:%Y-%m-%d %H:%M:%S} UTC  {record.site} {record.state}  ({why})"


def facts(sites: ActiveSites, configured: str, published: Callable[[], Mapping[str, object]]) -> dict[str, Any]:
    """Return what `lines` shows, for programs: without the database, what was `published` instead of the history.

    `configured` is the active site of rempart.yaml.
    """
    try:
        now, history = sites.active(), sites.history()
    except DatabaseUnavailable as error:
        return {"configured": configured, "error": error.what, "sites": dict(published())}
    running = now.switchover if now.switchover and not now.switchover.over else None
    return {
        "configured": configured,
        "site": now.site,
        "state": now.state,
        "generation": now.generation,
        "switchover": running.as_json() if running else None,
        "history": [
            {"generation": record.generation, "site": record.site, "state": record.state, "at": record.at}
            for record in history
        ],
    }


def read(platform: Platform) -> dict[str, dict[str, Any] | str]:
    """Return the published state of each site, or why it cannot be read."""
    found: dict[str, dict[str, Any] | str] = {}
    openers = platform.openers(classification_of(load_all()))
    for name, there in _at_all(openers, platform.config.buckets.backups).items():
        if isinstance(there, BaseException):
            found[name] = time_limit.reason(there)
            continue
        try:
            found[name] = canonical_json.read(there) if there else "no published state: the platform was never switched"
        except ValueError:
            found[name] = "not JSON"
    return found
