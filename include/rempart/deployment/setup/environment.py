"""Build the environment of every process of the stack: telemetry off, 127.0.0.1 off the proxy, settings from one
place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from rempart.deployment.setup import process_secrets, profiles, site_certificates
from rempart.deployment.setup.credentials import connections
from rempart.deployment.setup.paths import Stack
from rempart.errors import ConnectionMissing
from rempart.settings.access import LANDING_WATCH_USER
from rempart.settings.config import Connection, Connections, tracker
from rempart.settings.telemetry import TELEMETRY_OFF, off_proxy
from rempart.tracking_access.app import READER, READER_PASSWORD

MODEL_SOURCE = r"\Amodels:/m-[0-9a-f]{32}\Z"
"""The only source that a version of a registered model may have: a model that was logged to this server."""

BUNDLE = "rempart.orchestration.parsing.project_bundle.ProjectBundle"
"""Airflow's view of the folder of DAG files, which it imports by this name."""

MARKER = "REMPART_SERVICE"
"""Environment variable that every process of a service and its descendants carry: `<stack id>:<service>`."""

# What the caller's shell may hold and a service must not inherit: it would override the stack's own settings.
_FOREIGN = (
    "AIRFLOW__",
    "AIRFLOW_HOME",
    "AIRFLOW_CONFIG",
    "MLFLOW_",
    "_MLFLOW_",
    "WEED_",
    "PG",
    "AWS_",
    "FEAST_",
    "PROMETHEUS_MULTIPROC",  # Feast makes a folder of the process's own user, and names it here
    "SUPERVISOR_",
    "PYTEST_",
)
_KEPT = ("AWS_CA_BUNDLE",)
_KEPT_IN_PODS = (*_KEPT, "PGSSLMODE", "PGSSLROOTCERT")
"""Variables from a pod's manifest: how libpq and asyncpg verify the operator's PostgreSQL."""


SECRET_SETTINGS = {
    "CORE__FERNET_KEY": ("REMPART_AIRFLOW_FERNET_KEY", "Fernet key"),
    "API_AUTH__JWT_SECRET": ("REMPART_AIRFLOW_JWT_SECRET", "Airflow tokens"),
    "API__SECRET_KEY": ("REMPART_AIRFLOW_API_SECRET", "Airflow sessions"),
}
"""Airflow's settings that are secrets: the variable, and the kind of secret."""


def held(stack: Stack, inherited: Mapping[str, str], process: str) -> frozenset[str]:
    """Return the kinds of secrets that a process of this stack holds. Raises StackError for an unknown executor."""
    return process_secrets.held(process, stack.config, profiles.executor(stack, inherited), cluster=stack.cluster)


