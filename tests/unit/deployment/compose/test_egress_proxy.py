"""External services in containers: requests and refusals, and the hosts that the proxy then allows."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.compose import containers, egress_proxy
from rempart.deployment.setup import credentials, paths
from rempart.errors import ConfigError, ConnectionMissing, RempartError, StackError
from rempart.settings import config
from rempart.settings.config import read_env_file
from rempart.settings.sections import External, StackService
from rempart.sovereignty.egress import endpoints, rules

ROOT = Path(__file__).resolve().parents[4]
DAY = date(2026, 11, 25)
SECRET = "kept-to-itself-0123456789"
ENDPOINT = "https://s3.fr-par.scw.cloud"
SCALEWAY = "operator: scaleway, service: object-storage, region: fr-par"


def stack(tmp_path: Path, *, services: dict[str, External]) -> paths.Stack:
    shipped = config.load(ROOT / "rempart.yaml")
    external = {name: StackService(external=service) for name, service in services.items()}
    wanted = shipped.model_copy(update={"services": {**shipped.services, **external}})
    return paths.Stack(ROOT, tmp_path / "var", wanted, python="/usr/bin/python3")


def at_scaleway(tmp_path: Path) -> paths.Stack:
    """The second site at an operator of the catalogue, as docs/how-to/external-services.md has it."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "include").is_symlink() or (home / "include").symlink_to(ROOT / "include")
    text = (ROOT / "rempart.yaml").read_text("utf-8")
    text = text.replace("operator: trial-two, service: object-storage, region: local-2", SCALEWAY)
    text = text.replace("  haven: {}\n", f'  haven: {{external: {{url: "{ENDPOINT}:443", connection: s3_haven}}}}\n')
    (home / "rempart.yaml").write_text(text, "utf-8")
    return paths.Stack(ROOT, tmp_path / "var", config.load(home / "rempart.yaml"), python="/usr/bin/python3")


def key(name: str, endpoint: str = f"{ENDPOINT}:443", **extra: Any) -> dict[str, str]:
    value = {"conn_type": "aws", "login": "us", "password": SECRET, "extra": {"endpoint_url": endpoint, **extra}}
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value, indent=1)}


KEYS = key("s3_haven") | key("s3_witness_haven")


def databases(host: str = "db.example.eu", port: int = 5432) -> dict[str, str]:
    roles = (*(f"pg_{role}" for role in config.load(ROOT / "rempart.yaml").roles), "pg_admin")
    value = {"conn_type": "postgres", "host": host, "port": port, "login": "us", "password": SECRET, "schema": "x"}
    own = {"conn_type": "ledger", "login": "id", "password": SECRET}
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name in roles} | {
        f"AIRFLOW_CONN_{name}": json.dumps(own) for name in ("LEDGER_KEY", "BACKUP_KEY")
    }


PLACE = {"operator": "this-machine", "service": "machine", "region": "local"}


def team_database(tmp_path: Path, url: str = "postgresql://db.example.eu:5432") -> paths.Stack:
    return stack(tmp_path, services={"postgresql": External(url=url, connection="pg_admin", **PLACE)})


