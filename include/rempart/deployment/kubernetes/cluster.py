"""The stack in a Kubernetes cluster: what its Secrets are made of, and what happens before its components start.

`rempart init --kubernetes` writes var/kubernetes, which `kubectl apply -k` makes the Secrets out of that
deploy/kubernetes/platform and deploy/helm name. PostgreSQL and the sites are the operator's: nothing here starts them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import yaml

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
SECRETS = {
    **{name: name for name in ("api-server", "scheduler", "dag-processor", "triggerer", "tasks", "mlflow")},
    "prepare": "init",
}
"""Secrets, each named rempart-<name>, and the file of secrets in containers that holds the same."""
KEY = "secrets.env"
"""The one key of each Secret, and the name by which a pod finds it below REMPART_VAR."""
_CONNECTION = "AIRFLOW_CONN_"
_MLFLOW_KEY = "REMPART_MLFLOW_SECRET_KEY"
_HOW = "docs/how-to/external-services.md tells what each connection holds."


def in_cluster(stack: Stack) -> Stack:
    """The same stack as pods have it. Raises StackError where rempart.yaml leaves a store to the stack."""
    if ours := [name for name in ("postgresql", *stack.config.sites) if not stack.external(name)]:
        raise StackError(
            f"In a cluster nothing starts a database or an object store, and rempart.yaml leaves these to the stack: "
            f"{', '.join(ours)}",
            "Name your operator's as services.<name>.external, or run them by docker-compose.yml.",
        )
    if stack.external("airflow"):
        raise StackError("rempart.yaml says that Airflow is external", "Take services.airflow.external out.")
    return replace(stack, var=containers.VAR, offset=0, containers=True, cluster=True)


def plan(
    stack: Stack,
    existing: Mapping[str, str],
    inherited: Mapping[str, str],
    token: Callable[[], str] = credentials.new_token,
    fernet_key: Callable[[], str] = credentials.new_fernet_key,
) -> dict[str, str]:
    """Every secret of the platform: connections that `inherited` has as they are, the rest generated once and kept.

    `stack` is the one in the cluster. Raises ConnectionMissing, which names all that nobody but you can know.
    """
    given = {name: _line(value) for name, value in inherited.items() if name.startswith(_CONNECTION)}
    before = {name: existing[name] for name in given if _in_cluster(stack, existing.get(name, ""))}
    kept = {name: value for name, value in existing.items() if name not in given} | before
    # as if the database were ours: its roles get generated passwords, and then the operator's host
    services = {**stack.config.services, "postgresql": StackService()}
    ours = replace(stack, config=stack.config.model_copy(update={"services": services}))
    made = credentials.plan(ours, kept, token, fernet_key)
    made.pop("REMPART_POSTGRESQL_PASSWORD")
    # one that we made stays aside while another is given in its place; one that was given is no secret of ours
    aside = {f"{KEPT}{name}": made[name] for name in given if name in made and {name, f"{KEPT}{name}"} & kept.keys()}
    ours_before = kept.keys() | {f"{KEPT}{name}" for name in before}
    made = aside | {name: value for name, value in made.items() if not name.startswith(KEPT) or name in ours_before}
    tls = _tls(stack, given)
    ours_now = {name: value for name, value in made.items() if name.startswith(f"{_CONNECTION}PG_")}
    made |= {name: _at_operator(stack, value, tls) for name, value in ours_now.items()}
    for name in (_MLFLOW_KEY, READER_PASSWORD):
        made[name] = made.get(name) or kept.get(f"{KEPT}{name}") or kept.get(name) or token()
    secrets = {**{name: value for name, value in kept.items() if name.startswith(_CONNECTION)}, **made, **given}
    if missing := [name for name in _needed(stack) if name not in secrets]:
        raise ConnectionMissing(f"Not in the environment: {', '.join(missing)}", f"Export them; {_HOW}")
    return secrets


def _in_cluster(stack: Stack, value: str) -> bool:
    """Whether a connection leads to MLflow or Airflow as this cluster has them."""
    plain = json.loads(value) if value.startswith("{") else {}
    return plain.get("host") in {stack.host("mlflow"), stack.host("airflow")}


def _line(value: str) -> str:
    """A connection on one line, as a file of variables holds it."""
    return json.dumps(json.loads(value)) if value.lstrip().startswith("{") else value.strip()


def _tls(stack: Stack, given: Mapping[str, str]) -> dict[str, str]:
    """How each role trusts the operator's PostgreSQL: as the administrator's connection says, else `require`."""
    declared = stack.external("postgresql")
    variable = f"{_CONNECTION}{declared.connection.upper()}" if declared else ""
    extra = parse_connection(variable, given[variable]).extra if variable in given else {}
    return {"sslmode": "require"} | {name: str(extra[name]) for name in TLS if name in extra}


def _at_operator(stack: Stack, text: str, tls: Mapping[str, str]) -> str:
    declared = stack.external("postgresql")
    place = urlsplit(declared.url if declared else "")
    made = json.loads(text) | {"host": place.hostname, "port": place.port or 5432, "extra": dict(tls)}
    return json.dumps(made)


def _needed(stack: Stack) -> list[str]:
    """Variables of the connections that have to be given: sites, the witness, and what else is external."""
    sites = [place.connection for place in stack.config.sites.values()]
    services = [declared.connection for name in stack.config.services if (declared := stack.external(name))]
    names = (*sites, witness(stack.config.checkpoint_site), *services)
    return [f"{_CONNECTION}{name.upper()}" for name in dict.fromkeys(names)]


def files(stack: Stack, secrets: Mapping[str, str]) -> dict[str, str]:
    """What the Secrets are made of: contents by name of file. `stack` is the one in the cluster.

    The administrator of the database is known to the preparing job alone, the watch's key to none of them.
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
    """Secrets of fixed names, so that the chart's values can name them."""
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
    head = "# Written by `rempart init --kubernetes`: kubectl apply --server-side -k THIS-FOLDER\n"
    return head + yaml.safe_dump(content, sort_keys=False)


