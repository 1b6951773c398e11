"""Start and stop the embedded stack. Each step logs what it does and how long it took."""

from __future__ import annotations

import fcntl
import functools
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from rempart.deployment.access import roles
from rempart.deployment.compose import containers
from rempart.deployment.embedded import release
from rempart.deployment.embedded.logs import log_tail
from rempart.deployment.embedded.service_log import ServiceLog
from rempart.deployment.embedded.supervision import ProcessState, Supervisor
from rempart.deployment.servers import (
    airflow_server,
    external,
    mlflow_server,
    object_sites,
    postgresql,
    schemas,
    scorer_server,
)
from rempart.deployment.setup import credentials, launch, preflight
from rempart.deployment.setup.paths import AIRFLOW_COMPONENTS, Stack
from rempart.errors import ConnectionMissing, PreflightFailed, RempartError, SiteError, StackError
from rempart.replication.continuity import PostgresqlContinuity
from rempart.settings.config import SCORER, Connections

logger = logging.getLogger(__name__)

_PATIENCE = 600.0
"""For MLflow and Airflow: minutes on a busy machine. A process that died is told at once."""


@contextmanager
def _alone(stack: Stack, progress: ServiceLog) -> Iterator[None]:
    """Allow one `up` or `down` at a time."""
    stack.prepare()
    with (stack.state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            if not isinstance(cause, BlockingIOError):
                raise StackError(
                    f"lock {lock.name}: its file system has no locks ({cause.strerror})",
                    "Put the state on a local disk: REMPART_VAR=/a/folder rempart up.",
                ) from cause
            progress.line("another `rempart up` or `rempart down` is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ports_of(stack: Stack, service: str) -> dict[str, int]:
    """Return the ports of one service."""
    owner = {"airflow-api-server": "airflow"}.get(service, service.removeprefix("site-"))
    return {name: port for name, port in stack.ports.items() if name.split(" ")[0] == owner}


def _check_ports(stack: Stack, names: Sequence[str]) -> None:
    wanted = {part: port for name in names for part, port in ports_of(stack, name).items()}
    found = preflight.check_ports(wanted, stack.id)
    if taken := preflight.failures(found):
        raise PreflightFailed("; ".join(f"{finding.what}: {finding.detail}" for finding in taken), taken[0].remedy)
    for hint in found:
        if hint.outcome != "ok":
            logger.warning("%s: %s. %s", hint.what, hint.detail, hint.remedy)
    for name in names:
        if name.startswith("site-"):
            object_sites.clear_sockets(ports_of(stack, name))


def _until(
    progress: ServiceLog,
    stack: Stack,
    supervisor: Supervisor,
    names: Sequence[str],
    check: Callable[[], str],
    seconds: float,
    *,
    final: bool = True,
) -> None:
    """Repeat a health check until it passes. Raises StackError after a timeout, or if a process has given up.

    After the `final` check of a service it is logged as ready.
    """
    label, deadline = _label(names), time.monotonic() + seconds
    while True:
        try:
            detail = check()
            if final:
                progress.ready(label, detail)
            return
        except RempartError as error:
            last = error
        dead = [name for name, process in supervisor.states().items() if name in names and process.state == "FATAL"]
        if dead or time.monotonic() > deadline:
            service = dead[0] if dead else names[0]
            why = "keeps dying" if dead else f"is not healthy after {seconds:.0f} s"
            raise StackError(
                f"start {service}: it {why}: {last.what}\n{log_tail(stack, service)}",
                f"Read {stack.logs / service}.log, then run `rempart up` again.",
            ) from last
        why = last.what.splitlines()[0][:110]
        progress.waiting(label, "starting", "its port is not open yet" if "Connection refused" in last.what else why)
        time.sleep(0.5)


def _label(names: Sequence[str]) -> str:
    """Return the name of one service, or of Airflow's components together."""
    return names[0] if len(names) == 1 else "airflow"


def _start_supervisor(stack: Stack, supervisor: Supervisor, progress: ServiceLog) -> None:
    if supervisor.runs():
        if changed := supervisor.update():
            progress.line("configuration changed: %s", ", ".join(changed))
        states = supervisor.states()
        _check_ports(stack, [n for n in stack.services if states[n].state not in ("RUNNING", "STARTING")])
        return
    if left := launch.leftovers(stack):
        progress.line("ending %d processes of an earlier run", len(left))
        launch.end(left)
    _check_ports(stack, stack.services)
    supervisor.start()
    progress.line("supervisor: started")


def _write_settings(stack: Stack, resolve: Connections, secrets: dict[str, str]) -> None:
    object_sites.write_settings(stack, resolve, secrets)
    if "mlflow" in stack.services:
        mlflow_server.write_authentication(stack, resolve("pg_mlflow"))
    if not stack.external("airflow"):
        airflow_server.write_users(stack, resolve)


def _started(states: dict[str, ProcessState]) -> dict[str, datetime]:
    return {name: datetime.fromtimestamp(process.started, UTC) for name, process in states.items()}


def up(stack: Stack, *, migrate: bool = False, patience: float = 0.0) -> None:
    """Start stopped services, and check that everything works. Quick if it does. Raises RempartError.

    Schemas of an earlier release are refused without `migrate`, because going back would need a restore point. In
    containers, the Engine or the cluster starts the services, and `patience` is the number of seconds to wait.
    """
    if stack.containers:
        containers.up(stack, patience)
        return
    progress, ours = ServiceLog(), release.of_checkout(stack.root, stack.python)
    with _alone(stack, progress):
        release.check(release.recorded(stack), ours, migrate=migrate)
        servers = [name for name in stack.config.services if name != "airflow" and name not in stack.config.sites]
        supervisor, secrets, resolve = _open(stack, progress, servers)
        _start_stores(stack, supervisor, progress, secrets, resolve, later=_servers(stack))
        _migrate_schemas(stack, progress, secrets, resolve, migrate=migrate)
        release.record(stack, ours)
        supervisor.launch(["watchdog"])
        _start_servers(stack, supervisor, progress, secrets, resolve)
        addresses = ", ".join((f"{name} {url}" for name, url in urls(stack).items()))
        logger.info("the stack is up: %s", addresses, extra={"last": True})


def start_stores(stack: Stack, *, active: str | None = None) -> None:
    """Start PostgreSQL and the sites only, and check each. Raises RempartError.

    `active` is the required site; by default the one that the database names.
    """
    if stack.containers:
        containers.start_stores(stack)
        return
    progress = ServiceLog()
    with _alone(stack, progress):
        supervisor, secrets, resolve = _open(stack, progress, ["postgresql"])
        _start_stores(stack, supervisor, progress, secrets, resolve, active)


def _servers(stack: Stack) -> list[str]:
    """Return the servers that start after the stores, by the names of their rows."""
    names = ["mlflow"] if "mlflow" in stack.services else []
    names += [] if stack.external("airflow") else ["airflow"]
    return [*names, SCORER] if SCORER in stack.services else names


def works(stack: Stack) -> list[str]:
    """Return the running processes that use the stores: MLflow's, Airflow's and the scorer."""
    if stack.containers:
        return containers.works(stack)
    supervisor = Supervisor(stack)
    states = supervisor.states() if supervisor.runs() else {}
    return [name for name in ("mlflow", *AIRFLOW_COMPONENTS, SCORER) if name in states and states[name].pid]


def _open(
    stack: Stack, progress: ServiceLog, services: Sequence[str]
) -> tuple[Supervisor, dict[str, str], Connections]:
    """Return the running supervisor and the stack's secrets, after a check of external connections."""
    secrets = credentials.ensure(stack)
    resolve = credentials.connections(stack, secrets)
    for service in services:
        if stack.external(service):
            progress.ready(service, f"external, {external.check(stack, service, resolve)}")
    supervisor = Supervisor(stack)
    _start_supervisor(stack, supervisor, progress)
    _write_settings(stack, resolve, secrets)
    return supervisor, secrets, resolve


def _start_stores(
    stack: Stack,
    supervisor: Supervisor,
    progress: ServiceLog,
    secrets: dict[str, str],
    resolve: Connections,
    active: str | None = None,
    later: Sequence[str] = (),
) -> None:
    """Start PostgreSQL and the sites together. `later` are the services that start after them."""
    stores = [name for name in stack.services if name == "postgresql" or name.startswith("site-")]
    progress.starting(stores, later)
    supervisor.launch([name for name in stack.services if name.startswith("site-")])
    if "postgresql" in stack.services:
        if postgresql.initialise(stack, secrets["REMPART_POSTGRESQL_PASSWORD"]):
            progress.line("postgresql: data folder created")
        supervisor.launch(["postgresql"])
        administrator = credentials.superuser(stack, secrets)
        check = postgresql.check_administrator(administrator)
        _until(progress, stack, supervisor, ["postgresql"], check, 60, final=False)
        postgresql.bootstrap(stack, administrator, resolve)
        _until(
            progress, stack, supervisor, ["postgresql"], lambda: postgresql.check_roles(resolve, stack.config.roles), 15
        )
    for name in stack.embedded_sites:
        _until(
            progress,
            stack,
            supervisor,
            [f"site-{name}"],
            functools.partial(object_sites.check, stack, name, resolve),
            60,
        )
    for name in (name for name in stack.config.sites if stack.external(name)):
        progress.ready(name, f"external, {_external_site(stack, name, resolve, active)}")


def _external_site(stack: Stack, name: str, resolve: Connections, active: str | None) -> str:
    """Return the check of an external site. Its failure is only reported if the platform has moved to another site."""
    try:
        return external.check(stack, name, resolve)
    except (SiteError, ConnectionMissing) as error:
        serving = active or _active_site(stack, resolve)
        if serving in (name, stack.config.active_site):
            raise
        return f"NO ANSWER: {error.what}; the platform works at '{serving}'"


def _active_site(stack: Stack, resolve: Connections) -> str:
    return PostgresqlContinuity(resolve("pg_continuity")).active_sites(stack.config.active_site).active().site


def _migrate_schemas(
    stack: Stack, progress: ServiceLog, secrets: dict[str, str], resolve: Connections, *, migrate: bool
) -> None:
    """Inspect every schema first; migrate MLflow's here, and Airflow's while MLflow starts."""
    ours = [
        name for name, service in (("airflow", "airflow-scheduler"), ("mlflow", "mlflow")) if service in stack.services
    ]
    all_schemas = list(schemas.read(resolve, ours))
    schemas.check(all_schemas, migrate=migrate)
    if any(schema.pending and schema.name == "MLflow" for schema in all_schemas):
        mlflow_server.migrate(stack, resolve("pg_mlflow"))
        progress.line("mlflow: database migrated")


def _start_servers(
    stack: Stack, supervisor: Supervisor, progress: ServiceLog, secrets: dict[str, str], resolve: Connections
) -> None:
    """Start MLflow, Airflow and the scorer; the schema is migrated while MLflow starts."""
    progress.starting(_servers(stack))
    migration: subprocess.Popen[bytes] | None = None
    if not stack.external("airflow"):
        migration = airflow_server.begin_migration(stack, secrets, resolve("pg_airflow"))
    if "mlflow" in stack.services:
        supervisor.launch(["mlflow"])
    if "wal-archive" in stack.services:
        supervisor.launch(["wal-archive"])
    if migration:
        while migration.poll() is None:
            progress.waiting("airflow", "migrating its database")
            time.sleep(0.2)
        airflow_server.end_migration(stack, migration.returncode, resolve("pg_airflow"))
    if not stack.external("airflow"):
        for change in roles.admit(stack, resolve):
            progress.line("airflow: %s", change)
        supervisor.launch(AIRFLOW_COMPONENTS)
    supervisor.launch([name for name in ("landing-watch", SCORER) if name in stack.services])
    if "mlflow" in stack.services:
        _until(progress, stack, supervisor, ["mlflow"], lambda: mlflow_server.check(resolve("mlflow")), _PATIENCE)
    if SCORER in stack.services:
        _until(progress, stack, supervisor, [SCORER], lambda: scorer_server.check(stack), _PATIENCE)
    if stack.external("airflow"):
        progress.ready("airflow", f"external, {external.check(stack, 'airflow', resolve)}")
        return
    checks: list[airflow_server.Health] = []

    def beats() -> str:
        since = _started(supervisor.states())
        checks.append(airflow_server.check(resolve("airflow_api"), since, airflow_server.expects_dags(stack)))
        return f"all components send heartbeats, {checks[-1].dags} DAGs parsed"

    _until(progress, stack, supervisor, AIRFLOW_COMPONENTS, beats, _PATIENCE)
    for line in checks[-1].import_errors:
        logger.warning("airflow: IMPORT ERROR in %s", line)


def urls(stack: Stack) -> dict[str, str]:
    """Return the addresses of the web pages."""
    addresses = {}
    for name in ("airflow", "mlflow"):
        declared = stack.external(name)
        addresses[name] = declared.url if declared else f"http://127.0.0.1:{stack.ports[name]}"
    return addresses


def down(stack: Stack) -> None:
    """Stop everything in reverse order, and check that no process is left. Raises StackError."""
    progress = ServiceLog()
    with _alone(stack, progress):
        supervisor = Supervisor(stack)
        if supervisor.runs():
            supervisor.stop(["watchdog"])
            sites = [name for name in supervisor.states() if name.startswith("site-")]
            archiver = [name for name in supervisor.states() if name in ("wal-archive", "landing-watch", SCORER)]
            for group in (AIRFLOW_COMPONENTS, ("mlflow", *archiver), (*sites, "postgresql")):
                label = "airflow" if group is AIRFLOW_COMPONENTS else ", ".join(group)
                progress.stopping(label)
                supervisor.stop(group, partial(progress.waiting, label, "stopping"))
                progress.stopped(label)
            supervisor.shutdown()
        else:
            progress.line("the supervisor is not running")
        if left := launch.leftovers(stack):
            progress.line("ending %d processes that were still running after their service stopped", len(left))
            launch.end(left)
        if left := launch.leftovers(stack):
            raise StackError(
                f"stop the stack: these processes are still running: {', '.join(str(process.pid) for process in left)}",
                "End them (kill -9), then run `rempart down` again.",
            )
        for name in stack.embedded_sites:
            object_sites.clear_sockets(ports_of(stack, f"site-{name}"))
        if not stack.sockets.is_relative_to(stack.var):
            shutil.rmtree(stack.sockets)
        logger.info("the stack is down: no process is running", extra={"last": True})
