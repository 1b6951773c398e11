"""Plan the files of the stack's containers, from the same settings as the embedded stack.

`rempart stack init` writes them under var/compose; docker-compose.yml mounts each file only into the containers that
need it. No secret is in the compose file, in `.env`, in a command line or in the output of `docker inspect`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rempart import private_files
from rempart.backup.databases.postgresql import find_tools
from rempart.deployment.access import roles
from rempart.deployment.compose import egress_proxy, ingress
from rempart.deployment.compose.settings import FILES, MADE, SETTINGS
from rempart.deployment.servers import airflow_server, external, mlflow_server, object_sites, postgresql
from rempart.deployment.setup import credentials, environment, process_secrets, profiles, services, site_certificates
from rempart.deployment.setup.bootstrap import read_pip_settings
from rempart.deployment.setup.paths import Stack
from rempart.deployment.setup.preflight import certificate_file
from rempart.errors import RempartError, StackError
from rempart.settings import config as configuration
from rempart.settings.config import Connection, lister, reader, tracker, watcher, witness

logger = logging.getLogger(__name__)

VAR = Path("/var/lib/rempart")
"""REMPART_VAR in every image."""
_PASSWORD = "REMPART_POSTGRESQL_PASSWORD"  # noqa: S105 # a name
SECRETS = {
    "api-server": "airflow-api-server",
    "scheduler": "airflow-scheduler",
    "dag-processor": "airflow-dag-processor",
    "triggerer": "airflow-triggerer",
    "tasks": "airflow-worker",
    "local-tasks": "airflow-scheduler",
    "cli": "cli",
    "init": "prepare",
    "mlflow": "mlflow",
    "landing-watch": "landing-watch",
    "scorer": "scorer",
}
"""Files of secrets, `<name>.env`, and the process that each is for; `local-tasks`: a scheduler that runs the tasks."""
_WEED = {
    "jwt.signing": "WEED_JWT_SIGNING_KEY",
    "jwt.signing.read": "WEED_JWT_SIGNING_READ_KEY",
    "jwt.filer_signing": "WEED_JWT_FILER_SIGNING_KEY",
    "jwt.filer_signing.read": "WEED_JWT_FILER_SIGNING_READ_KEY",
}
"""Sections of SeaweedFS's security.toml, and the embedded stack's variables with the same meaning."""
_INDEX = ("index-url", "extra-index-url", "trusted-host", "timeout")
"""pip settings that also work in a container: none with a path of this machine."""


def in_containers(stack: Stack) -> Stack:
    """Return the stack with each service in its own container. Raises StackError if that is impossible."""
    egress_proxy.check_services(stack)
    return replace(stack, var=VAR, offset=0, containers=True)


def files(stack: Stack, secrets: Mapping[str, str], certificates: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the containers' files: contents by path. `stack` is the stack in containers.

    `certificates`: each site's files by name.
    """
    resolve = credentials.connections(stack, secrets)
    contents = {f"{name}.env": secrets_of(stack, secrets, name) for name in SECRETS}
    if not stack.external("postgresql"):
        settings = services.postgresql_settings(stack)
        contents["superuser"] = secrets[_PASSWORD] + "\n"
        contents["postgresql.conf"] = "".join(f"{k} = '{v}'\n" for k, v in settings.items())
    for name in stack.embedded_sites:
        connection = resolve(stack.config.sites[name].connection)
        limited = object_sites.limited(stack.config, name, resolve)
        contents[f"{name}.s3.json"] = json.dumps(object_sites.identities(name, connection, limited))
        role, key = stack.job_role(name), secrets.get(credentials.session_key(name), "")
        sessions = object_sites.sessions(name, role[0], role[1], key, stack.config.buckets) if role else {}
        contents[f"{name}.iam.json"] = json.dumps(sessions)
        variables = environment.site(stack, secrets, {}, name)
        contents[f"{name}.security.toml"] = "".join(
            f'[{section}]\nkey = "{variables[variable]}"\n' for section, variable in _WEED.items()
        ) + site_certificates.toml(site_certificates.settings(name, stack.site_certificates(name)))
        contents |= {f"{name}.{file}": text for file, text in certificates[name].items()}
        options = (option.removeprefix("-") for option in services.site_options(stack, name))
        contents[f"{name}.options"] = "".join(
            f"{option if '=' in option else option + '=true'}\n" for option in options
        )
    return contents | profiles.files(stack, secrets, resolve("monitoring"))


