"""Define the files and ports of one stack."""

from __future__ import annotations

import errno
import os
import pwd
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from rempart.deployment.setup import preflight
from rempart.errors import ConfigError, StackError
from rempart.settings import config as configuration
from rempart.settings.config import SCORER, Config
from rempart.settings.pipelines import watched
from rempart.settings.sections import External

AIRFLOW_COMPONENTS = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
NAMESPACE = "airflow"
"""Namespace of the platform in a Kubernetes cluster: that of deploy/kubernetes/platform."""
WORKER = "airflow-worker"
"""Runs tasks for the Celery executor, in containers alone."""
_LONGEST_SOCKET = 90  # of 107; supervisord appends a suffix while it binds


def ports_of(config: Config, offset: int) -> dict[str, int]:
    """Return every port of the embedded services: the default or services.<x>.port, plus the offset.

    Raises ConfigError.
    """
    ports: dict[str, int] = {}
    for index, name in enumerate(config.sites):
        default = preflight.DEFAULT_PORTS.get(name, preflight.DEFAULT_PORTS["primary"] + 100 * (index + 2))
        if not external(config, name):
            ports |= preflight.site_ports(name, _chosen(config, name, default) + offset)
    for name in ("postgresql", "mlflow", "airflow", *([SCORER] if scores(config) else [])):
        if not external(config, name):
            ports[name] = _chosen(config, name, preflight.DEFAULT_PORTS[name]) + offset
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port > 65535:
            raise ConfigError(f"{name} would listen on port {port}", "Lower services.<x>.port or REMPART_PORT_OFFSET.")
        if port in seen:
            raise ConfigError(
                f"services.{name.split(' ')[0]}.port: {port} is wanted for {name} and for {seen[port]}",
                f"Choose another port in rempart.yaml (a site takes {len(preflight.SITE_INTERNALS) + 1} in a row).",
            )
        seen[port] = name
    return ports


def _chosen(config: Config, service: str, default: int) -> int:
    return (config.services[service].port if service in config.services else None) or default


def external(config: Config, service: str) -> External | None:
    """Return the external server for this service, if rempart.yaml names one."""
    return config.services[service].external if service in config.services else None


def scores(config: Config) -> bool:
    """Return whether the stack starts the scorer."""
    return SCORER not in config.services or config.services[SCORER].start


