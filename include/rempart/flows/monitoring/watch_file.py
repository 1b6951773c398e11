"""Read watch.yaml: all that the watch knows. It holds no secrets, only names of environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rempart.backup.watch import heartbeat_check
from rempart.backup.watch.heartbeat import KIND
from rempart.errors import ConfigError, LedgerError
from rempart.ledger.keys import parse_public
from rempart.settings.config import Connection
from rempart.settings.schema import Duration, Strict, explain, read_yaml

ACCESS_KEY, SECRET_KEY = "REMPART_WATCH_ACCESS_KEY", "REMPART_WATCH_SECRET_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
"""Name of an environment variable. A secret written in its place rarely matches."""
Address = Annotated[str, Field(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$")]


def _http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as https://host/path")
    if parts.username or parts.password:
        raise ValueError(
            "no user or password may be part of the URL: name the environment variable that holds the secret"
        )
    return url


def checked_webhook(url: str) -> str:
    """Return the URL if the request travels encrypted. Raises ValueError, which does not quote the URL."""
    parts = urlsplit(_http(url))
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError("use https: alerts and the token would be readable on the way")
    return url


def _public(text: str) -> str:
    try:
        parse_public(text)
    except LedgerError as cause:
        raise ValueError(f"{cause.what}. {cause.hint}") from cause
    return text


class WatchedSite(Strict):
    """The site of the heartbeats, and the variables with a key that may read only them."""

    name: str = Field(default="backup", description="Its name in alerts.")
    endpoint: Annotated[str, AfterValidator(_http)] = Field(description="URL of its S3 interface.")
    region: str
    bucket: str = Field(default="backups", description="Of the restore points.")
    access_key_env: Variable = ACCESS_KEY
    secret_key_env: Variable = SECRET_KEY
    addressing_style: Literal["path", "virtual", "auto"] = "path"
    ca_bundle: str | None = Field(default=None, description="Certificates of a CA of your own, in PEM.")


class Limit(Strict):
    """Maximum interval between two heartbeats of one kind, and its maximum lag."""

    max_interval: Duration = Field(description="The longest time between two heartbeats.")
    rpo: Duration | None = Field(default=None, description="Of `backup`: how old the restore point may be.")
    lag: Duration | None = Field(default=None, description="Of a replication: how far behind the replica may be.")


class Webhook(Strict):
    """Alerts as JSON, by POST."""

    by: Literal["webhook"]
    url: Annotated[str, AfterValidator(checked_webhook)] | None = None
    url_env: Variable | None = Field(default=None, description="Instead of url, if the URL itself is secret.")
    token_env: Variable | None = Field(default=None, description="Holds a bearer token.")

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("url: set either url or url_env")
        return self


class Mail(Strict):
    """Alerts by e-mail to one address, which may be a mailing list."""

    by: Literal["mail"]
    host: str
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="`tls`: encrypt from the first byte on, as port 465 requires."
    )
    sender: Address
    to: Address
    user: str | None = None
    password_env: Variable | None = None

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> Self:
        if (self.user is None) != (self.password_env is None):
            raise ValueError("user: give it with password_env, or neither")
        if self.tls == "none" and self.user:
            raise ValueError("tls: none would send the password in the clear")
        return self


class Watch(Strict):
    """Content of watch.yaml."""

    site: WatchedSite
    keys: list[Annotated[str, AfterValidator(_public)]] = Field(
        min_length=1, description="Public keys of the ledger, in PEM or as its middle line. One more before a rotation."
    )
    kinds: dict[Annotated[str, Field(pattern=KIND)], Limit] = Field(
        min_length=1, description="backup, drill, wal, replication/<source>-<target>."
    )
    remind: Duration = Field(default="4h", validate_default=True, description="Red is sent again after this time.")
    alerts: dict[str, Annotated[Webhook | Mail, Field(discriminator="by")]] = Field(
        default_factory=dict,
        description=("Recipients, by a name of your choice. Without any, only the exit code reports."),
    )
    state: str = Field(default="watch-state.json", description="Sent notifications; relative to this file.")

    def public_keys(self) -> list[bytes]:
        return [parse_public(text) for text in self.keys]

    def limits(self) -> dict[str, heartbeat_check.Limit]:
        return {
            kind: heartbeat_check.Limit(watched.max_interval, watched.rpo, watched.lag)
            for kind, watched in self.kinds.items()
        }


def load(file: Path) -> Watch:
    """Return the validated file. Raises ConfigError."""
    data = read_yaml(file)
    try:
        return Watch.model_validate(data)
    except ValidationError as cause:
        # the cause would quote the values, and somebody may have written a secret where its variable's name belongs
        raise ConfigError(f"The watch is not valid:\n{explain(cause, file)}", "Correct each line above.") from None


def secret(environment: Mapping[str, str], variable: str) -> str:
    """Return the value of an environment variable. Raises ConfigError if it is empty or missing."""
    if not (found := environment.get(variable)):
        raise ConfigError(
            f"The environment variable {variable} is not set",
            "Set it for the watch as docs/how-to/watch.md says (systemd: EnvironmentFile, Kubernetes: a Secret).",
        )
    return found


def connection(site: WatchedSite, environment: Mapping[str, str]) -> Connection:
    """Return the site's connection with the key from the environment. Raises ConfigError."""
    extra = {"endpoint_url": site.endpoint, "region_name": site.region, "addressing_style": site.addressing_style}
    if site.ca_bundle:
        extra["ca_bundle"] = site.ca_bundle
    return Connection(
        site.name,
        "aws",
        login=secret(environment, site.access_key_env),
        password=secret(environment, site.secret_key_env),
        extra=extra,
    )


def text_of(length: timedelta) -> str:
    """Return a duration as the file writes it: `90m`, `8d`."""
    seconds = int(length.total_seconds())
    size, unit = next(
        unit_of_time
        for unit_of_time in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
        if not seconds % unit_of_time[0]
    )
    return f"{seconds // size}{unit}"
