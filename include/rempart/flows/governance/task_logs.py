"""Store logs of Airflow tasks on the active site, for components that share no volume."""

from __future__ import annotations

from rempart.errors import ObjectMissing
from rempart.flows.shared.platform import Platform
from rempart.sites.port import Site
from rempart.sovereignty.places import decide_site

PREFIX = "airflow/logs"
"""Prefix of task logs in the bucket of artifacts; Airflow names the files below it."""


def write(site: Site, bucket: str, name: str, lines: bytes) -> str:
    """Append to a task log and return its location. A deferred task continues the same log. Raises SiteError."""
    key = f"{PREFIX}/{name}"
    try:
        before = site.read(bucket, key)
    except ObjectMissing:
        before = b""
    site.write(bucket, key, before + lines)
    return f"{bucket}/{key} at site '{site.name}'"


def read(site: Site, bucket: str, name: str) -> dict[str, str]:
    """Return a task log and the logs of its triggers, by location. Raises SiteError."""
    found = sorted(info.key for info in site.list(bucket, f"{PREFIX}/{name}"))
    return {f"{bucket}/{key} at site '{site.name}'": site.read(bucket, key).decode(errors="replace") for key in found}


def open_store(platform: Platform) -> tuple[Site, str]:
    """Return the active site and the bucket of the logs, fenced or not: a log commits nothing. No decision is recorded.

    Raises PlacementDenied, DatabaseUnavailable.
    """
    name, bucket = platform.active().site, platform.config.buckets.artifacts
    if known := platform.sites.get(name):
        return known, bucket
    from rempart.sites.s3.site import S3Site

    place = platform.config.sites[name]
    connection = platform.connections(place.connection)
    endpoint = connection.extra.get("endpoint_url")
    decision = decide_site(platform.config, "internal", "data", name, on=platform.clock().date(), endpoint=endpoint)
    if not decision.allowed:
        raise decision.refusal()
    return S3Site(name, connection, place.region, decision, most_listed=place.most_listed), bucket
