"""Store the data profile of a snapshot beside it, as one HTML page under `profiles/<pipeline>/`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from rempart.errors import RempartError
from rempart.flows.shared.removal import Removed, delete_below
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.profiles.measures import Profile, profile
from rempart.ingestion.profiles.page import page
from rempart.ingestion.snapshots import Snapshot
from rempart.sites.once import put_again, read_named
from rempart.sites.port import Site

logger = logging.getLogger(__name__)
_MEMORY = 256 << 20


def folder(pipeline: str) -> str:
    """Return the prefix of a pipeline's profiles. Erasure deletes all versions below it."""
    return f"profiles/{pipeline}/"


def key(pipeline: str, snapshot: str) -> str:
    """Return the key of a snapshot's profile."""
    return f"{folder(pipeline)}{snapshot}.html"


def delete(site: Site, bucket: str, pipeline: str, now: datetime) -> Removed:
    """Delete a pipeline's profiles in every version. Raises SiteError."""
    return delete_below(site, bucket, folder(pipeline), now)


def publish(site: Site, bucket: str, snapshot: Snapshot, parts: Mapping[str, Path]) -> str | None:
    """Measure a committed snapshot, store its profile, and return its key.

    `parts`: files of parts by their key, as far as they are on this machine; the others are read from the site. A
    profile that cannot be made is a warning and returns None: the snapshot stands without it.
    """
    import duckdb

    where = key(snapshot.pipeline, snapshot.id)
    try:
        found = measured(site, bucket, snapshot, parts)
        put_again(
            site,
            bucket,
            where,
            page(found).encode(),
            metadata={"retain-until": snapshot.retain_until.isoformat()},
            content_type="text/html; charset=utf-8",
        )
    except (RempartError, duckdb.Error) as error:  # DuckDB's message may quote a value
        cause = error.what if isinstance(error, RempartError) else f"DuckDB answered {type(error).__name__}"
        logger.warning("no data profile of snapshot %s of '%s': %s", snapshot.id, snapshot.pipeline, cause)
        return None
    return where


def measured(site: Site, bucket: str, snapshot: Snapshot, parts: Mapping[str, Path]) -> Profile:
    """Return the profile of a snapshot. Raises SiteError, IntegrityError, duckdb.Error."""
    with tempfile.TemporaryDirectory(prefix="rempart-profile-") as name:
        scratch = Path(name)
        files = []
        for i, part in enumerate(snapshot.parts):
            if (file := parts.get(part.key)) is None:
                file = scratch / f"{i:06d}.parquet"
                file.write_bytes(read_named(site, bucket, part.key, part.sha256))
            files.append(file)
        return profile(
            files,
            {name: column.type for name, column in snapshot.columns.items()},
            snapshot.key,
            Resources(memory=_MEMORY, threads=2, spill=scratch / "spill"),
            pipeline=snapshot.pipeline,
            snapshot=snapshot.id,
            classification=snapshot.classification,
        )
