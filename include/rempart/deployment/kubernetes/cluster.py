"""Prepare the stack for a Kubernetes cluster: contents of its Secrets, and the steps before its components start.

`rempart stack init --kubernetes` writes var/kubernetes, from which `kubectl apply -k` makes the Secrets that
deploy/kubernetes/platform and deploy/helm name. PostgreSQL and the sites are the operator's and are not started here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from rempart import private_files
from rempart.deployment.access import managed_databases, roles
from rempart.deployment.compose import containers
from rempart.deployment.servers import airflow_server, external, mlflow_server, schemas
from rempart.deployment.setup import credentials, profiles
from rempart.deployment.setup.credentials import KEPT
from rempart.deployment.setup.paths import NAMESPACE as NAMESPACE
from rempart.deployment.setup.paths import Stack
from rempart.errors import ConnectionMissing, StackError
from rempart.settings import config as configuration
from rempart.settings.config import TLS, parse_connection, watcher, witness
from rempart.settings.sections import StackService
from rempart.tracking_access.app import READER_PASSWORD

logger = logging.getLogger(__name__)

FOLDER = "kubernetes"
_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer", "tasks", "mlflow", "landing-watch", "scorer")
SECRETS = {
    **{name: name for name in _COMPONENTS},
    "prepare": "init",
}
"""Secrets, each named rempart-<name>, and the file of secrets in containers that holds the same."""
KEY = "secrets.env"
"""The only key of each Secret, and its file name in a pod below REMPART_VAR."""
_CONNECTION = "AIRFLOW_CONN_"
_MLFLOW_KEY = "REMPART_MLFLOW_SECRET_KEY"
_HOW = "docs/how-to/external-services.md describes each connection."


def in_cluster(stack: Stack) -> Stack:
    """Return the stack as pods see it. Raises StackError if rempart.yaml leaves a store to the stack."""
    if ours := [name for name in ("postgresql", *stack.config.sites) if not stack.external(name)]:
        raise StackError(
            "In a cluster the platform starts no database and no object store, but rempart.yaml does not declare "
            f"these as external: {', '.join(ours)}",
            "Declare your operator's services as services.<name>.external, or use docker-compose.yml.",
        )
    if stack.external("airflow"):
        raise StackError("rempart.yaml declares Airflow as external", "Remove services.airflow.external.")
    return replace(stack, var=containers.VAR, offset=0, containers=True, cluster=True)


def plan(
    stack: Stack,
    existing: Mapping[str, str],
    inherited: Mapping[str, str],
    token: Callable[[], str] = credentials.new_token,
    fernet_key: Callable[[], str] = credentials.new_fernet_key,
) -> dict[str, str]:
    """Return every secret of the platform: connections from `inherited`, the others generated once and kept.

    `stack` is the stack in the cluster. Raises ConnectionMissing with every value that only you can provide.
    """
    given = {name: _line(value) for name, value in inherited.items() if name.startswith(_CONNECTION)}
    before = {name: existing[name] for name in given if _in_cluster(stack, existing.get(name, ""))}
    kept = {name: value for name, value in existing.items() if name not in given} | before
    # as if the database were ours: its roles get generated passwords, and then the operator's host
    services = {**stack.config.services, "postgresql": StackService()}
    ours = replace(stack, config=stack.config.model_copy(update={"services": services}))
    generated = credentials.plan(ours, kept, token, fernet_key)
    generated.pop("REMPART_POSTGRESQL_PASSWORD")
    # one that we made stays aside while another is given in its place; one that was given is no secret of ours
    aside = {
        f"{KEPT}{name}": generated[name]
        for name in given
        if name in generated and {name, f"{KEPT}{name}"} & kept.keys()
    }
    ours_before = kept.keys() | {f"{KEPT}{name}" for name in before}
    generated = aside | {
        name: value for name, value in generated.items() if not name.startswith(KEPT) or name in ours_before
    }
    tls = _tls(stack, given)
    ours_now = {name: value for name, value in generated.items() if name.startswith(f"{_CONNECTION}PG_")}
    generated |= {name: _at_operator(stack, value, tls) for name, value in ours_now.items()}
    for name in (_MLFLOW_KEY, READER_PASSWORD):
        generated[name] = generated.get(name) or kept.get(f"{KEPT}{name}") or kept.get(name) or token()
    secrets = {**{name: value for name, value in kept.items() if name.startswith(_CONNECTION)}, **generated, **given}
    if missing := [name for name in _needed(stack) if name not in secrets]:
        raise ConnectionMissing(
            f"read the connections: the environment lacks {', '.join(missing)}", f"Export these variables; {_HOW}"
        )
    return secrets


def _in_cluster(stack: Stack, value: str) -> bool:
    """Return whether a connection leads to MLflow or Airflow in this cluster."""
    plain = json.loads(value) if value.startswith("{") else {}
    return plain.get("host") in {stack.host("mlflow"), stack.host("airflow")}


def _line(value: str) -> str:
    """Return a connection on one line, for a file of variables."""
    return json.dumps(json.loads(value)) if value.lstrip().startswith("{") else value.strip()


def _tls(stack: Stack, given: Mapping[str, str]) -> dict[str, str]:
    """Return how each role verifies the operator's PostgreSQL: as the administrator's connection does, else
    `require`.
    """
    declared = stack.external("postgresql")
    variable = f"{_CONNECTION}{declared.connection.upper()}" if declared else ""
    extra = parse_connection(variable, given[variable]).extra if variable in given else {}
    return {"sslmode": "require"} | {name: str(extra[name]) for name in TLS if name in extra}


def _at_operator(stack: Stack, text: str, tls: Mapping[str, str]) -> str:
    declared = stack.external("postgresql")
    place = urlsplit(declared.url if declared else "")
    connection = json.loads(text) | {"host": place.hostname, "port": place.port or 5432, "extra": dict(tls)}
    return json.dumps(connection)


def _needed(stack: Stack) -> list[str]:
    """Return the variables of required connections: sites, the witness, and external services."""
    sites = [place.connection for place in stack.config.sites.values()]
    services = [declared.connection for name in stack.config.services if (declared := stack.external(name))]
    names = (*sites, witness(stack.config.checkpoint_site), *services)
    return [f"{_CONNECTION}{name.upper()}" for name in dict.fromkeys(names)]


def files(stack: Stack, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the contents of the Secrets by file name. `stack` is the stack in the cluster.

    Only the preparing job gets the database administrator. No component gets the watch's key.
    """
    unused = {f"{_CONNECTION}{watcher(site).upper()}" for site in stack.config.sites}
    unused.add(f"{_CONNECTION}MONITORING")  # there is none here
    given = {name: value for name, value in secrets.items() if name not in unused}
    return {
        **{f"{name}.env": containers.secrets_of(stack, given, of) for name, of in SECRETS.items()},
        "broker.conf": profiles.broker(stack, secrets[profiles.BROKER_PASSWORD]),
        "databases.sql": managed_databases.script(stack, secrets),
        "kustomization.yaml": _kustomization(),
    }