def init(made: paths.Stack, tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    containers.initialise(made, tmp_path / ".env", environment)
    return read_env_file(tmp_path / ".env")


def test_the_proxy_lets_out_to_the_site_of_the_team_and_is_made_anew_when_that_changes(tmp_path: Path) -> None:
    written = init(at_scaleway(tmp_path), tmp_path, KEYS)
    listed = (tmp_path / "var" / "compose" / "egress.allowed").read_text("utf-8")
    assert "acl host0 dstdomain -n .s3.fr-par.scw.cloud\nacl port0 port 443\n" in listed
    assert listed.count("http_access allow") == 1, "a container of ours is no way out"
    assert (written["REMPART_OWN_HAVEN"], written["REMPART_OWN_PRIMARY"], written["REMPART_PASS"]) == ("0", "1", "0")
    again = init(stack(tmp_path, services={}), tmp_path, {})
    assert again["REMPART_OWN_HAVEN"] == "1" and again["REMPART_ALLOWED"] != written["REMPART_ALLOWED"]


def test_the_list_is_the_one_of_the_audit_hook(tmp_path: Path) -> None:
    inside = containers.in_containers(at_scaleway(tmp_path))
    secrets = credentials.plan(inside, {}, lambda: "token", lambda: "fernet")
    secrets |= egress_proxy.given(inside, secrets, {}, KEYS)
    found = rules(inside.config, endpoints(inside.config, credentials.connections(inside, secrets)), on=DAY)
    named = {str(destination) for destination in found.allowed if "." in destination.name}
    listed = egress_proxy.allowed(inside, secrets, DAY)
    assert named == {"*.s3.fr-par.scw.cloud:443"} and all(f"# {destination}  (" in listed for destination in named)


def test_credentials_are_kept_where_the_others_are_and_reach_who_works_with_them(tmp_path: Path) -> None:
    written = init(at_scaleway(tmp_path), tmp_path, KEYS)
    folder = tmp_path / "var" / "compose"
    holders = {file.name for file in folder.iterdir() if SECRET in file.read_text("utf-8")}
    assert holders == {
        f"{name}.env"
        for name in ("secrets", "tasks", "local-tasks", "cli", "init", "mlflow", "landing-watch", "scorer")
    }
    assert SECRET not in json.dumps(written)
    before = (folder / "tasks.env").read_text("utf-8")
    init(at_scaleway(tmp_path), tmp_path, {})  # `make images` runs it where they may not be set
    assert (folder / "tasks.env").read_text("utf-8") == before


def test_the_administrator_of_a_database_reaches_who_looks_at_it_and_no_task(tmp_path: Path) -> None:
    written = init(team_database(tmp_path), tmp_path, databases())
    folder = tmp_path / "var" / "compose"
    assert "AIRFLOW_CONN_PG_ADMIN=" in (folder / "init.env").read_text("utf-8")
    assert "AIRFLOW_CONN_PG_ADMIN=" not in (folder / "local-tasks.env").read_text("utf-8")
    assert "AIRFLOW_CONN_PG_MLFLOW=" in (folder / "mlflow.env").read_text("utf-8")
    assert not (folder / "superuser").exists() and "REMPART_POSTGRESQL_PASSWORD" not in read_env_file(
        folder / "secrets.env"
    )
    place = (written["REMPART_PASS"], written["REMPART_POSTGRESQL_HOST"], written["REMPART_POSTGRESQL_PORT"])
    assert place == ("1", "db.example.eu", "5432") and written["REMPART_OWN_POSTGRESQL"] == "0"
    assert "dstdomain -n db.example.eu\n" in (folder / "egress.allowed").read_text("utf-8")


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({}, ConnectionMissing, "Connection 's3_haven' is not defined"),
        (key("s3_haven"), ConnectionMissing, "Connection 's3_witness_haven' is not defined"),
        (KEYS | key("s3_haven", "http://127.0.0.1:9000"), StackError, "in a container, this is the container itself"),
        (KEYS | key("s3_haven", ca_bundle="/etc/ca.pem"), StackError, "extra.ca_bundle names a file of this machine"),
        (KEYS | key("s3_haven", "https://elsewhere.example"), ConfigError, "services.haven.external.url is"),
        (KEYS | {"AIRFLOW_CONN_S3_HAVEN": "{broken " + SECRET}, ConnectionMissing, "neither JSON nor a URI"),
    ],
)
def test_a_connection_that_would_not_work_is_refused_by_name_and_without_its_secret(
    tmp_path: Path, given: dict[str, str], error: type[RempartError], told: str
) -> None:
    with pytest.raises(error, match=told) as refused:
        init(at_scaleway(tmp_path), tmp_path, given)
    assert refused.value.hint and SECRET not in str(refused.value)
    assert not (tmp_path / ".env").exists()


@pytest.mark.parametrize(
    ("url", "given", "told"),
    [
        (
            "postgresql://10.0.0.5:5432",
            databases("10.0.0.5"),
            "containers need the name in its certificate, with a dot",
        ),
        (
            "postgresql://db.example.eu:5432",
            databases() | {k: v for k, v in databases("other.example.eu").items() if k.endswith("PG_DRILL")},
            "pg_drill point to another server",
        ),
    ],
)
def test_a_database_that_cannot_be_passed_through_is_refused(
    tmp_path: Path, url: str, given: dict[str, str], told: str
) -> None:
    with pytest.raises(StackError, match=told) as refused:
        init(team_database(tmp_path, url), tmp_path, given)
    assert refused.value.hint


def test_a_service_that_only_the_stack_itself_can_leave_to_the_team_is_refused_with_the_remedy(tmp_path: Path) -> None:
    theirs = External(url="https://mlflow.example.eu", connection="mlflow")
    with pytest.raises(StackError, match="starts mlflow itself") as refused:
        containers.in_containers(stack(tmp_path, services={"mlflow": theirs}))
    assert "rempart up" in refused.value.hint
    ours = stack(tmp_path, services={})
    sites = {**ours.config.sites, "third": ours.config.sites["haven"]}
    with pytest.raises(StackError, match="no site named third"):
        containers.in_containers(dataclasses.replace(ours, config=ours.config.model_copy(update={"sites": sites})))
