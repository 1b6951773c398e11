"""Read and validate rempart.yaml and the environment: the only reader of both.

rempart.yaml holds no secrets. It names Airflow connections; this module resolves them from `AIRFLOW_CONN_<NAME>` in the
environment or in the stack's secrets file, and the orchestration from any secrets backend of Airflow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import Field, ValidationError, model_validator

from rempart.errors import ConfigError, ConnectionMissing
from rempart.settings.columns import Name
from rempart.settings.connections.fields import TLS as TLS
from rempart.settings.connections.fields import check as check_fields
from rempart.settings.operators import Operator, merge, named_operators, read_catalogue
from rempart.settings.pipeline_sections import SparkJobs
from rempart.settings.policy.rules import OriginPlace, Place, PolicyRule
from rempart.settings.policy.servers import SCORER as SCORER
from rempart.settings.policy.servers import SERVERS as SERVERS
from rempart.settings.policy.servers import check_services
from rempart.settings.schema import Strict, explain, read_yaml, told_path
from rempart.settings.sections import (
    Access,
    AuditConfig,
    BackupConfig,
    Buckets,
    Classification,
    DagDefaults,
    DeclaredConnection,
    EvidenceConfig,
    Pool,
    Registry,
    ReplicationPair,
    Retention,
    SiteConfig,
    StackService,
    Training,
)
from rempart.settings.sources import Ingestion

DATABASES = ("airflow", "mlflow", "feast_registry", "feast_offline", "feast_online", "ledger", "continuity")
"""The platform's databases; the connection to database `x` is named `pg_x`."""
WAL_ARCHIVE = "wal_archive"
"""The role that may replicate, and nothing else, where point-in-time recovery is on."""
SCORER_READS = ("ledger", "continuity", "feast_online")
"""Databases of which the role `scorer` reads some tables: include/sql/platform says which."""


class Config(Strict):
    """Content of rempart.yaml."""

    operators: dict[str, Operator] = Field(
        description=("Additions to the shipped catalogue; a fact given here replaces the shipped fact.")
    )
    sites: dict[str, SiteConfig]
    active_site: str = Field(description="The site from which pipelines read and to which they write.")
    policy: dict[Classification, PolicyRule]
    retention: dict[Classification, Retention]
    buckets: Buckets = Buckets()
    registries: dict[str, Registry] = Field(
        default_factory=dict, description=("Image registries by host, or by host/path.")
    )
    connections: dict[str, DeclaredConnection] = Field(
        default_factory=dict, description=("Airflow connections that tasks may use, in addition to the platform's own.")
    )
    hosts: dict[str, Place] = Field(
        default_factory=dict, description=("Other hosts that tasks may reach, as host[:port].")
    )
    origins: dict[Name, OriginPlace] = Field(
        default_factory=dict, description="Places that sources only read from, such as another operator's bucket."
    )
    gpu_pools: dict[str, Pool] = Field(default_factory=dict)
    machine: Place | None = Field(
        default=None, description=("The machine that runs the platform's own servers: PostgreSQL, MLflow and Airflow.")
    )
    ingestion: Ingestion = Ingestion()
    replication: list[ReplicationPair] = Field(default_factory=list)
    backup: BackupConfig
    evidence: EvidenceConfig = EvidenceConfig()
    audit: AuditConfig = AuditConfig()
    training: Training = Training()
    spark: SparkJobs = SparkJobs()
    dags: DagDefaults = DagDefaults()
    access: Access = Access()
    services: dict[str, StackService] = Field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """Return PostgreSQL's login roles; the connection of role `x` is named `pg_x`."""
        return (*DATABASES, "backup", "drill", SCORER, *([WAL_ARCHIVE] if self.backup.point_in_time else []))

    @property
    def evidence_site(self) -> str:
        """Return the site of the ledger's export."""
        return self.evidence.site or self.active_site

    @property
    def checkpoint_site(self) -> str:
        """Return the site of the checkpoints that witness the export."""
        return self.evidence.checkpoint_site or self.backup.site

    def server_place(self, name: str) -> Place | None:
        """Return the place of one of SERVERS: its declared place if external, else the machine. None if undeclared."""
        declared = self.services[name].external if name in self.services else None
        return declared.place if declared else self.machine

    def places(self) -> dict[str, Place]:
        """Return every place in the file, by its path there."""
        sections: dict[str, Mapping[str, Place]] = {
            "sites": self.sites,
            "registries": self.registries,
            "connections": self.connections,
            "hosts": self.hosts,
            "origins": self.origins,
            "gpu_pools": self.gpu_pools,
        }
        found = {f"{section}.{name}": place for section, named in sections.items() for name, place in named.items()}
        for name, service in self.services.items():
            if service.external and service.external.place:
                found[f"services.{name}.external"] = service.external.place
        return found | ({"machine": self.machine} if self.machine else {})

    @model_validator(mode="after")
    def _references_exist(self) -> Config:
        def known(path: str, name: str, among: Mapping[str, object], section: str) -> None:
            if name not in among:
                raise ValueError(f"{path}: '{name}' is not one of {section}: {', '.join(among) or 'none declared'}")

        for key, operator in self.operators.items():
            for service_key, service in operator.services.items():
                for below in service.runs_on:
                    known(f"operators.{key}.services.{service_key}.runs_on", below, self.operators, "operators")
        for path, place in self.places().items():
            known(f"{path}.operator", place.operator, self.operators, "operators (nor in include/operators)")
            operator = self.operators[place.operator]
            known(f"{path}.service", place.service, operator.services, f"operators.{place.operator}.services")
            known(f"{path}.region", place.region, operator.regions, f"operators.{place.operator}.regions")
        for name, site in self.sites.items():
            if site.job_credentials and site.job_credentials.connection == site.connection:
                raise ValueError(
                    f"sites.{name}.job_credentials.connection: this is the site's own connection. Name another "
                    "connection, or set kind: platform"
                )
            if site.independent_of:
                known(f"sites.{name}.independent_of", site.independent_of, self.sites, "sites")
        for name, origin in self.origins.items():
            if name in self.sites or origin.connection in [site.connection for site in self.sites.values()]:
                raise ValueError(f"origins.{name}: this is a site. Sources read from a site without an origin")
        known("active_site", self.active_site, self.sites, "sites")
        known("backup.site", self.backup.site, self.sites, "sites")
        if self.backup.every > self.backup.rpo_objective:
            raise ValueError("backup.every: longer than backup.rpo_objective, so the objective could never be met")
        if self.backup.locked > timedelta(days=self.backup.keep.daily):
            raise ValueError(
                "backup.locked: longer than the days under backup.keep.daily, so locks would keep restore points "
                "that no retention rule keeps"
            )
        for key, chosen in (("site", self.evidence.site), ("checkpoint_site", self.evidence.checkpoint_site)):
            if chosen:
                known(f"evidence.{key}", chosen, self.sites, "sites")
        for i, pair in enumerate(self.replication):
            known(told_path("replication", i, "source"), pair.source, self.sites, "sites")
            known(told_path("replication", i, "target"), pair.target, self.sites, "sites")
            if pair.source == pair.target:
                raise ValueError(f"{told_path('replication', i, 'target')}: a site cannot replicate to itself")
        for name, pool in self.gpu_pools.items():
            if pool.registry:
                known(f"gpu_pools.{name}.registry", pool.registry, self.registries, "registries")
        for section, jobs in (("training", self.training), ("spark", self.spark)):
            for i, chosen_pool in enumerate(jobs.gpu_pools):
                known(told_path(f"{section}.gpu_pools", i), chosen_pool, self.gpu_pools, "gpu_pools")
            if jobs.backend == "kubernetes":
                if not self.gpu_pools:
                    raise ValueError(f"{section}.backend: kubernetes needs a pool: declare a pool under gpu_pools")
                if not jobs.image:
                    raise ValueError(f"{section}.image: give the image of its pods with its digest: name@sha256:...")
        check_services(self.services, self.sites, self.machine)
        return self


SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's modes, from the least to the most strict."""


@dataclass(frozen=True)
class Connection:
    """An Airflow connection, whichever backend it came from. Its secret parts never appear in repr."""

    name: str
    conn_type: str
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_fields(self.name, vars(self), self.port, self.extra)

    def tls(self) -> dict[str, Any]:
        """Return libpq's TLS settings from `extra` and the environment (PGSSLMODE, ...); the stricter of two modes."""
        inherited = {name: os.environ.get(f"PG{name.upper()}", "") for name in TLS}
        found = {name: value for name, value in inherited.items() if value}
        found |= {name: str(self.extra[name]) for name in TLS if name in self.extra}
        modes = [mode for mode in (inherited["sslmode"], found.get("sslmode")) if mode in SSL_MODES]
        return found | ({"sslmode": max(modes, key=SSL_MODES.index)} if modes else {})

    def postgresql_url(self, driver: str = "postgresql") -> str:
        """Return a URL for libpq (`postgresql`) or SQLAlchemy (`postgresql+psycopg`), with the password: never log it.

        asyncpg takes no TLS settings from it: see `rempart.orchestration.async_sessions`.
        """
        tls = "" if driver.endswith("asyncpg") else urlencode(self.tls())
        return (
            f"{driver}://{quote(self.login, safe='')}:{quote(self.password, safe='')}"
            f"@{self.host}:{self.port or 5432}/{self.schema}{'?' if tls else ''}{tls}"
        )

    def http_url(self) -> str:
        """Return the server's URL, without credentials and path. The schema is `http` or `https`."""
        port = f":{self.port}" if self.port else ""
        return f"{self.schema or 'http'}://{self.host}{port}"


Connections = Callable[[str], Connection]


def witness(site: str) -> str:
    """Return the connection that can only add to the checkpoint bucket of a site."""
    return f"s3_witness_{site}"


def watcher(site: str) -> str:
    """Return the connection that can only read heartbeats of a site. Only the watch uses it."""
    return f"s3_watch_{site}"


TRACKED = "mlflow"
"""Prefix of MLflow's artifacts in their bucket, the same at every site."""


