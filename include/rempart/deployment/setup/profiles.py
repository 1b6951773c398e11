"""Define the optional compose profiles as data: workers with their broker, the metrics server, and the scorer.

A profile is chosen in `.env`, which `rempart stack init --profiles` writes; two variables of the compose file tell the
containers. The embedded stack has no profiles: its tasks run under the scheduler, its metrics go nowhere, and
rempart.yaml says whether it starts the scorer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError
from rempart.settings.config import SCORER, Connection

CELERY, MONITORING, SERVING = "celery", "monitoring", "serving"
PROFILES = (CELERY, MONITORING, SERVING)
EXECUTOR, CHOSEN = "REMPART_EXECUTOR", "REMPART_PROFILES"
"""Variables by which the compose file passes choices of `.env` to Airflow's containers."""
BROKER_PASSWORD = "REMPART_AIRFLOW_BROKER_PASSWORD"  # noqa: S105 # a name
BROKER_USER = "airflow"
SLOTS = 4
"""Number of parallel tasks of one worker, or of the scheduler if it runs them."""
PARALLELISM = {"LocalExecutor": SLOTS, "CeleryExecutor": 32}
"""Executors, and how many tasks they have under way or waiting at once. Workers of Celery take theirs out of these."""
REDELIVERED = 86400
"""Seconds after which the broker offers an unacknowledged task again: longer than any task may run."""
PUSHED_EVERY = 30_000
"""Milliseconds between two pushes of a process's metrics."""


def settings(profiles: Iterable[str]) -> dict[str, str]:
    """Return `.env` lines that choose exactly these profiles. Raises StackError for an unknown one."""
    chosen = [profile for profile in profiles if profile]
    if unknown := sorted(set(chosen) - set(PROFILES)):
        raise StackError(
            f"docker-compose.yml has no profile {', '.join(unknown)}", f"Choose among: {', '.join(PROFILES)}."
        )
    executor = "CeleryExecutor" if CELERY in chosen else "LocalExecutor"
    return {"COMPOSE_PROFILES": ",".join(profile for profile in PROFILES if profile in chosen), EXECUTOR: executor}


def parallelism(stack: Stack) -> dict[str, int]:
    """Return the executors of this stack; in a cluster also the one that makes a pod for each task."""
    return PARALLELISM | ({"KubernetesExecutor": 32} if stack.cluster else {})


def executor(stack: Stack, inherited: Mapping[str, str]) -> str:
    """Return what runs Airflow's tasks. Raises StackError for an unknown value in the environment."""
    named = (stack.containers and inherited.get(EXECUTOR)) or "LocalExecutor"
    if named not in (known := parallelism(stack)):
        raise StackError(
            f"{EXECUTOR} is '{named}'", f"Set it in .env to one of: {', '.join(known)}; `rempart stack init` does."
        )
    return named


def check_worker(stack: Stack, inherited: Mapping[str, str]) -> None:
    """Check that the scheduler gives tasks to workers. Raises StackError."""
    if (configured := executor(stack, inherited)) != "CeleryExecutor":
        raise StackError(
            f"A worker was started, and {EXECUTOR} is {configured}: the scheduler runs the tasks itself",
            f"Choose workers with `rempart stack init --profiles {CELERY}`, then `docker compose up --wait`.",
        )


def tasks(
    stack: Stack, secrets: Mapping[str, str], inherited: Mapping[str, str], database: Connection, *, with_broker: bool
) -> dict[str, str]:
    """Return Airflow's executor settings, without the prefix `AIRFLOW__`. Raises StackError.

    `with_broker`: for a process that adds tasks to the queue or takes them.
    """
    chosen = executor(stack, inherited)
    variables = {"CORE__EXECUTOR": chosen, "CORE__PARALLELISM": str(parallelism(stack)[chosen])}
    if chosen == "CeleryExecutor" and with_broker:
        place = f"{stack.host('broker')}:{stack.ports['broker']}"
        variables |= {
            "CELERY__BROKER_URL": f"redis://{BROKER_USER}:{quote(secrets[BROKER_PASSWORD])}@{place}/0",
            "CELERY__RESULT_BACKEND": f"db+{database.postgresql_url('postgresql+psycopg')}",
            "CELERY__WORKER_CONCURRENCY": str(SLOTS),
            "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(REDELIVERED),
        }
    return variables


def monitored(stack: Stack, inherited: Mapping[str, str]) -> bool:
    """Return whether there is a metrics server."""
    return stack.containers and MONITORING in inherited.get(CHOSEN, "").split(",")


def scores(stack: Stack, inherited: Mapping[str, str]) -> bool:
    """Return whether the stack has a scorer."""
    return SCORER in stack.services and (not stack.containers or SERVING in inherited.get(CHOSEN, "").split(","))


def metrics(stack: Stack, monitoring: Connection, inherited: Mapping[str, str], service: str) -> dict[str, str]:
    """Return settings that make an Airflow component push its metrics to the metrics server.

    A child process that inherits its parent's metrics pushes them too, under a random instance: the server keeps those
    whose instance is `<service>@<container>` (deploy/images/relabel.yml).
    """
    login = base64.b64encode(f"{monitoring.login}:{monitoring.password}".encode()).decode()
    place = f"http://{stack.host('monitoring')}:{stack.ports['monitoring']}"
    return {
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "AIRFLOW__METRICS__LEGACY_NAMES_ON": "False",  # they hold names of DAGs and tasks, which are labels otherwise
        "OTEL_SERVICE_NAME": service,
        "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={service}@{inherited.get('HOSTNAME', '')}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{place}/opentelemetry/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": f"Authorization={quote(f'Basic {login}')}",
        "OTEL_METRIC_EXPORT_INTERVAL": str(PUSHED_EVERY),
    }


def files(stack: Stack, secrets: Mapping[str, str], monitoring: Connection) -> dict[str, str]:
    """Return the files of both servers: contents by path."""
    return {"broker.conf": broker(stack, secrets[BROKER_PASSWORD]), "monitoring.password": monitoring.password}


def broker(stack: Stack, password: str) -> str:
    """Return Valkey's settings: one user, known by a password hash, without administration rights; nothing on disk.

    A queued task holds the token that lets it run, so the queue is kept in memory only.
    """
    known = hashlib.sha256(password.encode()).hexdigest()
    lines = (
        f"bind {stack.listen}",
        f"port {stack.ports['broker']}",
        "dir /tmp",
        'save ""',
        "appendonly no",
        "maxmemory 192mb",
        "maxmemory-policy noeviction",  # a queue that drops tasks is none
        "user default reset",
        f"user {BROKER_USER} on #{known} ~* &* +@all -@admin -@dangerous +info",
    )
    return "".join(f"{line}\n" for line in lines)
