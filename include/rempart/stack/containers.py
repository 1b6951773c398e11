"""The stack in containers: what each is given as files, planned from the same settings as the embedded stack's.

`rempart init` writes them under var/compose; docker-compose.yml mounts each file into the containers that need it, and
no other. No secret is in the compose file, in `.env`, in a command line or in what `docker inspect` shows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rempart import config as configuration
from rempart.errors import RempartError, StackError
from rempart.stack import (
    airflow_server,
    credentials,
    environment,
    object_sites,
    postgresql,
    services,
)
from rempart.stack.bootstrap import read_pip_settings
from rempart.stack.layout import Stack
from rempart.stack.preflight import certificate_file

VAR = Path("/var/lib/rempart")
"""REMPART_VAR in every image."""
_PASSWORD = "REMPART_POSTGRESQL_PASSWORD"  # noqa: S105 # a name
MLFLOW = ("REMPART_MLFLOW_SECRET_KEY", "AIRFLOW_CONN_MLFLOW", "AIRFLOW_CONN_PG_MLFLOW", "AIRFLOW_CONN_PG_CONTINUITY")
_WEED = {
    "jwt.signing": "WEED_JWT_SIGNING_KEY",
    "jwt.signing.read": "WEED_JWT_SIGNING_READ_KEY",
    "jwt.filer_signing": "WEED_JWT_FILER_SIGNING_KEY",
    "jwt.filer_signing.read": "WEED_JWT_FILER_SIGNING_READ_KEY",
}
"""Sections of SeaweedFS's security.toml, and the variables that say the same to the embedded one."""
_INDEX = ("index-url", "extra-index-url", "trusted-host", "timeout")
"""Of pip's settings those that hold in a container as well: no path of this machine."""
Say = Callable[[str], object]


@dataclass(frozen=True)
class Setting:
    """One line of `.env`: what the compose file reads, its value at first, and what it is."""

    name: str
    value: str
    meaning: str


SETTINGS = (
    Setting("BASE_IMAGE", "debian:trixie-slim", "The one image that is not built here; `make base-image` makes one."),
    Setting("REMPART_TAG", "local", "Tag of the platform's images."),
    Setting("REMPART_TRAINER", "job", "`trainer`: the image of jobs holds PyTorch as well."),
    Setting("REMPART_AIRFLOW_PORT", "18080", "Airflow's pages and REST API, on this machine alone."),
    Setting("REMPART_MLFLOW_PORT", "15000", "MLflow's, likewise."),
    Setting("REMPART_SCHEDULER_MEMORY", "6g", "Of the container in which tasks run."),
)
_FILES = Setting("REMPART_FILES", "./var/compose", "Where `rempart init` put what is mounted.")


def in_containers(stack: Stack) -> Stack:
    """The same stack with each service in a container of its own. Raises StackError if one shall be external."""
    if others := [name for name in stack.config.services if stack.external(name)]:
        raise StackError(
            f"docker-compose.yml starts every service itself, and rempart.yaml says of {', '.join(others)}: external",
            "Take `external` out, or run the platform with `rempart up`, which leaves such a service to you.",
        )
    return replace(stack, var=VAR, offset=0, containers=True)


def files(stack: Stack, secrets: Mapping[str, str]) -> dict[str, str]:
    """What the containers are given: contents by path. `stack` is the one in containers."""
    resolve = credentials.connections(stack, secrets)
    sites = [f"AIRFLOW_CONN_{stack.config.sites[name].connection.upper()}" for name in stack.embedded_sites]
    airflow = [name for name in secrets if name.startswith(("AIRFLOW_CONN_", "REMPART_AIRFLOW_"))]
    found = {
        "airflow.env": _lines(secrets, airflow),
        "init.env": _lines(secrets, [*airflow, _PASSWORD]),
        "mlflow.env": _lines(secrets, [*MLFLOW, *sites]),
        "superuser": secrets[_PASSWORD] + "\n",
        "postgresql.conf": "".join(f"{k} = '{v}'\n" for k, v in services.postgresql_settings(stack).items()),
    }
    for name in stack.embedded_sites:
        connection = resolve(stack.config.sites[name].connection)
        limited = object_sites.limited(stack.config, name, resolve)
        found[f"{name}.s3.json"] = json.dumps(object_sites.identities(name, connection, limited))
        role, key = stack.job_role(name), secrets.get(credentials.session_key(name), "")
        sessions = object_sites.sessions(name, role[0], role[1], key, stack.config.buckets) if role else {}
        found[f"{name}.iam.json"] = json.dumps(sessions)
        variables = environment.site(stack, secrets, {}, name)
        found[f"{name}.security.toml"] = "".join(
            f'[{section}]\nkey = "{variables[variable]}"\n' for section, variable in _WEED.items()
        )
        options = (option.removeprefix("-") for option in services.site_options(stack, name))
        found[f"{name}.options"] = "".join(f"{one if '=' in one else one + '=true'}\n" for one in options)
    return found


