"""Write a site's address and key as environment variables of S3 clients."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from difflib import get_close_matches

from rempart.errors import ConfigError
from rempart.settings.config import Config, Connection
from rempart.settings.sections import SiteConfig
from rempart.sites.s3.client import SESSION_TOKEN


def chosen(config: Config, name: str) -> SiteConfig:
    """Return the settings of a site. Raises ConfigError for an unknown name."""
    if name not in config.sites:
        close = get_close_matches(name, config.sites, n=1)
        known = f"Did you mean {close[0]}?" if close else f"Pass one of: {', '.join(config.sites)}."
        raise ConfigError(f"site '{name[:60]}' is not in rempart.yaml", known)
    return config.sites[name]


def lines(connection: Connection, region: str) -> Iterator[str]:
    """Yield lines that a shell takes. Pure."""
    endpoint = str(connection.extra.get("endpoint_url") or "")
    region = str(connection.extra.get("region_name", region))
    values = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,  # boto3 reads this one
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_SESSION_TOKEN": str(connection.extra.get(SESSION_TOKEN) or ""),
        "AWS_CA_BUNDLE": str(connection.extra.get("ca_bundle") or ""),
        "AWS_ALLOW_HTTP": "true" if endpoint.startswith("http://") else "",
        # several operators refuse the checksum headers that newer clients add
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    yield from (f"export {name}={shlex.quote(value)}" for name, value in values.items() if value)