def secrets_of(stack: Stack, secrets: Mapping[str, str], name: str) -> str:
    """Return the lines of one file of secrets, from the table of processes."""
    executor = "LocalExecutor" if name == "local-tasks" else "another"
    kinds = process_secrets.held(SECRETS[name], stack.config, executor, cluster=stack.cluster)
    return _lines(secrets, process_secrets.given(secrets, kinds, stack.config))


def _lines(secrets: Mapping[str, str], names: Iterable[str]) -> str:
    return "".join(f"{name}={secrets[name]}\n" for name in names)


def build_files(pip_settings: Mapping[str, str], certificates: str) -> dict[str, str]:
    """Return the build's two secrets: the package index, and trusted certificates of this machine."""
    lines = [f"{name} = {pip_settings[name]}\n" for name in _INDEX if pip_settings.get(name)]
    return {"build.pip": "".join(["[global]\n", *lines]), "build.ca": certificates}


def wanted_settings(existing: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the team may change in `.env`: current values, else defaults."""
    return {**{setting.name: setting.value for setting in SETTINGS}, **existing}


def settings_text(
    existing: Mapping[str, str], folder: str = FILES.value, generated: Mapping[str, str] | None = None
) -> str:
    """Return the text of `.env`: its content, with the location of files (`folder`) and the values in `generated`
    updated.
    """
    values = {**{setting.name: setting.value for setting in MADE}, **(generated or {})}
    others = {name: value for name, value in wanted_settings(existing).items() if name not in values}
    wanted = {**others, FILES.name: folder, **values}
    meanings = {setting.name: setting.meaning for setting in (*SETTINGS, FILES, *MADE)}
    lines = [
        (f"# {meanings[name]}\n" if name in meanings else "") + f"{name}={value}\n" for name, value in wanted.items()
    ]
    return "# Read by docker-compose.yml, written by `rempart stack init`. It contains no secret." + "".join(lines)


def initialise(
    stack: Stack,
    settings: Path,
    inherited: Mapping[str, str],
    chosen: Iterable[str] | None = None,
    pair: ingress.CertificatePair | None = None,
    *,
    restored: Mapping[str, str] | None = None,
) -> None:
    """Write `settings` (`.env`) and the mounted files. Existing secrets, profiles and certificates stay.

    `chosen` are other profiles, `pair` is another certificate, and `restored` are the secrets of a restore point.
    Raises ConfigError, and StackError, also if other secrets exist.
    """
    lines = {} if chosen is None else profiles.settings(chosen)
    folder, inside = (stack.var / "compose").absolute(), in_containers(stack)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    master = folder / "secrets.env"
    existing = configuration.read_env_file(master)
    now, before = datetime.now(UTC), configuration.read_env_file(settings)
    pem = ingress.read(pair, folder / ingress.FILE)
    ingress.check(pem, wanted_settings(before), now)
    if restored:
        refuse_others(inside, master, existing, restored)
        existing = {**restored, **existing}
    secrets = credentials.plan(inside, existing, credentials.new_token, credentials.new_fernet_key)
    secrets |= egress_proxy.given(inside, secrets, existing, inherited)
    listed = egress_proxy.allowed(inside, secrets, now.date())
    if secrets != existing:
        credentials.write_secrets(master, secrets)
    certificates = {
        site: site_certificates.usable_or_new(site, site_certificates.read(folder, f"{site}."), now)
        for site in inside.embedded_sites
    }
    wanted = files(inside, secrets, certificates) | _build_files(stack, inherited)
    wanted |= {"egress.allowed": listed, ingress.FILE: pem}
    for name, text in wanted.items():
        _write_mounted(folder / name, text)
    generated = egress_proxy.settings(inside, secrets, listed) | ingress.settings(pem)
    private_files.write(settings, settings_text(before | lines, _as_named(stack, folder), generated))
    logger.info(
        "%s: %d files, %d secrets %s",
        folder,
        len(wanted),
        len(secrets),
        "in place" if secrets == existing else "written",
    )
    logger.info("wrote the settings of docker-compose.yml to %s", settings)


def initialise_build(stack: Stack, settings: Path, inherited: Mapping[str, str]) -> None:
    """Write what a build of the images reads, and no secret: for images that run elsewhere, as in a cluster."""
    folder, before = (stack.var / "compose").absolute(), configuration.read_env_file(settings)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, text in _build_files(stack, inherited).items():
        _write_mounted(folder / name, text)
    kept = {setting.name: before[setting.name] for setting in MADE if setting.name in before}
    private_files.write(settings, settings_text(before, _as_named(stack, folder), kept))
    logger.info("wrote the settings of the build to %s", settings)


def _build_files(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    authorities = certificate_file(inherited)
    trusted = Path(authorities).read_text(encoding="utf-8") if authorities else ""
    pip_settings = {} if stack.containers else read_pip_settings(Path(stack.python))  # a container builds nothing
    return build_files(pip_settings, trusted)


def _as_named(stack: Stack, folder: Path) -> str:
    """Return a folder as `.env` names it."""
    return f"./{folder.relative_to(stack.root)}" if folder.is_relative_to(stack.root) else str(folder)


def refuse_others(stack: Stack, file: Path, existing: Mapping[str, str], restored: Mapping[str, str]) -> None:
    """Check that containers hold the same secrets as the restore point to restore. Raises StackError.

    Connections of stores that the team runs are ignored: after a loss they may lead to new stores, with new keys.
    """
    ours = {name: value for name, value in restored.items() if name not in _of_the_team(stack)}
    if differing := credentials.others(existing, ours):
        raise StackError(
            f"write {file}: it holds other secrets than the restore point: {', '.join(differing[:5])}",
            (
                "The secrets belong to another platform. Move var/kubernetes away, then run `rempart stack init "
                "--kubernetes --from-point`."
            )
            if stack.cluster
            else (
                "The secrets belong to another platform. Run `docker compose down --volumes` and move "
                "var/compose away, then run `rempart stack init --from-point`."
            ),
        )


def _of_the_team(stack: Stack) -> set[str]:
    """Return the variables of external services' connections."""
    names = [declared.connection for name in stack.config.services if (declared := stack.external(name))]
    for site in (name for name in stack.config.sites if stack.external(name)):
        limited = (witness(site), watcher(site), tracker(site), lister(site), reader(site))
        names += [stack.config.sites[site].connection, *limited]
    return {f"AIRFLOW_CONN_{name.upper()}" for name in names}


def _write_mounted(file: Path, text: str) -> None:
    """Write a file for a container's user, who is not its owner; the folder is closed to others."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        private_files.write(file, text)
    file.chmod(0o444)


def prepare(stack: Stack, patience: float = 60.0) -> None:
    """Create databases, roles, buckets, Airflow's schema and user on running servers. Does nothing if all exist.

    Raises RempartError.
    """
    start_stores(stack, patience)
    secrets = configuration.read_env_file(stack.secrets)
    resolve = credentials.connections(stack, secrets)
    airflow_server.write_users(stack, resolve)
    if migration := airflow_server.begin_migration(stack, secrets, resolve("pg_airflow")):
        airflow_server.end_migration(stack, migration.wait(), resolve("pg_airflow"))
    logger.info("airflow: database migrated")
    for change in roles.admit(stack, resolve):
        logger.info("airflow: %s", change)


def start_stores(stack: Stack, patience: float = 60.0) -> None:
    """Create databases, roles and buckets on stores whose containers the Engine has started. Raises RempartError."""
    stack.prepare()
    secrets = configuration.read_env_file(stack.secrets)
    resolve = credentials.connections(stack, secrets)
    for name in [name for name in ("postgresql", *stack.config.sites) if stack.external(name)]:
        logger.info("%s (external): %s", name, _until(partial(external.check, stack, name, resolve), patience))
    if not stack.external("postgresql"):
        administrator = credentials.superuser(stack, secrets)
        logger.info("postgresql: %s", _until(postgresql.check_administrator(administrator), patience))
        postgresql.bootstrap(stack, administrator, resolve)
        logger.info("postgresql: %s", postgresql.check_roles(resolve, stack.config.roles))
        logger.info("postgresql: %s", find_tools().check(resolve("pg_backup")))
    for name in stack.embedded_sites:
        logger.info("%s: %s", name, _until(partial(object_sites.check, stack, name, resolve), patience))


def works(stack: Stack) -> list[str]:
    """Return which of MLflow and Airflow have a session on the databases. Raises DatabaseUnavailable."""
    secrets = configuration.read_env_file(stack.secrets)
    declared = stack.external("postgresql")
    resolve = credentials.connections(stack, secrets)
    administrator = resolve(declared.connection) if declared else credentials.superuser(stack, secrets)
    return postgresql.sessions_of(administrator, ("airflow", "mlflow"))


STARTS_SECONDS = 900.0
"""Seconds within which MLflow and Airflow must answer once one of them uses the databases."""


def up(stack: Stack, patience: float = 0.0) -> None:
    """Check that MLflow and Airflow work. No container starts them: wait `patience` seconds for their start.

    After the start of the first, both have the rest of that time, or `STARTS_SECONDS` if longer. The reason of a delay
    is reported. Raises StackError, DatabaseUnavailable.
    """
    deadline = time.monotonic() + patience
    if patience and not _until(lambda: ", ".join(works(stack)), patience):
        logger.info("the stores are ready: %s This command waits %.0f s for them.", _START[stack.cluster], patience)
    _until(lambda: _some_work(stack), deadline - time.monotonic(), logged=IDLE)
    deadline = max(deadline, time.monotonic() + min(patience, STARTS_SECONDS))
    resolve = credentials.connections(stack, configuration.read_env_file(stack.secrets))
    mlflow = _until(lambda: mlflow_server.check(resolve("mlflow")), deadline - time.monotonic())
    logger.info("mlflow: %s", mlflow)
    airflow = _until(lambda: _airflow(stack, resolve("airflow_api")), deadline - time.monotonic())
    logger.info("airflow: %s", airflow)


_START = {
    False: "start MLflow and Airflow on the machine of the Engine (`docker compose up --wait`).",
    True: "start MLflow and Airflow (docs/how-to/kubernetes.md, 'Restore the platform into an empty cluster').",
}
"""Instruction to start MLflow and Airflow: by the Engine, or by a cluster if the containers are pods."""


IDLE = "The stores are ready, but MLflow and Airflow are not running yet"


def _some_work(stack: Stack) -> str:
    if running := works(stack):
        return ", ".join(running)
    raise StackError(
        IDLE,
        f"Now {_START[stack.cluster]} Then run this command again: it continues here.",
    )


def _airflow(stack: Stack, connection: Connection) -> str:
    health = airflow_server.check(connection, {}, airflow_server.expects_dags(stack))
    return f"all components send heartbeats, {health.dags} DAGs parsed"


def _until(check: Callable[[], str], seconds: float, logged: str = "") -> str:
    """Wait until a check passes, and return its text.

    The reason of a failure is logged when it changes, twice a minute at most. The reason in `logged` is not
    logged again.
    """
    deadline, again = time.monotonic() + seconds, 0.0
    while True:
        try:
            return check()
        except RempartError as error:
            now = time.monotonic()
            if now > deadline:
                raise
            if error.what != logged and now >= again:
                logger.info("not yet: %s", error.what)
                logged, again = error.what, now + 30.0
            time.sleep(1)