def _lines(secrets: Mapping[str, str], names: Iterable[str]) -> str:
    return "".join(f"{name}={secrets[name]}\n" for name in names)


def build_files(pip_settings: Mapping[str, str], certificates: str) -> dict[str, str]:
    """The build's two secrets: how this machine reaches its package index, and whom it trusts."""
    lines = [f"{name} = {pip_settings[name]}\n" for name in _INDEX if pip_settings.get(name)]
    return {"build.pip": "".join(["[global]\n", *lines]), "build.ca": certificates}


def settings_text(existing: Mapping[str, str], folder: str = _FILES.value) -> str:
    """The text of `.env`: what stands in it stays, what is new is added, and `folder` is where the files are."""
    wanted = {**{one.name: one.value for one in SETTINGS}, **existing, _FILES.name: folder}
    meanings = {one.name: one.meaning for one in (*SETTINGS, _FILES)}
    lines = [
        (f"# {meanings[name]}\n" if name in meanings else "") + f"{name}={value}\n" for name, value in wanted.items()
    ]
    return "# What docker-compose.yml reads; `rempart init` writes it. No secret stands here.\n" + "".join(lines)


def initialise(stack: Stack, settings: Path, say: Say, inherited: Mapping[str, str]) -> None:
    """Write `settings` (`.env`) and what is mounted. Secrets that are there stay. Raises StackError."""
    folder, inside = (stack.var / "compose").absolute(), in_containers(stack)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    master = folder / "secrets.env"
    existing = configuration.read_env_file(master)
    secrets = credentials.plan(inside, existing, credentials.new_token, credentials.new_fernet_key)
    if secrets != existing:
        credentials.write_secrets(master, secrets)
    authorities = certificate_file(inherited)
    trusted = Path(authorities).read_text(encoding="utf-8") if authorities else ""
    wanted = files(inside, secrets) | build_files(read_pip_settings(Path(stack.python)), trusted)
    for name, text in wanted.items():
        _write_mounted(folder / name, text)
    here = f"./{folder.relative_to(stack.root)}" if folder.is_relative_to(stack.root) else str(folder)
    credentials.write_private(settings, settings_text(configuration.read_env_file(settings), here))
    say(f"{folder}: {len(secrets)} secrets {'in place' if secrets == existing else 'written'}, {len(wanted)} files")
    say(f"{settings}: settings of docker-compose.yml")


def _write_mounted(file: Path, text: str) -> None:
    """A file that a container's user reads, who is not its owner; the folder is closed to everybody else."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        credentials.write_private(file, text)
    file.chmod(0o444)


def prepare(stack: Stack, say: Say, patience: float = 60.0) -> None:
    """Databases, roles, buckets, Airflow's schema and user, on servers that run. Changes nothing when all is there.

    Raises RempartError.
    """
    stack.prepare()
    secrets = configuration.read_env_file(stack.secrets)
    resolve = credentials.connections(stack, secrets)
    administrator = credentials.superuser(stack, secrets)
    say(f"postgresql: {_until(postgresql.check_administrator(administrator), patience)}")
    postgresql.bootstrap(stack, administrator, resolve)
    say(f"postgresql: {postgresql.check_roles(resolve, stack.config.roles)}")
    for name in stack.embedded_sites:
        say(f"{name}: {_until(lambda name=name: object_sites.check(stack, name, resolve), patience)}")  # type: ignore[misc] # bound now
    airflow_server.write_user(stack, resolve("airflow_api"))
    if migration := airflow_server.begin_migration(stack, secrets, resolve("pg_airflow")):
        airflow_server.end_migration(stack, migration.wait(), resolve("pg_airflow"))
    say("airflow: database migrated")


def _until(check: Callable[[], str], seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except RempartError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
