"""Define which process of the platform holds which secret, as data. Pure.

The environments of the embedded stack, the files of docker-compose.yml and Kubernetes' Secrets are made from HOLDS, and
docs/reference/secrets.md is written from it. A test compares it with every process of a running stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rempart.backup.keys import keyring
from rempart.ledger import keys
from rempart.settings.access import LANDING_WATCH
from rempart.settings.config import DATABASES, SCORER, WAL_ARCHIVE, Config, lister, reader, tracker, watcher, witness

CONNECTION = "AIRFLOW_CONN_"


@dataclass(frozen=True)
class Kind:
    """A kind of secret: what it opens."""

    name: str
    opens: str


KINDS = (
    Kind("signing key", "the ledger: who has it can write records and sign restore points"),
    Kind("backup key", "the platform's own identity: it opens the keys of backups"),
    Kind("site keys", "each site: list, read and write every bucket"),
    Kind("checkpoint key", "adds checkpoints at the second site, and nothing else"),
    Kind("watch key", "reads heartbeats"),
    Kind("landing keys", "lists the landing bucket at a site: names, sizes and times of files, and no content"),
    Kind("scorer keys", "reads outputs of training jobs at a site, models among them, and nothing else"),
    Kind("job keys", "what jobs in pools get at a site with `job_credentials: {kind: connection}`"),
    Kind("ledger database", "reads the ledger, and inserts rows that count for nothing without the signing key"),
    Kind("continuity database", "leases, catalogues, and which site is the active one"),
    Kind("feature databases", "features of the pipelines' data: offline store, online store, Feast's registry"),
    Kind("scorer database", "reads the ledger, which site is the active one, and the online store; writes nothing"),
    Kind("backup databases", "reads every database; makes and drops scratch databases; sends WAL"),
    Kind("MLflow database", "runs, models and users of MLflow"),
    Kind("MLflow admin", "everything in MLflow, through its server"),
    Kind("MLflow site keys", "MLflow's own prefix of the artifacts' bucket at a site, and nothing else there"),
    Kind("MLflow reader", "reads runs and models in MLflow, through its server"),
    Kind("MLflow sessions", "signs the cookies of MLflow's pages"),
    Kind("Airflow database", "runs, XComs, connections and users of Airflow"),
    Kind("Fernet key", "connections and variables that Airflow keeps encrypted in its database"),
    Kind("Airflow tokens", "signs tokens of Airflow's API and of tasks: who has it can be anybody there"),
    Kind("Airflow sessions", "signs the cookies of Airflow's pages"),
    Kind("Airflow admin", "everything on Airflow's pages and API"),
    Kind("Airflow landing watch", "starts the ingestion of pipelines in Airflow's API, and reads the state of runs"),
    Kind("broker", "the queue of Celery's workers"),
    Kind("monitoring", "pushes and reads metrics"),
    Kind("pool clusters", "the namespaces in which jobs run"),
    Kind("team connections", "what your own DAGs use: `connections` of rempart.yaml, and any other AIRFLOW_CONN_"),
    Kind("database administrator", "PostgreSQL's superuser, or the administrator of an external server"),
    Kind("site servers", "the embedded object stores' own inner keys and session keys"),
)

AIRFLOW = frozenset({"Airflow database", "Fernet key", "monitoring"})
"""Secrets that each of Airflow's components needs."""
TASKS = frozenset(secret_kind.name for secret_kind in KINDS) - {
    "Airflow sessions",
    "Airflow landing watch",
    "landing keys",
    "scorer keys",
    "scorer database",
    "MLflow sessions",
    "MLflow site keys",
    "database administrator",
    "site servers",
}
"""Secrets of a task, whichever DAG it belongs to, including those that a backup encrypts into a restore point."""
SCHEDULER = AIRFLOW | {"Airflow tokens", "broker"}
HOLDS: Mapping[str, frozenset[str]] = {
    "airflow-api-server": AIRFLOW
    | {"Airflow tokens", "Airflow sessions", "ledger database", "continuity database"},  # the cockpit reads both
    "airflow-scheduler": SCHEDULER,  # with LocalExecutor it forks the tasks: see `held`
    "airflow-dag-processor": AIRFLOW,
    "airflow-triggerer": AIRFLOW | {"pool clusters", "team connections"},  # triggers wait for pods and for your systems
    "airflow-worker": TASKS - {"Airflow tokens"},
    "airflow-workload": TASKS - {"Airflow tokens"},  # the pod of one task
    "airflow-migrate": AIRFLOW,
    "mlflow": frozenset(
        {
            *("MLflow site keys", "MLflow database", "MLflow admin", "MLflow reader", "MLflow sessions"),
            "continuity database",
        }
    ),  # it follows the active site
    "wal-archive": TASKS,
    "landing-watch": frozenset(  # it lists the landing bucket at the active site, and starts runs
        {"landing keys", "continuity database", "ledger database", "Airflow landing watch"}
    ),
    SCORER: frozenset({"scorer keys", "scorer database"}),
    "cli": TASKS,
    "prepare": TASKS | {"Airflow sessions", "Airflow landing watch", "scorer database", "database administrator"},
    "postgresql": frozenset(),
    "site": frozenset({"site servers"}),
    "watchdog": frozenset(secret_kind.name for secret_kind in KINDS),  # it becomes `rempart up`
    "supervisor": frozenset(secret_kind.name for secret_kind in KINDS),  # it starts the others with what you exported
}
"""Kinds of secrets by process. A process that does not stand here holds none."""
IN_PODS: Mapping[str, frozenset[str]] = {
    "airflow-api-server": frozenset({"site keys"}),  # it shows logs of tasks, which lie at the active site
    "airflow-triggerer": frozenset({"site keys", "continuity database"}),  # it writes the logs of its triggers there
}
"""Additional secrets of a process without a shared volume: on Kubernetes."""
_VARIABLES = {
    "REMPART_AIRFLOW_FERNET_KEY": "Fernet key",
    "REMPART_AIRFLOW_JWT_SECRET": "Airflow tokens",
    "REMPART_AIRFLOW_API_SECRET": "Airflow sessions",
    "REMPART_AIRFLOW_BROKER_PASSWORD": "broker",
    "REMPART_MLFLOW_SECRET_KEY": "MLflow sessions",
    "REMPART_AIRFLOW_MLFLOW_PASSWORD": "MLflow reader",
    "MLFLOW_TRACKING_PASSWORD": "MLflow reader",
    "REMPART_POSTGRESQL_PASSWORD": "database administrator",
}
_CONNECTIONS = {
    keys.CONNECTION: "signing key",
    keys.NEXT_CONNECTION: "signing key",
    keyring.CONNECTION: "backup key",
    "mlflow": "MLflow admin",
    "airflow_api": "Airflow admin",
    LANDING_WATCH: "Airflow landing watch",
    "monitoring": "monitoring",
    "pg_airflow": "Airflow database",
    "pg_mlflow": "MLflow database",
    "pg_ledger": "ledger database",
    "pg_continuity": "continuity database",
    f"pg_{SCORER}": "scorer database",
    **{f"pg_{name}": "feature databases" for name in DATABASES if name.startswith("feast_")},
    **{f"pg_{name}": "backup databases" for name in ("backup", "drill", WAL_ARCHIVE)},
}


