"""The lines of `.env`, which docker-compose.yml reads: names, first values, and what each is."""

from __future__ import annotations

from dataclasses import dataclass

from rempart.deployment.compose import ingress


@dataclass(frozen=True)
class Setting:
    """One line of `.env`: what the compose file reads, its value at first, and what it is."""

    name: str
    value: str
    meaning: str


SETTINGS = (
    Setting(
        "BASE_IMAGE",
        "debian:trixie-slim",
        "Base image, the only image that is not built here. `make base-image` makes one.",
    ),
    Setting("REMPART_TAG", "local", "Tag of the platform's images."),
    Setting("REMPART_TRAINER", "job", "`trainer` adds PyTorch to the image of jobs."),
    Setting("REMPART_AIRFLOW_PORT", "18080", "Port of Airflow's pages and REST API."),
    Setting("REMPART_MLFLOW_PORT", "15000", "MLflow's, likewise."),
    Setting(
        "REMPART_LISTEN",
        ingress.LOOPBACK,
        "Address on which the pages listen. Any address but 127.0.0.1 needs a certificate.",
    ),
    Setting("REMPART_HOST", ingress.LOOPBACK, "Host name of this machine in browsers. A certificate must cover it."),
    Setting("REMPART_SCHEDULER_MEMORY", "6g", "Memory limit of the container in which tasks run."),
    Setting(
        "COMPOSE_PROFILES",
        "",
        "Optional services to start: celery, monitoring, serving (`rempart stack init --profiles`).",
    ),
    Setting("REMPART_EXECUTOR", "LocalExecutor", "Executor of tasks. With profile `celery`: CeleryExecutor."),
    Setting("REMPART_WORKER_MEMORY", "6g", "Memory limit of each worker of profile `celery`."),
    Setting("REMPART_MONITORING_PORT", "19090", "Port of the page of profile `monitoring`."),
    Setting("REMPART_SCORER_PORT", "18090", "Port of the scorer of profile `serving`."),
)
FILES = Setting("REMPART_FILES", "./var/compose", "Folder in which `rempart stack init` wrote the mounted files.")
MADE = (
    Setting(
        "REMPART_OWN_POSTGRESQL",
        "1",
        "`rempart stack init` rewrites everything below this line. 0: rempart.yaml declares the service as external.",
    ),
    Setting("REMPART_OWN_PRIMARY", "1", "Likewise."),
    Setting("REMPART_OWN_HAVEN", "1", "Likewise."),
    Setting("REMPART_PASS", "0", "1: PostgreSQL is your own server, and connections are forwarded to it."),
    Setting("REMPART_POSTGRESQL_HOST", "postgresql.invalid", "Name and port of that server."),
    Setting("REMPART_POSTGRESQL_PORT", "5432", "Likewise."),
    Setting("REMPART_ALLOWED", "none", "Digest of the list of destinations that containers may reach."),
    Setting("REMPART_SCHEME", "http", "`https` if `rempart stack init` was given a certificate."),
    Setting("REMPART_CERTIFICATE", "none", "Digest of certificate and key."),
)
