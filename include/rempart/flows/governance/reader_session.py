"""A person's session at a site, to explore one pipeline: it reads snapshots and rows to learn from, and ends."""

from __future__ import annotations

from datetime import datetime, timedelta

from rempart.errors import ConfigError
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings.config import Connection
from rempart.settings.pipeline import Pipeline
from rempart.sites.s3 import sessions
from rempart.sovereignty.places import decide_site
from rempart.training import data_rights


def open_session(platform: Platform, site: str, pipeline: Pipeline, length: timedelta) -> tuple[Connection, datetime]:
    """Return a site's connection with the session's credentials, and when it ends.

    It reads the pipeline's snapshots and its rows to learn from, never held-out rows, and writes nothing. The policy is
    asked first, and its answer is evidence. `length`: within what the site allows. Raises ConfigError if the site has
    no role for sessions; PlacementDenied; SiteError and its kinds.
    """
    declared = platform.config.sites[site]
    if (offered := declared.job_credentials) is None or offered.kind != "session":
        raise ConfigError(
            f"make a session that reads pipeline '{pipeline.name}' at site '{site}': the site has no role for sessions",
            "Create a key at the operator with the policy of docs/how-to/explore-in-a-notebook.md, or declare "
            "`job_credentials: {kind: session, ...}` (docs/how-to/gpu-pools.md).",
        )
    own, lake = platform.connections(declared.connection), platform.config.buckets.lake
    endpoint, today = own.extra.get("endpoint_url"), platform.clock().date()
    decision = decide_site(platform.config, pipeline.classification, "data", site, on=today, endpoint=endpoint)
    platform.record(decision)
    folder = snapshots.folder(pipeline.name)
    request = sessions.Request(
        name=f"reads-{pipeline.name}"[:64],
        policy=data_rights.text(data_rights.reader(lake, pipeline.name, folder)),
        seconds=int(length.total_seconds()),
        must=(lake, f"{folder}current.json"),
        must_not=lake,
    )
    return sessions.assume(site, own, declared.region, offered, request, decision)
