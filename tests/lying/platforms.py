"""A platform that reaches one of its sites through a lying site."""

from __future__ import annotations

import dataclasses

from rempart.flows.shared.platform import Platform
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.places import decide_site


def reached_through(platform: Platform, name: str, url: str) -> Platform:
    """The same platform, whose site is reached through another address; the proofs of the real site still count."""
    connection = platform.connections(platform.config.sites[name].connection)
    there = dataclasses.replace(connection, extra={**connection.extra, "endpoint_url": url})
    allowed = decide_site(platform.config, "personal", "data", name, on=platform.clock().date(), endpoint=url)
    site = S3Site(name, there, platform.config.sites[name].region, allowed)
    site.endpoint = connection.extra["endpoint_url"]
    return dataclasses.replace(platform, sites={**platform.sites, name: site})
