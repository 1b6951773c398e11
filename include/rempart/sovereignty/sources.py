"""Decide about a pipeline's source: whether its place is declared, and whether data may be read from it. Pure."""

from __future__ import annotations

from datetime import date
from urllib.parse import urlsplit

from rempart.settings.config import Config
from rempart.settings.sources import AnySource, DerivedSource, FilesSource, HttpSource, SiteSource, SqlSource
from rempart.sovereignty.places import (
    decide_connection,
    decide_origin,
    decide_origin_connection,
    decide_origin_host,
)
from rempart.sovereignty.policy import Decision, unknown


def decide_source(config: Config, classification: str, source: AnySource, *, on: date) -> Decision | None:
    """Decide whether data of a classification may be read from this source; None where files arrive by themselves."""
    if fault := source_fault(config, source):
        remedy = "Correct `source` in the pipeline file, or declare the place in rempart.yaml."
        return unknown(
            classification, "origin", f"source '{getattr(source, 'site', '')}'", "source.site", fault, remedy
        )
    match source:
        case HttpSource():
            address = urlsplit(source.url)
            port = address.port or {"http": 80, "https": 443}[address.scheme]
            decision = decide_origin_host(config, classification, address.hostname or "", port, on=on)
            if decision.allowed and source.connection:
                return decide_origin_connection(config, classification, source.connection, on=on)
            return decision
        case SqlSource():
            if source.connection not in config.connections:  # a database is written to by others: never an origin alone
                return decide_connection(config, classification, source.connection, on=on)
            return decide_origin_connection(config, classification, source.connection, on=on)
        case SiteSource() | FilesSource():
            return decide_origin(config, classification, source.site, on=on) if source.site else None
        case DerivedSource():  # it reads snapshots that are here
            return None


def source_fault(config: Config, source: AnySource) -> str | None:
    """Return why a bucket cannot be a source, or None.

    The platform's own buckets hold data of every classification, so no pipeline takes files from them.
    """
    if isinstance(source, SiteSource):
        origin = config.origins.get(source.site)
        if origin is None:
            return f"'{source.site}' is not one of origins: {', '.join(config.origins) or 'none declared'}"
        if origin.connection is None:
            return f"origins.{source.site} has no `connection`, so it is no bucket"
    if isinstance(source, FilesSource) and source.site is not None:
        if source.site not in config.sites:
            return f"'{source.site}' is not one of sites: {', '.join(config.sites)}"
        if source.bucket in config.buckets.model_dump().values():
            return f"bucket '{source.bucket}' is the platform's own, with data of every classification"
    return None
