"""rempart.yaml and the environment, validated once: the only reader of both.

Secrets never stand in rempart.yaml. It names Airflow connections; this module resolves them from `AIRFLOW_CONN_<NAME>`
in the environment or in the stack's secrets file, and the orchestration from any secrets backend that Airflow knows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rempart.errors import ConfigError, ConnectionMissing

Classification = Literal["public", "internal", "personal", "sensitive"]
DATABASES = ("airflow", "mlflow", "feast_registry", "feast_offline", "feast_online", "ledger")
"""The platform's databases; the connection to database `x` is named `pg_x`."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> object:
    """`90d`, `15m`, `1h` as a timedelta; anything else is left to pydantic to judge."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)\s*([smhdw])", value)):
        return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    if isinstance(value, timedelta):
        return value
    raise ValueError("write a duration as a number and a unit: 30s, 15m, 1h, 90d or 8w")


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Strict(BaseModel):
    """A section of a YAML file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Service(Strict):
    """What one uses of an operator."""

    runs_on: str = Field(description="Operator whose infrastructure it runs on.")
    qualifications: list[str] = Field(default_factory=list, description="Such as SecNumCloud-3.2, ISO-27001, HDS, C5.")


class Operator(Strict):
    """A company that runs infrastructure."""

    jurisdiction: str = Field(pattern=r"^[A-Z]{2}$", description="Country code of the operator's seat.")
    owner_jurisdiction: str = Field(pattern=r"^[A-Z]{2}$", description="Country code of its ultimate owner's seat.")
    services: dict[str, Service] = Field(default_factory=dict)
    source: str | None = Field(default=None, description="Where these facts were read.")
    as_of: str | None = Field(default=None, description="When they were read (YYYY-MM-DD).")


class SiteConfig(Strict):
    """One S3-compatible location of an operator."""

    operator: str
    service: str = "object-storage"
    region: str
    connection: str = Field(description="Airflow connection with key, secret and extra.endpoint_url.")
    profile: Literal["auto"] = "auto"
    independent_of: str | None = Field(default=None, description="Site whose loss this one must survive.")


class PolicyRule(Strict):
    """Where one classification may be placed. An empty list allows nothing."""

    jurisdictions: list[str]
    owner_jurisdictions: list[str]
    qualifications: list[str] = Field(default_factory=list)


class Retention(Strict):
    """How long data of one classification is kept."""

    raw: Duration
    quarantine: Duration
    snapshots: Duration


class Buckets(Strict):
    """Bucket names, the same at every site (buckets are global at many operators: choose a prefix of your own)."""

    landing: str = "landing"
    lake: str = "lake"
    artifacts: str = "artifacts"
    backups: str = "backups"


class ReplicationPair(Strict):
    """One source and one target site."""

    source: str
    target: str
    buckets: list[Literal["lake", "artifacts"]] = ["lake", "artifacts"]
    every: Duration = timedelta(minutes=5)
    lag_objective: Duration = timedelta(minutes=15)


class Keep(Strict):
    """How many restore points of each age are kept."""

    hourly: int = Field(default=24, ge=1)
    daily: int = Field(default=14, ge=1)
    weekly: int = Field(default=8, ge=0)
    monthly: int = Field(default=12, ge=0)


class BackupConfig(Strict):
    """Where restore points go, how often, and the objectives that they serve."""

    site: str
    every: Duration = timedelta(minutes=30)
    keep: Keep = Keep()
    rpo_objective: Duration = timedelta(hours=1)
    rto_objective: Duration = timedelta(minutes=30)


class Training(Strict):
    """Where training jobs run when a pipeline does not say otherwise."""

    backend: Literal["local"] = "local"


class External(Strict):
    """A service that the team runs itself: `rempart up` checks it and never starts one."""

    url: str
    connection: str


class StackService(Strict):
    """One service of the stack: started here, or external."""

    port: int | None = Field(default=None, ge=1024, le=65535, description="Listen here instead of the default port.")
    external: External | None = None


class DagDefaults(Strict):
    """What every DAG gets, from one place."""

    owner: str = "mlops"
    retries: int = Field(default=2, ge=0)
    retry_delay: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(hours=1)