def tracker(site: str) -> str:
    """Return the connection of MLflow's server for artifacts at a site: it reaches its own prefix only."""
    return f"s3_mlflow_{site}"


def lister(site: str) -> str:
    """Return the connection that can only list the landing bucket of a site. Only the landing watch uses it."""
    return f"s3_landing_{site}"


def reader(site: str) -> str:
    """Return the connection that can only read outputs of training jobs at a site. Only the scorer uses it."""
    return f"s3_scorer_{site}"


def project_root() -> Path:
    """Return the folder of rempart.yaml: `REMPART_HOME`, else the nearest folder upwards from the working directory."""
    if home := os.environ.get("REMPART_HOME"):
        return Path(home)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "rempart.yaml").is_file():
            return folder
    raise ConfigError(
        f"find rempart.yaml: it is neither in {Path.cwd()} nor in any folder above it",
        "Run from the project's folder, or set REMPART_HOME to it.",
    )


def var_dir() -> Path:
    """Return the state folder of the embedded stack: `REMPART_VAR`, else `var/` in the project."""
    return Path(os.environ.get("REMPART_VAR") or project_root() / "var")


def secrets_file() -> Path:
    """Return the file of the embedded stack's secrets: KEY=value lines, mode 0600, generated once."""
    return var_dir() / "secrets.env"


def operators_dir(file: Path) -> Path:
    """Return the folder of the shipped operator catalogue, next to a rempart.yaml."""
    return file.parent / "include" / "operators"


@cache
def _load(file: Path, modified: tuple[float, ...]) -> Config:
    data = read_yaml(file)
    operators = data.get("operators") or {}
    if isinstance(operators, dict):  # anything else is for the validation to refuse
        data["operators"] = merge(read_catalogue(operators_dir(file), named_operators(data)), operators)
    try:
        return Config.model_validate(data)
    except ValidationError as cause:
        raise ConfigError(
            f"rempart.yaml is not valid:\n{explain(cause, file)}",
            "Correct each line above, then run `rempart config check`.",
        ) from cause


def load(file: Path | None = None) -> Config:
    """Return the validated configuration; read again only if the file changed. Raises ConfigError."""
    file = file or project_root() / "rempart.yaml"
    if not file.is_file():
        raise ConfigError(f"{file} does not exist", "Create it from the rempart.yaml that the project ships.")
    return _load(file, (file.stat().st_mtime, *_modified(operators_dir(file))))


def _modified(folder: Path) -> list[float]:
    """Return the modification time of each file of a folder, by name.

    Airflow calls it for each DAG file: it must be fast.
    """
    try:
        with os.scandir(folder) as found:
            return [time for _, time in sorted((path.name, path.stat().st_mtime) for path in found)]
    except FileNotFoundError:  # a project may have no catalogue
        return []


def read_env_file(file: Path) -> dict[str, str]:
    """Read KEY=value lines literally, without blank lines and # comments."""
    if not file.is_file():
        return {}
    pairs = (
        line.split("=", 1)
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#") and "=" in line
    )
    return {key.strip(): value for key, value in pairs}


def environment() -> dict[str, str]:
    """Return the process environment merged over the stack's secrets file."""
    return {**read_env_file(secrets_file()), **os.environ}


def parse_connection(name: str, text: str) -> Connection:
    """Parse an `AIRFLOW_CONN_*` value, as JSON or as a URI."""
    if text.lstrip().startswith("{"):
        data = json.loads(text)
        extra = data.get("extra") or {}
        return Connection(
            name,
            data.get("conn_type", ""),
            data.get("host") or "",
            data.get("port"),
            data.get("login") or "",
            data.get("password") or "",
            data.get("schema") or "",
            json.loads(extra) if isinstance(extra, str) else extra,
        )
    url = urlsplit(text)
    return Connection(
        name,
        url.scheme,
        unquote(url.hostname or ""),
        url.port,
        unquote(url.username or ""),
        unquote(url.password or ""),
        unquote(url.path.lstrip("/")),
        dict(parse_qsl(url.query)),
    )


def connection_text(connection: Connection) -> str:
    """Return a connection as `parse_connection` reads it, as JSON. It holds the password: never log it."""
    return json.dumps({key: value for key, value in asdict(connection).items() if key != "name"}, default=dict)


def environment_connections(name: str) -> Connection:
    """Resolve a connection without Airflow, from the environment or the stack's secrets file."""
    variable = f"AIRFLOW_CONN_{name.upper()}"
    if not (text := environment().get(variable)):
        raise ConnectionMissing(
            f"Connection '{name}' is not defined",
            f"For your own server, set {variable} in the environment (docs/how-to/external-services.md). For the "
            f"embedded stack, run `rempart up`, which writes the variable to {secrets_file()}.",
        )
    try:
        return parse_connection(name, text)
    except ValueError:
        # the cause would quote the value, which holds the password
        raise ConnectionMissing(
            f"{variable} is neither JSON nor a URI",
            "Write it in one of the two forms that Airflow documents for connection variables.",
        ) from None
