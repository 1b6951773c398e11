"""Manage the stack's secrets: generated once, stored in one file of mode 0600, never printed.

The other fields of a connection (host, port, endpoint) are written again on each start, so that ports may change.
"""

from __future__ import annotations

import base64
import json
import os
import secrets as randomness
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rempart import private_files
from rempart.backup.keys import age, keyring
from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError
from rempart.ledger import keys
from rempart.settings import config as configuration
from rempart.settings.access import LANDING_WATCH, LANDING_WATCH_USER
from rempart.settings.config import DATABASES, SCORER, Connection, lister, reader, tracker, watcher, witness
from rempart.tracking_access.app import READER_PASSWORD

_HEADER = "# Secrets of the platform, generated once. Do not commit, do not share.\n"
SUPERUSER = "rempart_admin"
_LEDGER_KEY = f"AIRFLOW_CONN_{keys.CONNECTION.upper()}"
_BACKUP_KEY = f"AIRFLOW_CONN_{keyring.CONNECTION.upper()}"
_NEXT_LEDGER_KEY = f"AIRFLOW_CONN_{keys.NEXT_CONNECTION.upper()}"


KEPT = "REMPART_KEPT_"
"""Prefix of a secret's name while an external store is used instead of the stack's own."""


def new_token() -> str:
    """Return 192 random bits, safe in URLs, INI files and shells."""
    return randomness.token_urlsafe(24).replace("-", "a")  # a leading '-' would read as an option


def new_signing_key() -> str:
    """Return 512 random bits that sign HS512 tokens."""
    return randomness.token_urlsafe(64)


def session_key(site: str) -> str:
    """Return the secret that signs the tokens of a site's sessions: it can make any session there."""
    return f"REMPART_SITE_{site.upper()}_SESSION_KEY"


def new_fernet_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def new_ledger_key() -> tuple[str, str]:
    """Return a new ledger signing key: its id and seed, as login and password of connection `ledger_key`."""
    seed = os.urandom(32)
    return keys.signer(seed).id, base64.b64encode(seed).decode()


def new_backup_key() -> tuple[str, str]:
    """Return a new identity of the platform: recipient and private key, as login and password of connection
    `backup_key`.
    """
    identity = age.new_identity()
    return identity.recipient, identity.secret