def initialise(stack: Stack, inherited: Mapping[str, str], *, restored: Mapping[str, str] | None = None) -> Path:
    """Write var/kubernetes, and return that folder. Secrets that are there stay; `restored` are of a restore point.

    Raises ConnectionMissing, and StackError, also if other secrets than `restored` are there already.
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
        credentials.write_private(folder / name, text)
    logger.info(
        "%s: %d files, %d secrets %s", folder, len(wanted), len(secrets), "in place" if secrets == before else "written"
    )
    return folder


def write_user(stack: Stack, component: str) -> None:
    """With the simple auth manager: the admin's password, where the API server alone reads it."""
    if component == "api-server" and stack.config.access.auth_manager == "simple":
        secrets = configuration.read_env_file(stack.secrets)
        airflow_server.write_user(stack, credentials.connections(stack, secrets)("airflow_api"))


def prepare(stack: Stack) -> None:
    """Prove the operator's services by real work, and migrate the schemas of Airflow and MLflow.

    Changes nothing when all is there. Raises RempartError.
    """
    stack.prepare()
    secrets = configuration.read_env_file(stack.secrets)
    resolve = credentials.connections(stack, secrets)
    for name in ("postgresql", *stack.config.sites):
        logger.info("%s: %s", name, external.check(stack, name, resolve))
    found = list(schemas.read(resolve, ("airflow", "mlflow")))
    schemas.check(found, migrate=True)
    if any(one.pending and one.name.startswith("MLflow") for one in found):
        mlflow_server.migrate(stack, resolve("pg_mlflow"))
        logger.info("mlflow: database migrated")
    if migration := airflow_server.begin_migration(stack, secrets, resolve("pg_airflow")):
        airflow_server.end_migration(stack, migration.wait(), resolve("pg_airflow"))
    logger.info("airflow: database migrated")
    for told in roles.admit(stack, resolve):
        logger.info("airflow: %s", told)
