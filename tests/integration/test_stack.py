"""The embedded stack for a stranger: who may enter, which ports are exposed, how it heals."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
import pytest
import yaml

from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.embedded.supervision import Supervisor
from rempart.deployment.servers import external
from rempart.deployment.servers.object_sites import permission
from rempart.deployment.setup import environment, launch, paths, privileges, services
from rempart.errors import ConfigError, ConnectionMissing, PreflightFailed, SiteError
from rempart.settings import config, sections
from rempart.settings.config import DATABASES, SCORER_READS, environment_connections
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sites.s3.site import S3Site

pytestmark = pytest.mark.stack
T = TypeVar("T")


def enter(role: str, database: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
    connection = environment_connections(f"pg_{role}")
    return psycopg.connect(
        replace(connection, schema=database or connection.schema).postgresql_url(), connect_timeout=60
    )


def answer(url: str, method: str = "GET", body: bytes | None = None) -> int:
    """The status of an anonymous request."""
    request = urllib.request.Request(url, data=body, method=method)  # noqa: S310
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_the_server_gives_up_clients_whose_machine_vanished() -> None:
    with enter("airflow") as session:
        shown = [session.execute(f"SHOW {name}").fetchone() for name in services.GONE_CLIENTS]
    assert shown == [("300000",), ("60",), ("30",), ("4",)]  # milliseconds, then seconds, and how often


@pytest.mark.parametrize("role", [*DATABASES, "drill"])
def test_a_role_enters_its_own_database_and_no_other(role: str) -> None:
    for database in (*DATABASES, "template1"):
        if database == role:
            enter(role, database).close()
            continue
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            enter(role, database)


def test_a_wrong_password_is_refused() -> None:
    right = environment_connections("pg_mlflow")
    for password in ("wrong", ""):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(replace(right, password=password).postgresql_url(), connect_timeout=60)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evidence SET sig = ''",
        "DELETE FROM evidence",
        "TRUNCATE evidence",
        "DROP TABLE evidence",
        "ALTER TABLE evidence DISABLE TRIGGER ALL",
        "CREATE TABLE other (x int)",
        "SET ROLE ledger_owner",
        "GRANT UPDATE ON evidence TO ledger",
    ],
)
def test_the_ledgers_role_can_only_add_and_read(statement: str) -> None:
    with enter("ledger") as session:
        may_insert = session.execute("SELECT has_table_privilege('evidence', 'INSERT')").fetchone()
        assert may_insert == (True,)
        session.execute("SELECT count(*) FROM evidence")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(statement)
            # a GRANT without the right to it is a warning, not an error: look at its effect
            session.execute("UPDATE evidence SET sig = ''")
        session.rollback()


def test_the_backup_role_reads_everything_and_writes_nothing() -> None:
    for database in DATABASES:
        with enter("backup", database) as session:
            session.execute("SELECT count(*) FROM pg_class")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("CREATE TABLE public.intruder (x int)")
    with enter("backup", "airflow") as session:
        assert session.execute("SELECT count(*) FROM dag").fetchone()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("DELETE FROM dag")


def test_the_scorers_role_reads_what_it_needs_and_writes_nothing() -> None:
    reads = {"ledger": "evidence_all", "continuity": "active_site", "feast_online": "pg_class"}
    tables = reads | {"ledger": "evidence"}  # of which the view is made
    assert set(reads) == set(SCORER_READS)
    for database in DATABASES:
        if database not in reads:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                enter("scorer", database)
            continue
        with enter("scorer", database) as session:
            session.execute(f"SELECT count(*) FROM {reads[database]}")
            for statement in ("CREATE TABLE public.intruder (x int)", f"DELETE FROM {tables[database]}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(statement)
                session.rollback()
    with enter("scorer", "continuity") as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT * FROM lease")
    with enter("feast_online") as owner:
        owner.execute("CREATE TABLE public.made_later AS SELECT 1 AS x")
        owner.commit()
        with enter("scorer", "feast_online") as session:
            assert session.execute("SELECT x FROM public.made_later").fetchone() == (1,)
        owner.execute("DROP TABLE public.made_later")
        owner.commit()


def test_no_role_of_the_platform_is_a_superuser() -> None:
    with enter("backup") as session:
        rows = session.execute(
            "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = ANY(%s)",
            [[*DATABASES, "backup", "drill", "scorer", "ledger_owner"]],
        ).fetchall()
    assert len(rows) == len(DATABASES) + 4
    for name, superuser, create_role, create_database, bypass in rows:
        assert not (superuser or create_role or bypass), name
        assert create_database == (name == "drill")


def test_postgresql_does_not_run_as_root_and_checks_its_pages(stack: paths.Stack) -> None:
    main = psutil.Process(Supervisor(stack).states()["postgresql"].pid)
    assert main.name() == "postgres" and main.uids().effective != 0
    with enter("backup") as session:
        assert session.execute("SHOW data_checksums").fetchone() == ("on",)


# --- sites, MLflow, Airflow -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["primary", "haven"])
def test_a_site_is_closed_to_strangers(stack: paths.Stack, site: str) -> None:
    ports = lifecycle.ports_of(stack, f"site-{site}")
    for path in ("/", "/lake", "/lake/x", "/landing?list-type=2"):
        assert answer(f"http://127.0.0.1:{ports[site]}{path}") == 403, path
    assert answer(f"http://127.0.0.1:{ports[site]}/lake/x", "PUT", b"x") == 403
    for inner in (
        "master",
        "volume",
        "filer",
    ):  # TLS, with a certificate of the client's: tests/faults/test_site_ports.py
        assert answer(f"http://127.0.0.1:{ports[f'{site} {inner}']}/") == 400


def test_one_sites_credentials_do_not_open_the_other(stack: paths.Stack) -> None:
    mine, other = environment_connections("s3_primary"), environment_connections("s3_haven")
    stranger = S3Site("haven", replace(mine, extra=other.extra), "local-2", permission(stack, "haven", None))
    with pytest.raises(SiteError, match="refused"):
        stranger.write("lake", "intruder", b"x")


def test_buckets_keep_versions_where_they_must(platform: object, stack: paths.Stack) -> None:
    for name, place in stack.config.sites.items():
        site = S3Site(name, environment_connections(place.connection), place.region, permission(stack, name, None))
        names = stack.config.buckets
        for bucket, versioned in (
            (names.lake, True),
            (names.artifacts, True),
            (names.backups, True),
            (names.landing, False),
        ):
            written = site.write(bucket, ".rempart/test", b"x")
            assert bool(written.version_id and written.version_id != "null") == versioned, bucket
            site.delete(bucket, ".rempart/test", version_id=written.version_id)


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("mlflow", "/api/2.0/mlflow/experiments/search?max_results=1"),
        ("mlflow", "/api/2.0/mlflow-artifacts/artifacts/.rempart-health"),
        ("mlflow", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"),
        ("airflow_api", "/api/v2/dags"),
        ("airflow_api", "/api/v2/connections"),
        ("airflow_api", "/api/v2/variables"),
    ],
)
def test_strangers_get_401(service: str, path: str, stack: paths.Stack) -> None:
    assert answer(environment_connections(service).http_url() + path) == 401


# --- the machine that it runs on --------------------------------------------------------------------------------------


def members(stack: paths.Stack) -> list[psutil.Process]:
    return [*launch.marked(f"{stack.id}:"), *launch.grouped(stack), *launch.databases(stack.postgresql_data)]


def test_nothing_listens_beyond_this_machine(stack: paths.Stack) -> None:
    pids = {process.pid for process in members(stack)}
    exposed = [
        c.laddr
        for c in psutil.net_connections("inet")
        if c.pid in pids and c.status == psutil.CONN_LISTEN and c.laddr.ip != "127.0.0.1"
    ]
    assert exposed == []


def each_living(processes: list[psutil.Process], read: Callable[[psutil.Process], T]) -> Iterator[tuple[int, T]]:
    """What is read of each process by its number; a server ends processes of its own while we look."""
    for process in processes:
        try:
            found = read(process)
        except psutil.NoSuchProcess:
            continue
        yield process.pid, found


def test_secrets_stand_in_private_files_alone(stack: paths.Stack) -> None:
    secrets = config.read_env_file(stack.secrets)
    values = {environment_connections(n[13:].lower()).password for n in secrets if n.startswith("AIRFLOW_CONN_")}
    values |= {value for name, value in secrets.items() if not name.startswith("AIRFLOW_CONN_")}
    assert len(values) > 15 and stack.secrets.stat().st_mode & 0o777 == 0o600
    lines = dict(each_living(members(stack), lambda process: " ".join(process.cmdline())))
    assert lines
    for pid, line in lines.items():
        assert not [v for v in values if v in line], f"a secret stands in the command line of {pid}"
    for file in stack.var.rglob("*"):
        if file.is_relative_to(stack.postgresql_data) or "data" in file.relative_to(stack.var).parts:
            continue
        try:
            facts = file.stat()
            if not stat.S_ISREG(facts.st_mode) or facts.st_size >= 20_000_000:
                continue
            text = file.read_bytes().decode(errors="replace")
        except FileNotFoundError:  # a running server removed it since
            continue
        if [value for value in values if value in text]:
            assert facts.st_mode & 0o077 == 0, f"{file} holds secrets and is open to others"
            assert file.suffix != ".log" and "logs" not in file.parts, f"{file} is a log with a secret"


def test_telemetry_is_off_in_every_process(stack: paths.Stack) -> None:
    read = each_living(launch.marked(f"{stack.id}:"), lambda process: process.environ())
    environments = {pid: found for pid, found in read if found}  # empty: it has ended, and its parent did not look yet
    assert len(environments) >= len(paths.AIRFLOW_COMPONENTS)
    for pid, found in environments.items():
        assert TELEMETRY_OFF.items() <= found.items(), pid
        assert "127.0.0.1" in found["NO_PROXY"]


def test_status_shows_every_service_running(stack: paths.Stack) -> None:
    lines = {line.name: line for line in status.services(stack, time.time())}
    assert set(lines) == {*stack.services, "watchdog", "supervisor"}
    assert {line.state for line in lines.values()} == {"RUNNING"}
    assert all(line.rss_mib > 0 for line in lines.values())


def test_a_second_up_changes_nothing(stack: paths.Stack) -> None:
    before = {name: state.pid for name, state in Supervisor(stack).states().items()}
    secrets = stack.secrets.read_bytes()
    lifecycle.up(stack)
    assert {name: state.pid for name, state in Supervisor(stack).states().items()} == before
    assert stack.secrets.read_bytes() == secrets


def test_a_taken_port_stops_up_before_anything_starts(stack: paths.Stack, tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        services = {**stack.config.services, "mlflow": sections.StackService(port=port)}
        moved = stack.config.model_copy(update={"services": services})
        other = replace(stack, var=tmp_path, config=moved, offset=0)
        with pytest.raises(PreflightFailed, match=f"port {port}: wanted for mlflow, held by process {os.getpid()}"):
            lifecycle._check_ports(other, ["mlflow"])


# --- external services ------------------------------------------------------------------------------------------------


def declared(stack: paths.Stack, service: str, url: str, connection: str) -> paths.Stack:
    services = {
        **stack.config.services,
        service: sections.StackService(external=sections.External(url=url, connection=connection)),
    }
    return replace(stack, config=stack.config.model_copy(update={"services": services}))


def test_external_services_are_checked_by_real_work(stack: paths.Stack) -> None:
    for service, connection in (
        ("postgresql", "pg_backup"),
        ("haven", "s3_haven"),
        ("mlflow", "mlflow"),
        ("airflow", "airflow_api"),
    ):
        found = environment_connections(connection)
        url = str(found.extra.get("endpoint_url") or f"http://{found.host}:{found.port}")
        elsewhere = declared(stack, service, url, connection)
        assert external.check(elsewhere, service, environment_connections)


def test_an_external_service_without_a_connection_or_at_another_place_is_refused(stack: paths.Stack) -> None:
    with pytest.raises(ConnectionMissing, match="AIRFLOW_CONN_PG_TEAM"):
        external.check(
            declared(stack, "postgresql", "http://127.0.0.1:1", "pg_team"), "postgresql", environment_connections
        )
    with pytest.raises(ConfigError, match="must be the same server"):
        external.check(declared(stack, "mlflow", "http://127.0.0.1:1", "mlflow"), "mlflow", environment_connections)
    with pytest.raises(ConfigError, match="uses 's3_haven' for this service"):
        external.check(declared(stack, "haven", "http://127.0.0.1:1", "s3_primary"), "haven", environment_connections)


@pytest.fixture
def anyones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project folder that any user may enter, with state that belongs to `nobody`."""
    folder = Path("/tmp") / f"rempart-any-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.full