@dataclass(frozen=True)
class Stack:
    """One embedded stack: its project, its state and its ports."""

    root: Path
    var: Path
    config: Config
    offset: int = 0
    python: str = sys.executable
    containers: bool = False
    """Whether each service has its own container, which others reach by its name."""
    cluster: bool = False
    """Whether those containers are pods of a Kubernetes cluster, without a shared volume."""

    @property
    def id(self) -> str:
        return preflight.stack_id(self.var)

    @cached_property
    def ports(self) -> dict[str, int]:
        return ports_of(self.config, self.offset) | (preflight.OPTIONAL_PORTS if self.containers else {})

    def host(self, service: str) -> str:
        """Return the host by which others reach a service."""
        if self.cluster and service == "mlflow":
            return f"mlflow.{NAMESPACE}.svc"  # jobs reach it, too, from the namespaces of pools
        return preflight.CONTAINERS.get(service, service) if self.containers else "127.0.0.1"

    @property
    def scorer_port(self) -> int:
        """Return the port of the scorer, also where somebody else starts it."""
        return _chosen(self.config, SCORER, preflight.DEFAULT_PORTS[SCORER]) + self.offset

    @property
    def listen(self) -> str:
        """Return the address that servers listen on. A container's networks decide who may connect."""
        return "0.0.0.0" if self.containers else "127.0.0.1"  # noqa: S104

    def site_folder(self, name: str) -> Path:
        """Return a site's folder with its settings, and its objects below `data`.

        In containers each has its own volume.
        """
        return self.var if self.containers else self.var / "sites" / name

    def site_certificates(self, name: str) -> Path:
        """Return the folder of a site's certificates for its inner ports."""
        return self.site_folder(name) / "certificates"

    @property
    def logs(self) -> Path:
        return self.var / "log"

    @property
    def state(self) -> Path:
        """Return the folder of the supervisor's files."""
        return self.var / "stack"

    @property
    def secrets(self) -> Path:
        return self.var / "secrets.env"

    @property
    def airflow_home(self) -> Path:
        return self.var / "airflow"

    @property
    def postgresql_data(self) -> Path:
        return self.var / "postgresql" / "data"

    @cached_property
    def sockets(self) -> Path:
        """Return a folder for Unix sockets, whose paths must be short: in `var`, else in the temporary folder."""
        inside = self.state / "run"
        if len(str(inside.absolute())) <= _LONGEST_SOCKET - 20:
            return inside.absolute()
        return Path(tempfile.gettempdir()) / f"rempart-{os.getuid()}-{self.id}"

    def external(self, service: str) -> External | None:
        return external(self.config, service)

    @property
    def embedded_sites(self) -> list[str]:
        return [name for name in self.config.sites if not self.external(name)]

    def job_role(self, site: str) -> tuple[str, timedelta] | None:
        """Return the role of jobs' sessions at a site and their maximum length, or None."""
        offered = self.config.sites[site].job_credentials
        return (offered.role, offered.longest) if offered and offered.role else None

    @property
    def services(self) -> list[str]:
        """Return the names of the processes in starting order."""
        names = [] if self.external("postgresql") else ["postgresql"]
        names += [f"site-{name}" for name in self.embedded_sites]
        if not self.external("mlflow"):
            names.append("mlflow")
        if self.config.backup.point_in_time and "postgresql" in names:
            names.append("wal-archive")
        if not self.external("airflow"):
            names += AIRFLOW_COMPONENTS
            names += [WORKER] if self.containers else []
            names += ["landing-watch"] if watched() and not self.containers else []
        return [*names, SCORER] if scores(self.config) else names

    def prepare(self) -> None:
        """Create the stack's folders. Raises StackError if that is not possible, or they are not private."""
        try:
            for folder in (self.var, self.logs, self.state):
                folder.mkdir(parents=True, exist_ok=True)
            self.sockets.mkdir(mode=0o700, exist_ok=True)
            (self.state / "lock").open("a").close()
        except OSError as cause:
            raise StackError(*_no_folder(self.var, cause)) from cause
        status = self.sockets.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StackError(
                f"{self.sockets} belongs to someone else or is open to others",
                "Remove it, or put the state elsewhere with REMPART_VAR.",
            )


def _no_folder(var: Path, cause: OSError) -> tuple[str, str]:
    """Return why the state cannot be written below `var`, and the remedy."""
    parent = preflight.existing_parent(var)
    elsewhere = "put the state elsewhere: REMPART_VAR=/a/folder rempart up"
    if cause.errno in (errno.EACCES, errno.EPERM):
        owner = parent.stat().st_uid
        who = f"it belongs to user {_user(owner)}, and you are {_user(os.geteuid())}" if owner != os.geteuid() else ""
        return f"write the stack's state to {var}: {who or 'permission denied'}", (
            f"Run it as that user, or {elsewhere}." if who else f"Correct the rights of {parent}, or {elsewhere}."
        )
    if cause.errno == errno.ENOSPC:
        return f"write the stack's state to {var}: the disk is full", f"Free space there, or {elsewhere}."
    return (
        f"write the stack's state to {var}: {cause.strerror} ({cause.filename})",
        f"Make it a folder, or {elsewhere}.",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def current() -> Stack:
    """Return the stack of this project and environment. Raises ConfigError."""
    try:
        offset = preflight.port_offset(os.environ)
    except ValueError as fault:
        raise ConfigError("The environment is not valid", f"{fault}.") from fault
    return Stack(
        configuration.project_root().resolve(),
        configuration.var_dir().absolute(),
        configuration.load(),
        offset,
        containers=bool(os.environ.get("REMPART_CONTAINERS")),
        cluster=os.environ.get("REMPART_CONTAINERS") == "kubernetes",
    )
