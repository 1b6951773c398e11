"""docs/how-to/where-is-your-data.md, executed: each example's files, settings and SQL, against a real source.

Hosts, the name of a database and the keys of a bucket are those of the test's servers; all else is as on the page. The
source of each example is a real server. The platform that takes the rows is in memory.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from rempart.deployment.setup import credentials
from rempart.deployment.setup.paths import Stack
from rempart.errors import RempartError
from rempart.flows.shared import platform as platforms
from rempart.flows.shared.platform import Platform
from rempart.settings import config, pipelines
from rempart.settings.schema import read_yaml
from rempart.sites.port import Site
from tests.http_service import Reply, Request, serving
from tests.mariadb_server import MariadbServer, needs_mariadb, running_mariadb
from tests.source_examples import BASE, PIPELINE, ROOT, SECTIONS, Project, as_shown, seen, texts
from tests.unit.ingestion.conftest import make_platform

__all__ = ["make_platform"]
FILE, BUCKET = "A file", "Files in another operator's bucket"
TABLE, NEW_ROWS, MARIADB = "A table of PostgreSQL", "Only new rows of a table", "A table of MariaDB"
API, DOWNLOAD, DERIVED = "An HTTP API with pages and a token", "A file to download", "The rows of another pipeline"
READINGS = "CREATE TABLE {} (meter varchar(20), day date, kwh {}, changed_at {} NOT NULL, PRIMARY KEY (meter, day))"

Row = tuple[str, str, float, str]
ROWS: Sequence[Row] = (
    ("m1", "2026-01-01", 12.5, "2026-01-02T06:00:00Z"),
    ("m2", "2026-01-01", 8.0, "2026-01-02T06:00:00Z"),
    ("m1", "2026-01-02", 11.0, "2026-01-03T06:00:00Z"),
)
LATER: Row = ("m2", "2026-01-02", 7.5, "2026-01-03T07:00:00Z")
NAMES = ("meter", "day", "kwh", "changed_at")


def csv(rows: Sequence[Row] = ROWS) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in (NAMES, *rows)).encode()


def zstd(body: bytes) -> bytes:
    return bytes(pa.compress(body, codec="zstd", asbytes=True))


def as_json(rows: Sequence[Row] = ROWS) -> list[dict[str, Any]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def counts(*rows: Row) -> list[tuple[str, str, float]]:
    return sorted(row[:3] for row in rows)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_platform: Callable[[], Platform]) -> Project:
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "include" / "operators", tmp_path / "include" / "operators")
    for name in ("pipelines", "sql"):
        (tmp_path / "include" / name).mkdir()
    return Project(tmp_path, monkeypatch, make_platform)


def test_every_section_is_executed() -> None:
    ran = {BASE, FILE, BUCKET, TABLE, NEW_ROWS, MARIADB, API, DOWNLOAD, DERIVED}
    assert set(SECTIONS) == ran, "execute the new section here"


def test_a_file(project: Project) -> None:
    project.use(FILE)
    project.monkeypatch.setattr(platforms, "open_platform", lambda: project.platform)
    (command,) = texts(FILE, "sh", "rempart")
    _, *arguments = command.split()
    lines = "".join(json.dumps(row) + "\n" for row in as_json()).encode()
    Path(arguments[-1]).write_bytes(zstd(lines))
    project.command(*arguments)
    project.run()
    assert project.counted() == counts(*ROWS)
    Path("again.jsonl").write_bytes(lines)
    project.command("pipeline", "deliver", "readings", "again.jsonl")
    project.run()
    assert project.counted() == counts(*ROWS)


def _parquet(file: Path) -> None:
    Path("rows.csv").write_bytes(csv())
    pq.write_table(pa_csv.read_csv("rows.csv"), file)


FORMS: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "rows.csv": ("csv", lambda file: file.write_bytes(csv())),
    "rows.csv.gz": ("csv", lambda file: file.write_bytes(gzip.compress(csv()))),
    "rows.csv.zst": ("csv", lambda file: file.write_bytes(zstd(csv()))),
    "rows.ndjson": ("jsonl", lambda file: file.write_text("".join(f"{json.dumps(row)}\n" for row in as_json()))),
    "rows.parquet": ("parquet", _parquet),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_of_a_file_gives_the_same_rows(name: str, project: Project) -> None:
    project.use(FILE)
    form, write = FORMS[name]
    file = project.folder / PIPELINE
    file.write_text(file.read_text().replace("format: jsonl", f"format: {form}"))
    write(project.folder / name)
    project.monkeypatch.setattr(platforms, "open_platform", lambda: project.platform)
    project.command("pipeline", "deliver", "readings", name)
    project.run()
    assert project.counted() == counts(*ROWS)


def test_a_file_without_a_column(project: Project) -> None:
    project.use(BASE)
    Path("readings.csv").write_text("meter,day,changed_at\nm1,2026-01-01,2026-01-02T06:00:00Z\n")
    with pytest.raises(RempartError) as caught:
        project.command("pipeline", "deliver", "readings", "readings.csv")
    as_shown(caught.value, seen(FILE, "missing column"))


@pytest.mark.stores
def test_files_of_a_bucket(project: Project, s3_site: Site) -> None:
    theirs = config.environment_connections("s3_primary")
    endpoint = str(theirs.extra["endpoint_url"])
    project.swaps = {
        "https://s3.eu-central-1.amazonaws.com": endpoint,
        "eu-central-1\"}}": f"{theirs.extra['region_name']}\"}}}}",
        "KEY": theirs.login,
        "SECRET": theirs.password,
    }  # fmt: skip
    project.settings = {"operators": {"aws": {"services": {"object-storage": {"endpoints": [endpoint]}}}}}
    project.use(BUCKET)
    source = pipelines.named("readings").source.model_dump()
    bucket, folder = source["bucket"], source["folder"]
    s3_site.ensure_bucket(bucket, versioned=False)
    try:
        s3_site.write(bucket, f"{folder}january.csv", csv(ROWS[:2]))
        s3_site.write(bucket, "readings/2025/december.csv", csv([LATER]))
        assert project.run().deliveries == 1
        assert project.counted() == counts(*ROWS[:2])
        assert project.run().deliveries == 0
        s3_site.write(bucket, f"{folder}february.csv", csv(ROWS[2:]))
        project.run()
        assert project.counted() == counts(*ROWS)
    finally:
        for info in list(s3_site.list(bucket)):
            s3_site.delete(bucket, info.key)
    project.use(BUCKET, without="policy")
    with pytest.raises(RempartError) as caught:
        project.run()
    as_shown(caught.value, seen(BUCKET, "denied"))


@dataclass(frozen=True)
class Postgresql:
    """A database of the test's own. Its owner may do everything."""

    owner: config.Connection

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.owner.postgresql_url(), autocommit=True) as opened:
            for statement in statements:
                opened.execute(statement.encode())

    def put(self, *rows: Row) -> None:
        for row in rows:
            values = ", ".join(f"'{value}'" for value in row)
            change = "ON CONFLICT (meter, day) DO UPDATE SET kwh = excluded.kwh, changed_at = excluded.changed_at"
            self.execute(f"INSERT INTO energy.readings VALUES ({values}) {change}")


