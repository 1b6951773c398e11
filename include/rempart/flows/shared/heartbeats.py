"""Tell the watch that something ended: a signed heartbeat at the backup site (backup.watch.heartbeat)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rempart.backup.watch.heartbeat import Heartbeat, encode, key_of
from rempart.errors import RempartError
from rempart.flows.shared.platform import Platform

log = logging.getLogger("rempart.heartbeat")


def beat(platform: Platform, kind: str, facts: Mapping[str, Any]) -> None:
    """Write the heartbeat of a kind (`backup`, `drill`, `replication/<source>-<target>`), now.

    It always goes to `backup.site`, whichever site is the active one: the watch reads one place. Where that is also the
    site of the checkpoints, the credentials that can only add are enough. What it tells of has ended by now, so nothing
    that goes wrong here is raised: the log says it, and the silence is red at the watch.
    """
    config = platform.config
    site_name = config.backup.site
    try:
        site, permission = platform.evidence_site(site_name, write_only=site_name == config.checkpoint_site)
        platform.record(permission)
        body = encode(Heartbeat(kind, platform.clock(), facts), platform.signer())
        site.write(config.buckets.backups, key_of(kind), body, content_type="application/json")
    except Exception as error:
        # another program's error may quote what it was given
        told = str(error) if isinstance(error, RempartError) else type(error).__name__
        log.warning("No heartbeat of %s at site '%s': the watch will say that it is late. %s", kind, site_name, told)