class Config(Strict):
    """The whole of rempart.yaml."""

    operators: dict[str, Operator]
    sites: dict[str, SiteConfig]
    active_site: str = Field(description="The site where pipelines read and write.")
    policy: dict[Classification, PolicyRule]
    retention: dict[Classification, Retention]
    buckets: Buckets = Buckets()
    replication: list[ReplicationPair] = Field(default_factory=list)
    backup: BackupConfig
    training: Training = Training()
    dags: DagDefaults = DagDefaults()
    services: dict[str, StackService] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _references_exist(self) -> Config:
        def known(path: str, name: str, among: Mapping[str, object], section: str) -> None:
            if name not in among:
                raise ValueError(f"{path}: '{name}' is not one of {section}: {', '.join(among) or 'none declared'}")

        for name, site in self.sites.items():
            known(f"sites.{name}.operator", site.operator, self.operators, "operators")
            known(
                f"sites.{name}.service",
                site.service,
                self.operators[site.operator].services,
                f"operators.{site.operator}.services",
            )
            if site.independent_of:
                known(f"sites.{name}.independent_of", site.independent_of, self.sites, "sites")
        known("active_site", self.active_site, self.sites, "sites")
        known("backup.site", self.backup.site, self.sites, "sites")
        for i, pair in enumerate(self.replication):
            known(f"replication.{i}.source", pair.source, self.sites, "sites")
            known(f"replication.{i}.target", pair.target, self.sites, "sites")
            if pair.source == pair.target:
                raise ValueError(f"replication.{i}.target: a site cannot replicate to itself")
        startable = {"postgresql", "mlflow", "airflow", *self.sites}
        for name in self.services:
            known(f"services.{name}", name, dict.fromkeys(sorted(startable)), "the stack's services")
        return self


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

    def postgresql_url(self, driver: str = "postgresql") -> str:
        """A URL for libpq (`postgresql`) or SQLAlchemy (`postgresql+psycopg`); holds the password: never log it."""
        return (
            f"{driver}://{quote(self.login, safe='')}:{quote(self.password, safe='')}"
            f"@{self.host}:{self.port or 5432}/{self.schema}"
        )


Connections = Callable[[str], Connection]


def project_root() -> Path:
    """The folder of rempart.yaml: `REMPART_HOME`, else the nearest folder above the working directory that has one."""
    if home := os.environ.get("REMPART_HOME"):
        return Path(home)
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "rempart.yaml").is_file():
            return folder
    raise ConfigError(
        f"No rempart.yaml in {Path.cwd()} or any folder above it",
        "Run from the project's folder, or set REMPART_HOME to it.",
    )


def var_dir() -> Path:
    """Where the embedded stack keeps its state: `REMPART_VAR`, else `var/` in the project."""
    return Path(os.environ.get("REMPART_VAR") or project_root() / "var")


def secrets_file() -> Path:
    """KEY=value lines of the embedded stack, mode 0600, generated once."""
    return var_dir() / "secrets.env"


def explain(error: ValidationError, file: Path) -> str:
    """One line per fault: the file, the path in it, what is wrong."""
    lines = []
    for fault in error.errors():
        # pydantic adds the tag of a discriminated union to the path; a reader of the file does not know it
        path = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key: remove it, or correct its spelling"
        elif fault["type"] == "missing":
            message = "required key is missing: add it"
        lines.append(f"{file}: {path}: {message}")
    return "\n".join(lines)


def read_yaml(file: Path, error: type[ConfigError] = ConfigError) -> dict[str, Any]:
    """A YAML mapping, read without constructing anything but plain data."""
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except FileNotFoundError as cause:
        raise error(f"{file} does not exist", "Create it, or name another file.") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise error(f"{file} is not valid YAML: {cause}", "Correct the line that the message names.") from cause
    if not isinstance(data, dict):
        raise error(f"{file} holds no mapping at its top level", "Start from the file that the project ships.")
    return data


@cache
def _load(file: Path, modified: float) -> Config:
    data = read_yaml(file)
    try:
        return Config.model_validate(data)
    except ValidationError as cause:
        raise ConfigError(
            f"rempart.yaml is not valid:\n{explain(cause, file)}",
            "Correct each line above, then run `rempart config check`.",
        ) from cause


def load(file: Path | None = None) -> Config:
    """The validated configuration; read again only when the file changed. Raises ConfigError."""
    file = file or project_root() / "rempart.yaml"
    if not file.is_file():
        raise ConfigError(f"{file} does not exist", "Create it from the rempart.yaml that the project ships.")
    return _load(file, file.stat().st_mtime)


def read_env_file(file: Path) -> dict[str, str]:
    """KEY=value lines; values are taken literally, blank lines and # comments are skipped."""
    if not file.is_file():
        return {}
    pairs = (
        line.split("=", 1)
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#") and "=" in line
    )
    return {key.strip(): value for key, value in pairs}


def environment() -> dict[str, str]:
    """The process environment over the stack's secrets file."""
    return {**read_env_file(secrets_file()), **os.environ}


def parse_connection(name: str, text: str) -> Connection:
    """An `AIRFLOW_CONN_*` value, as JSON or as a URI."""
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
    )


def environment_connections(name: str) -> Connection:
    """Resolve a connection without Airflow: from the environment or the stack's secrets file."""
    variable = f"AIRFLOW_CONN_{name.upper()}"
    if not (text := environment().get(variable)):
        raise ConnectionMissing(
            f"Connection '{name}' is not defined", f"Run `rempart up` (it writes {secrets_file()}), or set {variable}."
        )
    try:
        return parse_connection(name, text)
    except ValueError:
        # the cause would quote the value, which holds the password
        raise ConnectionMissing(
            f"{variable} is neither JSON nor a URI", "Write it as Airflow documents its connection variables."
        ) from None