@pytest.fixture
def postgresql(stack: Stack, project: Project) -> Iterator[Postgresql]:
    """The page's database, made by its own SQL."""
    administrator = credentials.superuser(stack, config.read_env_file(stack.secrets))
    name, server = "where_is_your_data", Postgresql(administrator)
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    found = Postgresql(replace(administrator, schema=name))
    project.swaps = {
        "db.example.eu:5432": f"{administrator.host}:{administrator.port}",
        "/meters?sslmode=verify-full&sslrootcert=system": f"/{name}",
    }
    try:
        found.execute("CREATE SCHEMA energy", READINGS.format("energy.readings", "float", "timestamptz"))
        found.execute(*texts(TABLE, "sql", "in the database"))
        project.use(TABLE)
        yield found
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)", "DROP ROLE IF EXISTS rempart_reader")


@pytest.mark.stores
class TestPostgresql:
    def test_a_table(self, postgresql: Postgresql, project: Project) -> None:
        postgresql.put(*ROWS)
        project.run()
        assert project.counted() == counts(*ROWS)
        postgresql.put(LATER)
        project.run()
        assert project.counted() == counts(*ROWS, LATER)

    def test_a_query(self, postgresql: Postgresql, project: Project) -> None:
        postgresql.execute(
            "CREATE TABLE energy.raw_readings (meter_id text, day date, watt_hours bigint, changed_at timestamptz)",
            "INSERT INTO energy.raw_readings VALUES ('m1', '2026-01-01', 12500, now())",
            "INSERT INTO energy.raw_readings VALUES ('m2', '2026-01-01', NULL, now())",
            "GRANT SELECT ON energy.raw_readings TO rempart_reader",
        )
        project.use(TABLE, number=1)
        project.run()
        assert project.counted() == counts(ROWS[0])

    def test_only_new_rows(self, postgresql: Postgresql, project: Project) -> None:
        project.use(TABLE)
        places = read_yaml(project.folder / "rempart.yaml")["connections"]
        project.settings = {"connections": places}
        project.use(NEW_ROWS)
        postgresql.put(*ROWS)
        project.run()
        corrected: Row = ("m1", "2026-01-02", 10.0, "2026-01-03T08:00:00Z")
        postgresql.put(LATER, corrected)
        postgresql.execute("DELETE FROM energy.readings WHERE meter = 'm2' AND day = '2026-01-01'")
        taken = project.run()
        assert project.counted() == counts(*ROWS[:2], LATER, corrected)
        assert taken.absent == 1

    def test_what_fails(self, postgresql: Postgresql, project: Project) -> None:
        right = config.environment()["AIRFLOW_CONN_METERS"]
        for mark, value in (
            ("wrong password", right.replace("a-secret", "another")),
            ("other host", right.replace("127.0.0.1", "127.0.0.2")),
        ):
            project.monkeypatch.setenv("AIRFLOW_CONN_METERS", value)
            with pytest.raises(RempartError) as caught:
                project.run()
            as_shown(caught.value, seen(TABLE, mark))
        project.monkeypatch.setenv("AIRFLOW_CONN_METERS", right)
        postgresql.execute("ALTER TABLE energy.readings DROP COLUMN kwh")
        with pytest.raises(RempartError) as caught:
            project.run()
        as_shown(caught.value, seen(TABLE, "missing column"))
        assert not caught.value.transient


