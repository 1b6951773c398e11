"""The hour files of the prediction log at a site: those that evidence names, and their entries.

A file that no evidence names is not part of the log, whatever it holds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rempart.errors import IntegrityError
from rempart.flows.shared import erasures, removals
from rempart.ledger.port import Ledger
from rempart.serving import hour_files
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
RECENT = 500
"""Records in which those of the last day are, as a rule."""


def on_record(ledger: Ledger, bucket: str, pipeline: str, keys: Collection[str]) -> set[str]:
    """Return which of these keys evidence names: of a shipment, or of a file that an erasure wrote anew.

    Evidence from before the pipeline was removed does not count. Raises LedgerError, DatabaseUnavailable.
    """
    found, wanted = set[str](), set(keys)
    removed = removals.removal_of(ledger, pipeline) if wanted else None
    for limit in (RECENT, None):
        if not wanted - found:
            return found
        for record in removals.since(ledger.find("prediction-log", pipeline, limit=limit), removed):
            if record.body["state"] == "shipped" and record.body["bucket"] == bucket:
                found |= wanted.intersection(str(each["key"]) for each in record.body["objects"])
        found |= wanted.intersection(to[0] for (of, _), to in erasures.rewritten(ledger).items() if to and of == bucket)
    return found


def bodies(
    ledger: Ledger, site: Site, bucket: str, pipeline: str, hours: Collection[datetime]
) -> Iterator[tuple[str, bytes]]:
    """Yield key and content of the files of these hours (aware datetimes, each within its hour), by key.

    Raises IntegrityError for a file that differs from its evidence, SiteError, LedgerError.
    """
    folders = sorted({hour_files.hour_folder(pipeline, hour) for hour in hours})
    listed = [info.key for where in folders for info in site.list(bucket, where)]
    named = on_record(ledger, bucket, pipeline, listed)
    for key in sorted(listed):
        if key not in named:
            logger.warning("skipped %s/%s at site '%s': no evidence names it", bucket, key, site.name)
            continue
        body = site.read(bucket, key)
        if f"{hashlib.sha256(body).hexdigest()}.parquet" != key.rsplit("/", 1)[-1]:
            raise IntegrityError(
                f"read {bucket}/{key} at site '{site.name}': it differs from its evidence (SHA-256)",
                "Run verify_replicas, which heals it from another site.",
            )
        yield key, body


def entries(
    ledger: Ledger, site: Site, bucket: str, pipeline: str, since: datetime, until: datetime
) -> Iterator[pa.Table]:
    """Yield the entries from `since` to before `until`, with the columns of `serving.hour_files`, file by file.

    Raises the errors of `bodies`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    bound = pa.timestamp("us", "UTC")
    for hour in hours_of(since, until):
        for _, body in bodies(ledger, site, bucket, pipeline, [hour]):
            table = hour_files.read(body)
            inside = pc.and_(
                pc.greater_equal(table["at"], pa.scalar(since, bound)), pc.less(table["at"], pa.scalar(until, bound))
            )
            yield table.filter(inside)


def hours_of(since: datetime, until: datetime) -> Iterator[datetime]:
    """Yield each hour that begins before `until` and ends after `since`. Pure."""
    hour = since.replace(minute=0, second=0, microsecond=0)
    while hour < until:
        yield hour
        hour += timedelta(hours=1)
