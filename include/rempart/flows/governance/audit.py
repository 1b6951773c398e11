"""Audit the platform: collect facts from files, processes and sockets; pure checks judge them.

Writes only the folder of the bills of materials, and sends nothing anywhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from rempart import private_files
from rempart.audit import (
    advisories,
    credentials,
    exposure,
    findings,
    gaps,
    images,
    licences,
    telemetry,
    vulnerabilities,
)
from rempart.audit.advisories import Package
from rempart.audit.credentials import PrivateFile
from rempart.audit.exposure import Listener, SocketFile
from rempart.audit.findings import AdvisoryAge, AuditFinding, BillOfMaterials, CheckResult, Report
from rempart.audit.knocking import knock
from rempart.audit.packages import debian, image_contents, sbom
from rempart.audit.packages.debian import DebianSystem
from rempart.audit.packages.distributions import Distributions
from rempart.audit.telemetry import Process
from rempart.deployment.servers import mlflow_supervisor
from rempart.deployment.setup import credentials as stack_credentials
from rempart.deployment.setup import environment, launch, services
from rempart.deployment.setup.paths import Stack
from rempart.errors import AuditError, ConnectionMissing, PipelineError
from rempart.settings import config as configuration
from rempart.settings import pipelines
from rempart.settings.config import Connections
from rempart.settings.pipeline import Pipeline
from rempart.settings.schema import read_yaml
from rempart.sovereignty import egress

CHECKS = ("sbom", "lock", "licences", "telemetry", "passwords", "ports", "facts", "policy", "vulnerabilities")
"""Every check, in the order of the report."""


def bill_of_lock(root: Path, at: datetime | None = None) -> str:
    """Return the lock of the project in `root` as CycloneDX JSON. Raises AuditError."""
    read = Distributions(root)
    return sbom.of_lock(read.licences, read.review, installed_version("rempart"), at=at)


def bill_of_debian(path: Path, release: str = "", at: datetime | None = None) -> str:
    """Return a Debian system (dpkg status file, or root of an unpacked image) as CycloneDX JSON. Raises AuditError."""
    return sbom.of_debian(debian.read_system(path, release), at=at)


def bill_of_image(root: Path, name: str, at: datetime | None = None) -> str:
    """Return the contents of an unpacked image as CycloneDX JSON. Raises AuditError."""
    review = Distributions(configuration.project_root()).review
    return sbom.of_image(name, installed_version("rempart"), image_contents.read(root, review), at=at)


def report_json(report: Report) -> str:
    """Return the report as JSON; docs/reference/audit.schema.json describes it."""
    return TypeAdapter(Report).dump_json(report, indent=2).decode() + "\n"


def write_text(text: str, out: Path) -> None:
    """Write a text to a file. Raises AuditError."""
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise AuditError(
            f"{out} cannot be written: {cause.strerror}", "Name a file in a folder that exists."
        ) from cause


@dataclass
class Audit:
    """One audit of one stack. `now` is aware; `debian` names status files, roots or bills of materials of images."""

    stack: Stack
    now: datetime
    debian: Sequence[Path] = ()
    advisories: Path | None = None
    only: Sequence[str] = ()
    sboms: list[BillOfMaterials] = field(default_factory=list)
    ages: list[AdvisoryAge] = field(default_factory=list)

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(CHECKS):
            raise AuditError(f"Check '{min(unknown)}' does not exist", f"Choose from: {', '.join(CHECKS)}.")
        declared = self.stack.config.audit.advisories
        self.advisories = self.advisories or (self.stack.root / declared if declared else None)
        self.distributions = Distributions(self.stack.root)

    def run(self) -> Report:
        """Run every check, or those in `only`. Raises AuditError if a check cannot run."""
        steps: dict[str, Callable[[], CheckResult]] = {
            "sbom": self._sbom,
            "lock": self._lock,
            "licences": self._licences,
            "telemetry": self._telemetry,
            "passwords": self._passwords,
            "ports": self._ports,
            "facts": self._facts,
            "policy": self._policy,
            "vulnerabilities": self._vulnerabilities,
        }
        results = [steps[name]() for name in CHECKS if not self.only or name in self.only]
        config = self.stack.config.audit
        return findings.report(
            results,
            [
                exception
                for exception in config.exceptions
                if not self.only or exception.finding.partition("/")[0] in self.only
            ],
            at=self.now,
            version=installed_version("rempart"),
            sboms=self.sboms,
            advisories=self.ages,
            advisories_path=str(self.advisories) if self.advisories else None,
        )

    # --- components of the platform -----------------------------------------------------------------------------------

    @cached_property
    def systems(self) -> list[DebianSystem]:
        return [images.read_debian(path) for path in self.debian]

    def _sbom(self) -> CheckResult:
        read = self.distributions
        self._write("sbom", sbom.of_lock(read.licences, read.review, installed_version("rempart")))
        for number, system in enumerate(self.systems, start=1):
            self._write(f"sbom-debian-{number}", sbom.of_debian(system))
        return CheckResult("sbom", f"the lock and {len(self.systems)} Debian systems")

    def _write(self, name: str, text: str) -> None:
        file = self.stack.var / "audit" / f"{name}.cdx.json"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            private_files.write(file, text)
        except OSError as cause:
            raise AuditError(
                f"{file} cannot be written: {cause.strerror}", "Set REMPART_VAR to a folder that you own."
            ) from cause
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.sboms.append(BillOfMaterials(str(file), digest, sbom.component_count(text)))

    def _lock(self) -> CheckResult:
        read, lock_findings = self.distributions, []
        remedy = "Install the lock again: `make clean setup`."
        for name, version in read.differing.items():
            what = f"{name} {version} is installed, which is not the locked version"
            lock_findings.append(AuditFinding(f"lock/differs-{name}", "high", what, "this Python environment", remedy))
        if read.unlocked:
            named = ", ".join(f"{name} {version}" for name, version in sorted(read.unlocked.items()))
            what = f"Installed, though no lock names it: {named}"
            where = "this Python environment"
            lock_findings.append(
                AuditFinding("lock/unlocked", "low", what, where, "Uninstall it, or add it to the lock.")
            )
        return CheckResult("lock", f"{len(read.installed)} installed distributions", tuple(lock_findings))

    def _licences(self) -> CheckResult:
        read = self.distributions
        return licences.check(read.licences, read.review, self.stack.config.audit.licences)

    def _vulnerabilities(self) -> CheckResult:
        read, packages, unplaced = self.distributions, self._python_packages(), []
        for system in self.systems:
            if system.distribution == "debian" and system.release:
                packages += images.packages_of(system)
            else:
                unplaced.append(images.unplaced(system))
        wanted: dict[str, set[str]] = {}
        for package in packages:
            wanted.setdefault(package.ecosystem, set()).add(package.name)
        database = advisories.read(self.advisories, wanted, self.now) if self.advisories else None
        if database:
            self.ages = vulnerabilities.ages(database, self.now)
        result = vulnerabilities.check(database, packages, self.stack.config.audit.advisories_max_age, self.now)
        inside = vulnerabilities.not_covered(read.inside, read.native_libraries, "wheels of requirements.txt")
        extra = [*unplaced, *([inside] if inside else [])]
        return CheckResult(result.check, result.looked_at, (*result.findings, *extra))

    def _python_packages(self) -> list[Package]:
        read = self.distributions
        locked = [Package("PyPI", locked.name, locked.version, "requirements.txt") for locked in read.locked]
        others = {**read.unlocked, **read.differing}
        return [*locked, *(Package("PyPI", name, version, "installed") for name, version in others.items())]

    # --- state of the running platform --------------------------------------------------------------------------------

    @cached_property
    def secrets(self) -> dict[str, str]:
        try:
            return configuration.read_env_file(self.stack.secrets)
        except PermissionError as cause:
            raise AuditError(
                f"{self.stack.secrets} is not readable for this user",
                "Run the audit as the user that runs the stack, or as root.",
            ) from cause

    @cached_property
    def _plans(self) -> tuple[list[Process], list[AuditFinding]]:
        """Return every service as `rempart up` would start it, and those for which that is unknown.

        Missing secrets are replaced by placeholders.
        """

        def stand_in() -> str:
            return "-"

        secrets = stack_credentials.plan(self.stack, self.secrets, stand_in, stand_in)
        plans, unknown = [], []
        for name in self.stack.services:
            try:
                variables = environment.of(self.stack, secrets, os.environ, name)
                plans.append(Process(name, services.service(self.stack, name).command, variables))
                if name == "mlflow":  # and the server that it runs, at the platform's first site
                    server = environment.mlflow(self.stack, secrets, os.environ, self.stack.config.active_site)
                    plans.append(Process(name, mlflow_supervisor.command(self.stack), server))
            except ConnectionMissing as missing:
                what = f"Cannot tell how {name} would be started: {missing.what}"
                unknown.append(AuditFinding(f"telemetry/unplanned-{name}", "medium", what, "environment", missing.hint))
        return plans, unknown

    @cached_property
    def processes(self) -> dict[int, tuple[str, psutil.Process]]:
        """Return the stack's running processes with their services."""
        return {process.pid: (_service_of(process), process) for process in launch.leftovers(self.stack)}

    def _telemetry(self) -> CheckResult:
        running, unseen = [], []
        for pid, (service, process) in self.processes.items():
            if service == "postgresql":  # it has no telemetry, and its title overwrites its environment
                continue
            try:
                running.append(Process(service, tuple(process.cmdline()), process.environ(), pid))
            except psutil.AccessDenied:
                unseen.append(f"{service} (process {pid})")
            except psutil.NoSuchProcess:  # ended since
                continue
        external = [name for name in self.stack.config.services if self.stack.external(name)]
        plans, unknown = self._plans
        names = {locked.name for locked in self.distributions.locked}
        result = telemetry.check([*plans, *running], names, unseen, external)
        return replace(result, findings=(*result.findings, *unknown))

    def _passwords(self) -> CheckResult:
        var = self.stack.var
        known = [self.stack.secrets, var / "mlflow" / "basic_auth.ini"]
        if self.stack.config.access.auth_manager == "simple":
            known.append(self.stack.airflow_home / "passwords.json")
        known += [var / "sites" / name / "s3.json" for name in self.stack.embedded_sites]
        known += [self.stack.site_certificates(name) / "site.key" for name in self.stack.embedded_sites]
        known += [var / "sites" / name / "iam.json" for name in self.stack.embedded_sites if self.stack.job_role(name)]
        # containers have one user, and the file is mounted: the rights of its folder decide (ADR 24)
        if self.stack.containers:
            known = []
        there = [file for file in known if file.is_file()]
        files = [PrivateFile(str(file.relative_to(var)), file.stat().st_mode) for file in there]
        absent = [str(file.relative_to(var)) for file in known if file not in there]
        return credentials.check({**self.secrets, **os.environ}, files, absent)

    def _ports(self) -> CheckResult:
        resolve: Connections = stack_credentials.connections(self.stack, self.secrets)
        endpoints = egress.endpoints(self.stack.config, resolve)
        for name in self.stack.config.services:
            if declared := self.stack.external(name):
                endpoints[f"services.{name}"] = declared.url
        if self.stack.containers:
            services = [*self.stack.embedded_sites, "postgresql", "mlflow", "airflow"]
            own = {self.stack.host(name) for name in services if not self.stack.external(name)}
            return exposure.check_in_container(endpoints, own)
        running = bool(self.processes)
        return exposure.check(
            self._plans[0], self._listeners() if running else None, endpoints, self._socket_files() if running else ()
        )

    def _listeners(self) -> list[Listener]:
        """Return every TCP port of the stack's processes and every declared one, asked without credentials."""
        declared = {port: name for name, port in self.stack.ports.items()}
        addresses = {}
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.status == psutil.CONN_LISTEN:
                service, _ = self.processes.get(connection.pid or 0, ("", None))
                part = declared.get(connection.laddr.port, "")
                if service or part:
                    addresses[(connection.laddr.port, connection.laddr.ip)] = (service or part.partition(" ")[0], part)
        listeners = []
        for (port, address), (service, part) in addresses.items():
            protocol, path = exposure.guard_of(part) if part else ("unknown", "/")
            answer = knock(_reached(address), port, protocol, path)
            listeners.append(Listener(service, address, port, bool(part), answer))
        return sorted(listeners, key=lambda listener: (listener.service, listener.port, listener.address))

    def _socket_files(self) -> list[SocketFile]:
        """Return every Unix socket path on which a process of the stack listens."""
        sockets: dict[str, str] = {}
        listening = _listening_sockets()
        for connection in psutil.net_connections("unix"):
            service, _ = self.processes.get(connection.pid or 0, ("", None))
            path = str(connection.laddr)
            if service and path in listening:
                sockets[path] = service
        return [SocketFile(service, path, _others_may_open(Path(path))) for path, service in sorted(sockets.items())]

    # --- declarations -------------------------------------------------------------------------------------------------

    def _facts(self) -> CheckResult:
        written = read_yaml(self.stack.root / "rempart.yaml").get("operators") or {}
        shipped = {file.stem for file in configuration.operators_dir(self.stack.root / "rempart.yaml").glob("*.yaml")}
        return gaps.check_facts(self.stack.config, written, shipped, self.now.date())

    def _policy(self) -> CheckResult:
        loaded: Mapping[str, Pipeline | PipelineError] = pipelines.load_all()
        valid = {name: pipeline if isinstance(pipeline, Pipeline) else None for name, pipeline in loaded.items()}
        return gaps.check_policy(self.stack.config, valid, self.now.date())


def _service_of(process: psutil.Process) -> str:
    try:
        if process.name() == "postgres":
            return "postgresql"
        return process.environ().get(environment.MARKER, "").partition(":")[2] or "watchdog"
    except psutil.Error:
        return "a task"


def _reached(address: str) -> str:
    """Return the address at which this machine reaches a listener."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 # compared, not bound


def _listening_sockets() -> set[str]:
    """Return the paths of all listening Unix sockets from the kernel."""
    rows = [row.split(maxsplit=7) for row in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]]
    return {row[7] for row in rows if len(row) > 7 and int(row[3], 16) & 0x10000}  # the kernel's __SO_ACCEPTCON


def _others_may_open(path: Path) -> bool:
    """Return whether users other than owner and group can reach and write to a socket."""
    try:
        return bool(path.stat().st_mode & 0o002) and all(folder.stat().st_mode & 0o001 for folder in path.parents)
    except OSError:  # closed meanwhile, or an abstract socket
        return not str(path).startswith("/")