@pytest.fixture(scope="module")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    with running_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        (text,) = texts(MARIADB, "sql", "in the database")
        rights = filter(str.strip, text.partition("\n")[2].split(";"))
        for statement in (
            "CREATE DATABASE meters",
            READINGS.format("meters.readings", "double", "timestamp(6)"),
            *rights,
        ):
            server.execute(statement)
        yield server


@pytest.mark.full
@needs_mariadb
def test_mariadb(project: Project, mariadb_server: MariadbServer) -> None:
    project.swaps = {
        "db.example.eu:3306": f"127.0.0.1:{mariadb_server.reader.port}",
        "?sslmode=verify-full&sslrootcert=system": "",
    }
    project.use(MARIADB)
    values = ", ".join(f"('{m}', '{d}', {kwh}, '{at.removesuffix('Z')}')" for m, d, kwh, at in ROWS)
    mariadb_server.execute("DELETE FROM meters.readings")
    mariadb_server.execute(f"INSERT INTO meters.readings VALUES {values}")
    project.run()
    assert project.counted() == counts(*ROWS)
    right = config.environment()["AIRFLOW_CONN_METERS"]
    project.monkeypatch.setenv("AIRFLOW_CONN_METERS", right.replace("a-secret", "another"))
    with pytest.raises(RempartError) as caught:
        project.run()
    as_shown(caught.value, seen(MARIADB, "wrong password"))
    project.monkeypatch.setenv("AIRFLOW_CONN_METERS", right)
    mariadb_server.execute("ALTER TABLE meters.readings DROP COLUMN kwh")
    with pytest.raises(RempartError, match="has no column 'kwh'"):
        project.run()