def base(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of every service."""
    kept = _KEPT_IN_PODS if stack.cluster else _KEPT
    clean = {k: v for k, v in inherited.items() if not k.startswith(_FOREIGN) or k in kept}
    return (
        clean
        | TELEMETRY_OFF
        | off_proxy(inherited)
        | {
            "REMPART_HOME": str(stack.root),
            "REMPART_VAR": str(stack.var),
            "REMPART_PORT_OFFSET": str(stack.offset),
            "PYTHONUNBUFFERED": "1",
            # compiled modules are kept, whatever the shell says: each task is a process of its own and imports anew
            "PYTHONDONTWRITEBYTECODE": "",
            "SPT_NOENV": "1",  # setproctitle would overwrite the marker in /proc/<pid>/environ
            "MPLCONFIGDIR": str(stack.var / "cache" / "matplotlib"),
            "MPLBACKEND": "agg",
        }
    )


def s3_client(connection: Connection) -> dict[str, str]:
    """Return settings for a library with its own S3 client."""
    return {
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_DEFAULT_REGION": str(connection.extra.get("region_name", "us-east-1")),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_S3_ENDPOINT_URL": str(connection.extra["endpoint_url"]),
    }


def tracking_site(stack: Stack, resolve: Connections, site: str) -> Connection:
    """Return MLflow's connection to a site: limited to its prefix, or the site's own if there is none.

    Raises ConnectionMissing.
    """
    try:
        return resolve(tracker(site))
    except ConnectionMissing:
        if not stack.external(site):
            raise
        return resolve(stack.config.sites[site].connection)


def mlflow(stack: Stack, secrets: Mapping[str, str], inherited: Mapping[str, str], active: str) -> dict[str, str]:
    """Return the MLflow server's environment: artifacts go to the site `active`.

    Secrets are here and not in its command line, which every user can read.
    """
    resolve = connections(stack, secrets)
    server = resolve("mlflow")
    return (
        base(stack, inherited)
        | s3_client(tracking_site(stack, resolve, active))
        | {
            "MLFLOW_BACKEND_STORE_URI": resolve("pg_mlflow").postgresql_url("postgresql+psycopg"),
            "MLFLOW_AUTH_CONFIG_PATH": str(stack.var / "mlflow" / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": server.login,
            "MLFLOW_AUTH_ADMIN_PASSWORD": server.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets["REMPART_MLFLOW_SECRET_KEY"],
            READER_PASSWORD: secrets.get(READER_PASSWORD, ""),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": MODEL_SOURCE,
        }
        # its own pages, where a browser has them from the gate
        | ({"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": url} if (url := inherited.get("REMPART_MLFLOW_URL")) else {})
    )


def airflow(stack: Stack, secrets: Mapping[str, str], inherited: Mapping[str, str], process: str) -> dict[str, str]:
    """Return the environment of one of Airflow's processes: settings, and the secrets it needs."""
    kinds = held(stack, inherited, process)
    database = connections(stack, secrets)("pg_airflow")
    port = stack.ports["airflow"]
    settings = {
        "CORE__DAGS_FOLDER": str(stack.root / "dags"),
        "CORE__PLUGINS_FOLDER": str(stack.root / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__DEFAULT_TIMEZONE": "utc",
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "CORE__EXECUTION_API_SERVER_URL": f"http://{stack.host('airflow')}:{port}/execution/",
        # A busy machine's API server that has just started needs more than the 5 s after which a task would fail.
        "WORKERS__EXECUTION_API_TIMEOUT": "15",
        "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
        "DATABASE__SQL_ALCHEMY_CONN": database.postgresql_url("postgresql+psycopg"),
        "DATABASE__SQL_ALCHEMY_CONN_ASYNC": database.postgresql_url("postgresql+asyncpg"),
        "API__HOST": stack.listen,
        "API__PORT": str(port),
        "API__BASE_URL": inherited.get("REMPART_AIRFLOW_URL") or f"http://127.0.0.1:{port}",
        "API__WORKERS": "1",
        "API__EXPOSE_CONFIG": "False",
        "API__ENABLE_SWAGGER_UI": "False",  # its pages load scripts and fonts from other companies' hosts
        "API_AUTH__JWT_ISSUER": f"rempart-{stack.id}",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        **readings(stack),
        "DAG_PROCESSOR__PARSING_PROCESSES": "2",
        # A task that died with its scheduler is retried after a minute, not after five.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "LOGGING__BASE_LOG_FOLDER": str(stack.airflow_home / "logs"),
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(stack.airflow_home / "logs" / "dag_processor"),
        "LOGGING__COLORED_CONSOLE_LOG": "False",
    }
    given = {process_secrets.kind(name, stack.config) for name in secrets}
    settings |= {key: secrets[name] for key, (name, kind) in SECRET_SETTINGS.items() if kind in kinds}
    settings |= profiles.tasks(stack, secrets, inherited, database, with_broker="broker" in kinds & given)
    settings["LOGGING__LOGGING_CONFIG_CLASS"] = "rempart.orchestration.shared_logs.LOGGING_CONFIG"
    if database.tls():
        settings["DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC"] = "rempart.orchestration.async_sessions.CONNECT_ARGS"
    if stack.cluster:
        settings |= in_pods()
    own = {key: value for key, value in secrets.items() if key.startswith(process_secrets.CONNECTION)}
    return (
        process_secrets.only(base(stack, inherited), kinds, stack.config)
        | {f"AIRFLOW__{key}": value for key, value in (settings | people(stack, settings["API__BASE_URL"])).items()}
        | process_secrets.given(own, kinds, stack.config)
        | {
            "AIRFLOW_HOME": str(stack.airflow_home),
        }
        | mlflow_pages(stack, inherited)
        # the gate says that it was asked by TLS, and nobody else reaches the API server from outside
        | ({"FORWARDED_ALLOW_IPS": "*"} if inherited.get("REMPART_AIRFLOW_URL", "").startswith("https:") else {})
    )


def readings(stack: Stack) -> dict[str, str]:
    """Return how often Airflow reads DAG files again that did not change.

    In containers their folder is read-only. Elsewhere the bundle notices changed pipelines, and a reading of all files
    takes seconds of processor time.
    """
    if stack.containers:
        return {"DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30"}
    return {
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "SCHEDULER__PARSING_CLEANUP_INTERVAL": "20",  # for the DAGs of removed pipelines
        "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
            [{"name": "dags-folder", "classpath": BUNDLE, "kwargs": {}}]
        ),
    }


def tracking(stack: Stack, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return MLflow's settings for tasks, which read `models:/NAME@champion` as a read-only user.

    An external server has no such user: only its address is set.
    """
    if external := stack.external("mlflow"):
        return {"MLFLOW_TRACKING_URI": external.url, "MLFLOW_REGISTRY_URI": external.url}
    url = connections(stack, secrets)("mlflow").http_url()
    user = {"MLFLOW_TRACKING_USERNAME": READER, "MLFLOW_TRACKING_PASSWORD": secrets[READER_PASSWORD]}
    return {"MLFLOW_TRACKING_URI": url, "MLFLOW_REGISTRY_URI": url, **user}


def mlflow_pages(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return MLflow's public address for the links of tasks; empty if only the platform reaches it."""
    if (url := inherited.get("REMPART_MLFLOW_URL")) is None:
        if external := stack.external("mlflow"):
            url = external.url
        elif not stack.containers:
            url = f"http://127.0.0.1:{stack.ports['mlflow']}"
    return {"REMPART_MLFLOW_URL": url} if url else {}


def people(stack: Stack, address: str) -> dict[str, str]:
    """Return the auth manager's settings for Airflow's pages at `address`."""
    if stack.config.access.auth_manager == "simple":
        return {
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"admin:admin,{LANDING_WATCH_USER}:user",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(stack.airflow_home / "passwords.json"),
        }
    seconds = int(stack.config.access.session.total_seconds())
    return {
        "CORE__AUTH_MANAGER": "rempart.web.security.auth_manager.AuthManager",
        "API_AUTH__JWT_EXPIRATION_TIME": str(seconds),
        "API_AUTH__JWT_CLI_EXPIRATION_TIME": str(min(seconds, 3600)),
        "FAB__CONFIG_FILE": os.devnull,  # so that no file can open registration, or a role for everybody
        "FAB__AUTH_ROLE_PUBLIC": "",
        "FAB__AUTH_RATE_LIMITED": "True",
        "FAB__AUTH_RATE_LIMIT": "5 per 40 second",
        "FAB__SESSION_BACKEND": "database",
        "FAB__SESSION_LIFETIME_MINUTES": str(seconds // 60),
        "FAB__SESSION_MAX_LIFETIME_MINUTES": str(seconds // 60),
        "FAB__COOKIE_SAMESITE": "Lax",
        "FAB__COOKIE_SECURE": str(address.startswith("https://")),
        "FAB__UPDATE_FAB_PERMS": "False",  # its own roles get no permission: rempart.settings.access has the table
    }


def in_pods() -> dict[str, str]:
    """Return Airflow's settings for components without a shared volume: task logs go to the active site.

    The chart sets the namespace and the template of worker pods.
    """
    return {
        "LOGGING__LOGGING_CONFIG_CLASS": "rempart.orchestration.task_logs.LOGGING_CONFIG",
        # the template's own image, which is named by digest; Airflow would put one with a tag in its place
        "KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY": "",
        "KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG": "",
    }


def site(stack: Stack, secrets: Mapping[str, str], inherited: Mapping[str, str], name: str) -> dict[str, str]:
    """Return one SeaweedFS server's environment: keys and certificates that close its inner ports to others."""
    key = f"REMPART_SITE_{name.upper()}_"
    clean = process_secrets.only(base(stack, inherited), frozenset(), stack.config)
    return clean | {
        "WEED_JWT_SIGNING_KEY": secrets[f"{key}WRITE_KEY"],
        "WEED_JWT_SIGNING_READ_KEY": secrets[f"{key}READ_KEY"],
        "WEED_JWT_FILER_SIGNING_KEY": secrets[f"{key}FILER_WRITE_KEY"],
        "WEED_JWT_FILER_SIGNING_READ_KEY": secrets[f"{key}FILER_READ_KEY"],
        **site_certificates.variables(site_certificates.settings(name, stack.site_certificates(name))),
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # the default of 7 volumes per bucket wastes files and memory here
    }


def of(stack: Stack, secrets: Mapping[str, str], inherited: Mapping[str, str], service: str) -> dict[str, str]:
    """Return one service's whole environment, with its marker. Raises ConnectionMissing."""
    try:
        if service.startswith("site-"):
            environment = site(stack, secrets, inherited, service.removeprefix("site-"))
        elif service.startswith("airflow"):
            environment = airflow(stack, secrets, inherited, service)
            if "MLflow reader" in held(stack, inherited, service):  # it runs tasks
                environment |= tracking(stack, secrets)
            if profiles.monitored(stack, inherited):
                monitoring = connections(stack, secrets)("monitoring")
                environment |= profiles.metrics(stack, monitoring, inherited, service.removeprefix("airflow-"))
        else:
            kinds = held(stack, inherited, service)
            environment = process_secrets.only(base(stack, inherited), kinds, stack.config)
    except KeyError as cause:
        raise ConnectionMissing(
            f"{stack.secrets} lacks {cause}",
            "Run `rempart up`, or `rempart stack init` for containers: it makes what is missing.",
        ) from cause
    return environment | {MARKER: f"{stack.id}:{service}"}