@pytest.mark.skipif(os.getuid() != 0, reason="the whole stack runs as an ordinary user already")
def test_an_ordinary_user_starts_and_stops_a_stack(stack: paths.Stack, anyones: Path) -> None:
    """PostgreSQL and a site of its own; MLflow and Airflow are the running ones, declared external."""
    data = yaml.safe_load((stack.root / "rempart.yaml").read_text(encoding="utf-8"))
    urls = {name: environment_connections(name).http_url() for name in ("mlflow", "airflow_api")}
    here = {"operator": "this-machine", "service": "machine", "region": "local"}
    data["services"] = {
        "mlflow": {"external": {**here, "url": urls["mlflow"], "connection": "mlflow"}},
        "airflow": {"external": {**here, "url": urls["airflow_api"], "connection": "airflow_api"}},
    }
    (anyones / "rempart.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (anyones / "include").mkdir()
    shutil.copytree(stack.root / "include" / "sql", anyones / "include" / "sql")
    user = privileges.User("nobody", 65534, 65534)
    os.chown(anyones, user.uid, user.gid)
    secrets = config.read_env_file(stack.secrets)
    variables = environment.base(stack, os.environ) | {
        "HOME": str(anyones),
        "REMPART_HOME": str(anyones),
        "REMPART_VAR": str(anyones / "var"),
        "REMPART_PORT_OFFSET": "3700",
        **{name: secrets[name] for name in ("AIRFLOW_CONN_MLFLOW", "AIRFLOW_CONN_AIRFLOW_API")},
    }

    def rempart(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = privileges.command_as(
            user, [sys.executable, "-m", "rempart.cli", *arguments], [Path(sys.executable), stack.root]
        )
        return subprocess.run(
            command, env=variables, cwd=anyones, capture_output=True, text=True, timeout=400, check=False
        )

    try:
        up = rempart("up")
        assert up.returncode == 0, up.stdout + up.stderr
        assert "(external, queries and artifacts work)" in up.stdout
        owners = {
            psutil.Process(line.pid).uids().real
            for line in status.services(
                paths.Stack(anyones, anyones / "var", config.load(anyones / "rempart.yaml"), 3500), time.time()
            )
            if line.pid
        }
        assert owners == {user.uid}
        assert rempart("status").returncode == 0
    finally:
        down = rempart("down")
    assert down.returncode == 0 and "no process is running" in down.stdout, down.stdout + down.stderr