def plan(
    stack: Stack,
    existing: Mapping[str, str],
    token: Callable[[], str],
    fernet_key: Callable[[], str],
    ledger_key: Callable[[], tuple[str, str]] = new_ledger_key,
    backup_key: Callable[[], tuple[str, str]] = new_backup_key,
) -> dict[str, str]:
    """Return the content of the secrets file: existing secrets are kept, missing ones made, addresses updated.

    The secret of an unused store is kept under another name (KEPT), and returns with the store.
    """
    wanted: dict[str, str] = {}
    aside = {name.removeprefix(KEPT): value for name, value in existing.items() if name.startswith(KEPT)}
    existing = {name: value for name, value in existing.items() if not name.startswith(KEPT)} | aside

    def kept(variable: str, make: Callable[[], str] = token) -> None:
        wanted[variable] = existing.get(variable) or make()

    def connection(
        name: str,
        conn_type: str,
        login: str = "",
        *,
        service: str = "",
        schema: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        variable = f"AIRFLOW_CONN_{name.upper()}"
        before = json.loads(existing[variable]) if variable in existing else {}
        value: dict[str, Any] = {
            "conn_type": conn_type,
            "login": before.get("login") or login or token(),
            "password": before.get("password") or token(),
        }
        if service:
            value |= {"host": stack.host(service), "port": stack.ports[service], "schema": schema}
        if extra:
            value["extra"] = dict(extra)
        wanted[variable] = json.dumps(value)

    for site in stack.embedded_sites:
        place = stack.config.sites[site]
        endpoint = f"http://{stack.host(site)}:{stack.ports[site]}"
        connection(place.connection, "aws", extra={"endpoint_url": endpoint, "region_name": place.region})
        if site == stack.config.checkpoint_site:
            connection(witness(site), "aws", extra={"endpoint_url": endpoint, "region_name": place.region})
        if site == stack.config.backup.site:
            connection(watcher(site), "aws", extra={"endpoint_url": endpoint, "region_name": place.region})
        for limited in (tracker(site), lister(site), reader(site)):
            connection(limited, "aws", extra={"endpoint_url": endpoint, "region_name": place.region})
        for purpose in ("WRITE", "READ", "FILER_WRITE", "FILER_READ"):
            kept(f"REMPART_SITE_{site.upper()}_{purpose}_KEY")
        if stack.job_role(site):
            kept(session_key(site), new_signing_key)
    if "postgresql" in stack.services:
        kept("REMPART_POSTGRESQL_PASSWORD")
        for role in stack.config.roles:
            database = role if role in DATABASES else {SCORER: "ledger"}.get(role, "postgres")
            connection(f"pg_{role}", "postgres", role, service="postgresql", schema=database)
        wanted[_LEDGER_KEY] = existing.get(_LEDGER_KEY) or _ledger_connection(ledger_key)
        if _NEXT_LEDGER_KEY in existing:  # a rotation that was begun
            wanted[_NEXT_LEDGER_KEY] = existing[_NEXT_LEDGER_KEY]
        wanted[_BACKUP_KEY] = existing.get(_BACKUP_KEY) or _backup_connection(backup_key)
    if "mlflow" in stack.services:
        kept("REMPART_MLFLOW_SECRET_KEY")
        kept(READER_PASSWORD)
        connection("mlflow", "http", "admin", service="mlflow", schema="http")
    if not stack.external("airflow"):
        kept("REMPART_AIRFLOW_FERNET_KEY", fernet_key)
        kept("REMPART_AIRFLOW_JWT_SECRET", new_signing_key)
        kept("REMPART_AIRFLOW_API_SECRET")
        connection("airflow_api", "http", "admin", service="airflow", schema="http")
        connection(LANDING_WATCH, "http", LANDING_WATCH_USER, service="airflow", schema="http")
    if stack.containers:  # made whether its profile is chosen or not, so that choosing it changes no file of others
        kept("REMPART_AIRFLOW_BROKER_PASSWORD")
        connection("monitoring", "http", "admin", service="monitoring", schema="http")
    unused = {name: value for name, value in existing.items() if name not in wanted}
    return wanted | {f"{KEPT}{name}": value for name, value in unused.items() if name in aside or _ours(stack, value)}


def _ours(stack: Stack, value: str) -> bool:
    """Return whether a secret is generated: no connection, or one to a server of the stack or to none."""
    if not value.startswith("{"):
        return "://" not in value
    plain = json.loads(value)
    endpoint = (plain.get("extra") or {}).get("endpoint_url") if isinstance(plain.get("extra"), Mapping) else None
    host = plain.get("host") or urlsplit(endpoint or "").hostname
    servers = ("postgresql", "mlflow", "airflow", "monitoring", *stack.config.sites)
    return not host or host in {stack.host(name) for name in servers}


def _ledger_connection(ledger_key: Callable[[], tuple[str, str]]) -> str:
    login, password = ledger_key()
    return json.dumps({"conn_type": "ledger", "login": login, "password": password})


def _backup_connection(backup_key: Callable[[], tuple[str, str]]) -> str:
    login, password = backup_key()
    return json.dumps({"conn_type": "age", "login": login, "password": password})


def ensure(stack: Stack) -> dict[str, str]:
    """Read the secrets, make missing ones, and write the file if anything changed.

    Raises StackError for an open file.
    """
    file = stack.secrets
    if file.exists() and file.stat().st_mode & 0o077:
        raise StackError(
            f"{file} may be read by others (mode {file.stat().st_mode & 0o777:o})",
            f"Its secrets may be known: `rempart down`, then remove {stack.var} for new ones; "
            f"or, if nobody else was on this machine, chmod 600 {file}.",
        )
    existing = configuration.read_env_file(file)
    _refuse_a_store_without_its_secret(stack, existing)
    wanted = plan(stack, existing, new_token, new_fernet_key)
    if wanted != existing:
        write_secrets(file, wanted)
    return wanted


def _refuse_a_store_without_its_secret(stack: Stack, existing: Mapping[str, str]) -> None:
    """Check that PostgreSQL's data has its secrets: new ones would not open it. Raises StackError."""
    name = "REMPART_POSTGRESQL_PASSWORD"
    known = existing.keys() & {name, f"{KEPT}{name}"}
    if "postgresql" in stack.services and not known and (stack.postgresql_data / "PG_VERSION").is_file():
        raise StackError(
            f"{stack.secrets} lacks {name}, and {stack.postgresql_data} holds a database that was made with it",
            f"Restore the secrets file from a copy or a restore point (`rempart restore`); or move {stack.var} "
            "away to start with an empty platform.",
        )


def write_secrets(file: Path, secrets: Mapping[str, str]) -> None:
    """Write the file of secrets atomically."""
    private_files.write(file, _HEADER + "".join(f"{key}={value}\n" for key, value in secrets.items()))


def others(existing: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Return the names of secrets that differ. Addresses are ignored, because ports may change."""
    return sorted(name for name in existing.keys() & wanted.keys() if _secret(existing[name]) != _secret(wanted[name]))


def _secret(value: str) -> object:
    if not value.startswith("{"):
        return value
    plain = json.loads(value)
    return plain.get("login"), plain.get("password")


def take_over(stack: Stack, secrets: Mapping[str, str], *, replace: bool = False) -> bool:
    """Make a restored platform's secrets the stack's own. Return whether the file changed. Raises StackError.

    Other existing secrets are kept and refused without `replace`, except the superuser of an existing database.
    """
    stack.prepare()
    existing = configuration.read_env_file(stack.secrets)
    if (differing := others(existing, secrets)) and not replace:
        raise StackError(
            f"{stack.secrets} holds other secrets than the restore point: {', '.join(differing[:5])}",
            "They are of another platform, or newer. Move that folder away or set REMPART_VAR, or say --force.",
        )
    wanted = {**existing, **secrets}
    if (name := "REMPART_POSTGRESQL_PASSWORD") in existing and (stack.postgresql_data / "PG_VERSION").is_file():
        wanted[name] = existing[name]
    if not differing and existing.keys() >= secrets.keys():
        return False
    write_secrets(stack.secrets, wanted)
    return True


def prepare_ledger_key(stack: Stack) -> None:
    """Make the ledger's next key, unless it exists, or the key is not in the stack's own secrets file."""
    secrets = configuration.read_env_file(stack.secrets)
    if _LEDGER_KEY in secrets and _NEXT_LEDGER_KEY not in secrets:
        write_secrets(stack.secrets, secrets | {_NEXT_LEDGER_KEY: _ledger_connection(new_ledger_key)})


def adopt_ledger_key(stack: Stack) -> bool:
    """Make the next key the current one, and delete the previous. Return whether the stack held them."""
    secrets = configuration.read_env_file(stack.secrets)
    if (new := secrets.pop(_NEXT_LEDGER_KEY, None)) is None:
        return False
    write_secrets(stack.secrets, secrets | {_LEDGER_KEY: new})
    return True


def after_rotation(*, adopted: bool) -> str:
    """Yield the remaining steps after a rotation of the ledger's key."""
    if adopted:
        return "Restart what runs, it still has the old key: `rempart down`, then `rempart up`."
    return f"Give {keys.NEXT_CONNECTION}'s seed to connection {keys.CONNECTION}, destroy the old one, restart Airflow."


def superuser(stack: Stack, secrets: Mapping[str, str]) -> Connection:
    """Return PostgreSQL's superuser, which only the bootstrap uses."""
    return Connection(
        "postgresql superuser",
        "postgres",
        stack.host("postgresql"),
        stack.ports["postgresql"],
        SUPERUSER,
        secrets["REMPART_POSTGRESQL_PASSWORD"],
        "postgres",
    )


def connections(stack: Stack, secrets: Mapping[str, str]) -> configuration.Connections:
    """Return a connection from the stack's own secrets, else from the environment. Raises ConnectionMissing."""

    def resolve(name: str) -> Connection:
        if text := secrets.get(f"AIRFLOW_CONN_{name.upper()}"):
            return configuration.parse_connection(name, text)
        return configuration.environment_connections(name)

    return resolve
