"""Find the training jobs of a pipeline, whose folders `jobs/<id>/` go with it: orders, models, checkpoints, cards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from rempart.errors import ObjectMissing, SiteError
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.ingestion import erasing
from rempart.ledger.port import Ledger
from rempart.sites.port import Site
from rempart.training.attempts.record import ORDER

FOLDER = "jobs/"
ORDERS = (ORDER, "spec.json")
"""Files that say of which pipeline a job is; the first cannot be written by the job itself. They are deleted last, so
that a killed deletion finds the rest.
"""


def of_pipeline(stores: ErasureStores, name: str) -> frozenset[str]:
    """Return the ids of a pipeline's jobs: those on record as candidates, and others that have an order at a site.

    Who deletes lists each site, too, and hears of one that does not answer. Raises LedgerError, DatabaseUnavailable.
    """
    known = _on_record(stores.ledger)
    bucket, mine = stores.config.buckets.artifacts, {job for job, pipeline in known.items() if pipeline == name}
    for site in stores.sites.values():
        with suppress(SiteError):
            others = set(_listed(site, bucket)) - known.keys() - mine
            mine |= {job for job in others if _pipeline_of(site, bucket, job) == name}
    return frozenset(mine)


def job_of(key: str) -> str:
    """Return the id of the job in whose folder an object is, also of a copy that a reconciliation kept aside.

    Empty for any other object.
    """
    original = erasing.original(key)
    return original.removeprefix(FOLDER).partition("/")[0] if original.startswith(FOLDER) else ""


def _on_record(ledger: Ledger) -> Mapping[str, str]:
    """Return the pipeline of each job that gave a candidate."""
    return {str(record.body["job_id"]): record.subject for record in ledger.find("candidate")}


def _listed(site: Site, bucket: str) -> Iterator[str]:
    yield from (job_of(info.key) for info in site.list(bucket, FOLDER))


def _pipeline_of(site: Site, bucket: str, job: str) -> str | None:
    """Return the pipeline that a job's order names; None without a readable order."""
    for file in ORDERS:
        try:
            order = json.loads(site.read(bucket, f"{FOLDER}{job}/{file}"))
        except (ObjectMissing, ValueError):
            continue
        return str(order.get("pipeline")) if isinstance(order, dict) else None
    return None
