"""Errors in rempart.yaml name the path in the file and the remedy; durations and connections are read strictly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ConfigError, ConnectionMissing
from rempart.settings import config, schema

SHIPPED = Path(__file__).resolve().parents[3] / "rempart.yaml"


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    change(data)
    file = tmp_path / "rempart.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


def test_the_shipped_file_is_valid() -> None:
    loaded = config.load(SHIPPED)
    assert set(loaded.sites) == {"primary", "haven"} and loaded.active_site == "primary"


def jobs(**given: str) -> Any:
    return lambda data: data["sites"]["primary"].update(job_credentials=given)


def external(url: str, **place: str) -> Any:
    return {"external": {"url": url, "connection": "theirs", **place}}


@pytest.mark.parametrize(
    ("change", "path", "remedy"),
    [
        (lambda d: d.update(replicaton=[]), "replicaton", "unknown key: remove it, or correct its spelling"),
        (lambda d: d["backup"].update(evry="1h"), "backup.evry", "unknown key"),
        (lambda d: d["sites"]["primary"].pop("region"), "sites.primary.region", "required key is missing: add it"),
        (lambda d: d["sites"]["primary"].update(operator="nobody"), "sites.primary.operator", "not one of operators"),
        (lambda d: d["sites"]["haven"].update(service="tape"), "sites.haven.service", "object-storage"),
        (lambda d: d["sites"]["haven"].update(independent_of="gone"), "sites.haven.independent_of", "primary, haven"),
        (lambda d: d.update(active_site="gone"), "active_site", "'gone' is not one of sites: primary, haven"),
        (lambda d: d["backup"].update(site="gone"), "backup.site", "not one of sites"),
        (lambda d: d["backup"].update(every="2h"), "backup.every", "longer than backup.rpo_objective"),
        (lambda d: d["backup"].update(locked="15d"), "backup.locked", "backup.keep.daily"),
        (lambda d: d["replication"][0].update(target="gone"), "replication, entry 1.target", "not one of sites"),
        (
            lambda d: d["replication"][0].update(target="primary"),
            "replication, entry 1.target",
            "cannot replicate to itself",
        ),
        (lambda d: d["replication"][0].update(every="5 minutes"), "replication, entry 1.every", "write a duration as"),
        (
            lambda d: d["backup"].update(point_in_time={"base_every": "8d"}),
            "backup.point_in_time",
            "base_every: longer than keep",
        ),
        (lambda d: d.pop("machine"), "machine", "give the operator, service and region of the machine"),
        (
            lambda d: d["services"].update(postgresql=external("postgresql://db.eu:5432")),
            "services.postgresql.external.operator",
            "give the operator, service and region of this server",
        ),
        (
            lambda d: d["services"].update(haven=external("https://s3.eu", operator="trial-two")),
            "services.haven.external.operator",
            "declare its place under sites.haven",
        ),
        (
            lambda d: d["services"].update(mlflow=external("https://m.eu", operator="nobody", service="x", region="y")),
            "services.mlflow.external.operator",
            "not one of operators",
        ),
        (lambda d: d["services"].update(redis={}), "services.redis", "not one of the stack's services"),
        (lambda d: d["services"].update(mlflow={"port": 80}), "services.mlflow.port", "1024"),
        (
            lambda d: d["operators"]["trial-one"].update(jurisdiction="France"),
            "operators.trial-one.jurisdiction",
            "[A-Z]",
        ),
        (lambda d: d["policy"].update(secret={}), "policy.secret", "public"),
        (jobs(kind="session"), "job_credentials", "role: allowed only with kind: session"),
        (
            jobs(kind="platform", role="arn:aws:iam::1:role/x"),
            "job_credentials",
            "role: allowed only with kind: session",
        ),
        (jobs(kind="session", role="x"), "sites.primary.job_credentials.role", "arn:"),
        (jobs(kind="session", role="arn:aws:iam::1:role/x", longest="5m"), "job_credentials", "at least 15m"),
        (jobs(kind="connection"), "job_credentials", "connection: allowed only with kind: connection"),
        (jobs(kind="connection", connection="s3_primary"), "job_credentials.connection", "set kind: platform"),
    ],
)
def test_a_fault_names_file_path_and_remedy(tmp_path: Path, change: Any, path: str, remedy: str) -> None:
    file = changed(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    message = str(caught.value)
    assert str(file) in message and path in message and remedy in message and "rempart config check" in message


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["extra"] = 1
        data["backup"]["every"] = "soon"

    with pytest.raises(ConfigError) as caught:
        config.load(changed(tmp_path, change))
    assert "extra" in caught.value.what and "backup.every" in caught.value.what


@pytest.mark.parametrize(
    ("text", "expected_text"), [("a: [", "not valid YAML"), ("- a", "no mapping"), ("!!python/name:os.system", "")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, expected_text: str) -> None:
    file = tmp_path / "rempart.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=expected_text):
        config.load(file)


def test_a_missing_file_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "rempart.yaml")
    monkeypatch.delenv("REMPART_HOME")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"find rempart\.yaml"):
        config.project_root()


@given(st.integers(min_value=0, max_value=10**6), st.sampled_from("smhdw"))
def test_durations(count: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert schema.parse_duration(f"{count}{unit}") == timedelta(seconds=count * seconds)


def test_a_duration_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 999999999d"):
        schema.parse_duration("99999999999d")


def test_connections_come_from_the_environment_then_from_the_secrets_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    (tmp_path / "secrets.env").write_text('AIRFLOW_CONN_A={"conn_type": "aws", "login": "k", "password": "p=1#x"}\n')
    found = config.environment_connections("a")
    assert (found.login, found.password) == ("k", "p=1#x") and "p=1#x" not in repr(found)
    monkeypatch.setenv("AIRFLOW_CONN_A", "postgres://u:p%40w@h:5433/db")
    found = config.environment_connections("a")
    assert (found.login, found.password, found.host, found.port, found.schema) == ("u", "p@w", "h", 5433, "db")
    assert found.postgresql_url() == "postgresql://u:p%40w@h:5433/db"


def test_a_missing_or_broken_connection_says_how_to_define_it_and_not_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    with pytest.raises(ConnectionMissing, match="AIRFLOW_CONN_S3_X"):
        config.environment_connections("s3_x")
    monkeypatch.setenv("AIRFLOW_CONN_S3_X", '{"password": "hush", ')
    with pytest.raises(ConnectionMissing) as caught:
        config.environment_connections("s3_x")
    assert "hush" not in str(caught.value) and caught.value.__cause__ is None


def test_a_missing_connection_of_a_server_of_ones_own_is_not_said_to_come_from_rempart_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`rempart up` asks for it: its hint once said to run `rempart up`."""
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    with pytest.raises(ConnectionMissing, match="'pg_admin' is not defined") as error:
        config.environment_connections("pg_admin")
    assert error.value.hint.startswith("For your own server, set AIRFLOW_CONN_PG_ADMIN")


@given(st.text(), st.text(), st.none() | st.integers(1, 65_535), st.dictionaries(st.text(), st.text() | st.booleans()))
def test_a_connection_that_is_handed_on_is_read_as_it_was(
    host: str, password: str, port: int | None, extra: dict[str, str | bool]
) -> None:
    given_on = config.Connection("s3_x", "aws", host, port, "key", password, "lake", extra)
    assert config.parse_connection("s3_x", config.connection_text(given_on)) == given_on