def test_an_api(project: Project) -> None:
    rows = list(ROWS)

    def answers(asked: Request) -> Reply:
        if asked.headers.get("authorization") != "Bearer a-token":
            return Reply(status=401)
        start = int(asked.query.get("after", "0"))
        following = str(start + 2) if start + 2 < len(rows) else None
        return Reply(json.dumps({"data": {"items": as_json(rows[start : start + 2]), "next": following}}).encode())

    with serving(answers) as service:
        project.swaps = {"https://api.example.eu:443": service.url, "api.example.eu:443": f"127.0.0.1:{service.port}"}
        project.use(API)
        project.run()
        assert project.counted() == counts(*ROWS)
        assert [asked.query.get("after") for asked in service.asked] == [None, "2"]
        rows.append(LATER)
        project.run()
        assert project.counted() == counts(*ROWS, LATER)
        project.monkeypatch.setenv("AIRFLOW_CONN_ENERGY_API", '{"conn_type": "http", "password": "another"}')
        with pytest.raises(RempartError) as caught:
            project.run()
        as_shown(caught.value, project.here(seen(API, "wrong token")))
    project.swaps = {}
    project.use(API, without="origins")
    with pytest.raises(RempartError) as caught:
        project.run()
    as_shown(caught.value, seen(API, "undeclared"))


def test_a_download(project: Project) -> None:
    file = {"body": gzip.compress(csv(ROWS[:2]), mtime=0), "etag": '"1"'}

    def answers(asked: Request) -> Reply:
        if not file:
            return Reply(status=404)
        if asked.headers.get("if-none-match") == file["etag"]:
            return Reply(status=304, headers={"ETag": str(file["etag"])})
        return Reply(bytes(file["body"]), headers={"ETag": str(file["etag"])})  # type: ignore[arg-type] # of both

    with serving(answers) as service:
        project.swaps = {"https://api.example.eu:443": service.url, "api.example.eu:443": f"127.0.0.1:{service.port}"}
        project.use(API)
        project.settings = {"origins": read_yaml(project.folder / "rempart.yaml")["origins"]}
        project.settings["origins"]["energy"].pop("connection")
        project.use(DOWNLOAD)
        project.run()
        assert project.counted() == counts(*ROWS[:2])
        assert project.run().deliveries == 0
        file |= {"body": gzip.compress(csv(ROWS[2:]), mtime=0), "etag": '"2"'}
        project.run()
        assert project.counted() == counts(*ROWS)
        file.clear()
        with pytest.raises(RempartError) as caught:
            project.run()
        as_shown(caught.value, project.here(seen(DOWNLOAD, "gone")))


def test_the_rows_of_another_pipeline(project: Project) -> None:
    project.use(BASE)
    project.use(DERIVED)
    platform = project.platform
    platform.sites["primary"].write("landing", "readings/one.csv", csv())
    project.run()
    project.run("daily_energy")
    assert sorted((row["day"].isoformat(), row["kwh"], row["meters"]) for row in project.rows("daily_energy")) == [
        ("2026-01-01", 20.5, 2),
        ("2026-01-02", 11.0, 1),
    ]
    query = project.folder / "include/sql/daily_energy.sql"
    query.write_text(query.read_text().replace("sum(kwh)", "sum(kw)"))
    with pytest.raises(RempartError) as caught:
        project.run("daily_energy")
    as_shown(caught.value, seen(DERIVED, "wrong name"))