def _kustomization() -> str:
    """Return the kustomization with Secrets of fixed names, so that the chart's values can name them."""
    generator = [
        *({"name": f"rempart-{name}", "files": [f"{KEY}={name}.env"]} for name in SECRETS),
        {"name": "rempart-broker", "files": ["broker.conf"]},  # of Celery's workers, if there are any
    ]
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "labels": [{"pairs": {"app.kubernetes.io/part-of": "rempart"}}],
        "generatorOptions": {"disableNameSuffixHash": True},
        "secretGenerator": generator,
    }
    head = "# Written by `rempart stack init --kubernetes`: kubectl apply --server-side -k THIS-FOLDER\n"
    return head + yaml.safe_dump(content, sort_keys=False)


def initialise(stack: Stack, inherited: Mapping[str, str], *, restored: Mapping[str, str] | None = None) -> Path:
    """Write var/kubernetes, and return that folder. Existing secrets are kept; `restored` are secrets of a restore
    point.

    Raises ConnectionMissing, and StackError, also if other secrets than `restored` exist.
    """
    folder, inside = (stack.var / FOLDER).absolute(), in_cluster(stack)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    master = folder / KEY
    before = configuration.read_env_file(master)
    if restored:
        containers.refuse_others(inside, master, before, restored)
    secrets = plan(inside, {**(restored or {}), **before}, inherited)
    if secrets != before:
        credentials.write_secrets(master, secrets)
    wanted = files(inside, secrets)
    for name, text in wanted.items():
        private_files.write(folder / name, text)
    logger.info(
        "%s: %d files, %d secrets %s", folder, len(wanted), len(secrets), "in place" if secrets == before else "written"
    )
    return folder


def write_users(stack: Stack, component: str) -> None:
    """Write the passwords for the simple auth manager, where only the API server reads them."""
    if component == "api-server" and stack.config.access.auth_manager == "simple":
        secrets = configuration.read_env_file(stack.secrets)
        airflow_server.write_users(stack, credentials.connections(stack, secrets))


def prepare(stack: Stack) -> None:
    """Check the operator's services with real work, and migrate the schemas of Airflow and MLflow.

    Changes nothing if all is in place. Raises RempartError.
    """
    stack.prepare()
    secrets = configuration.read_env_file(stack.secrets)
    resolve = credentials.connections(stack, secrets)
    for name in ("postgresql", *stack.config.sites):
        logger.info("%s: %s", name, external.check(stack, name, resolve))
    all_schemas = list(schemas.read(resolve, ("airflow", "mlflow")))
    schemas.check(all_schemas, migrate=True)
    if any(schema.pending and schema.name.startswith("MLflow") for schema in all_schemas):
        mlflow_server.migrate(stack, resolve("pg_mlflow"))
        logger.info("mlflow: database migrated")
    if migration := airflow_server.begin_migration(stack, secrets, resolve("pg_airflow")):
        airflow_server.end_migration(stack, migration.wait(), resolve("pg_airflow"))
    logger.info("airflow: database migrated")
    for change in roles.admit(stack, resolve):
        logger.info("airflow: %s", change)