def held(process: str, config: Config, executor: str = "LocalExecutor", *, cluster: bool = False) -> frozenset[str]:
    """Return the kinds of secrets of a process. `executor`: what runs Airflow's tasks; `cluster`: on Kubernetes."""
    name = "site" if process.startswith("site-") else process
    secret_kinds = HOLDS.get(name, frozenset())
    if name == "airflow-scheduler" and executor == "LocalExecutor":
        secret_kinds |= TASKS
    if name == "airflow-api-server" and config.access.auth_manager == "simple":
        secret_kinds |= {"Airflow admin", "Airflow landing watch"}
    external = {service for service, declared in config.services.items() if declared.external}
    # without a key of its own: see `given`
    if name in ("mlflow", "landing-watch", SCORER) and external & config.sites.keys():
        secret_kinds |= {"site keys"}
    if name == "landing-watch" and "airflow" in external:
        secret_kinds |= {"Airflow admin"}
    return secret_kinds | IN_PODS.get(name, frozenset()) if cluster else secret_kinds


def kind(variable: str, config: Config) -> str | None:
    """Return the kind of secret in a variable, or None. An undeclared connection is the team's."""
    if variable in _VARIABLES:
        return _VARIABLES[variable]
    if variable.startswith("REMPART_SITE_"):
        return "site servers"
    if not variable.startswith(CONNECTION):
        return None
    name = variable.removeprefix(CONNECTION).lower()
    if name in _CONNECTIONS:
        return _CONNECTIONS[name]
    sites = config.sites.values()
    declared: dict[str, str] = {
        **{pool.kubernetes_connection.lower(): "pool clusters" for pool in config.gpu_pools.values()},
        **{
            site.job_credentials.connection.lower(): "job keys"
            for site in sites
            if site.job_credentials and site.job_credentials.connection
        },
        **{watcher(site).lower(): "watch key" for site in config.sites},
        **{tracker(site).lower(): "MLflow site keys" for site in config.sites},
        **{lister(site).lower(): "landing keys" for site in config.sites},
        **{reader(site).lower(): "scorer keys" for site in config.sites},
        **{witness(site).lower(): "checkpoint key" for site in config.sites},
        **{site.connection.lower(): "site keys" for site in sites},
    }
    postgresql = config.services.get("postgresql")
    if postgresql and postgresql.external:
        declared[postgresql.external.connection.lower()] = "database administrator"
    return declared.get(name, "team connections")


def given(secrets: Mapping[str, str], kinds: frozenset[str], config: Config) -> dict[str, str]:
    """Return only the secrets of these kinds: an undeclared kind is given to nobody."""
    given_secrets = {name: value for name, value in secrets.items() if kind(name, config) in kinds}
    for limited, connection in (("MLflow site keys", tracker), ("landing keys", lister), ("scorer keys", reader)):
        if {limited, "site keys"} <= kinds:
            for name, place in config.sites.items():
                if f"{CONNECTION}{connection(name).upper()}" in secrets:
                    given_secrets.pop(f"{CONNECTION}{place.connection.upper()}", None)
    return given_secrets


def only(variables: Mapping[str, str], kinds: frozenset[str], config: Config) -> dict[str, str]:
    """Return the variables with secrets of these kinds, and all variables without secrets."""
    return {
        name: value for name, value in variables.items() if (secret := kind(name, config)) is None or secret in kinds
    }
