"""Write signed heartbeats for the watch to the backup site (backup.watch.heartbeat)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rempart.backup.watch.heartbeat import Heartbeat, encode, key_of
from rempart.errors import RempartError
from rempart.flows.shared.platform import Platform

logger = logging.getLogger(__name__)


def beat(platform: Platform, kind: str, facts: Mapping[str, Any]) -> None:
    """Write a heartbeat of one kind: `backup`, `drill` or `replication/<source>-<target>`.

    The heartbeat always goes to `backup.site`, whichever site is active, because the watch reads one place. If
    `backup.site` also stores the checkpoints, append-only credentials are enough. Errors are logged and not raised: the
    reported operation has already ended, and the watch reports a missing heartbeat.
    """
    config = platform.config
    site_name = config.backup.site
    try:
        site, permission = platform.evidence_site(site_name, write_only=site_name == config.checkpoint_site)
        platform.record(permission)
        body = encode(Heartbeat(kind, platform.clock(), facts), platform.signer())
        site.write(config.buckets.backups, key_of(kind), body, content_type="application/json")
    except Exception as error:
        # another program's error may quote its input
        told = str(error) if isinstance(error, RempartError) else type(error).__name__
        logger.warning(
            "could not write heartbeat %s to site '%s'; the watch will report it as late: %s", kind, site_name, told
        )
