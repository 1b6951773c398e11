"""Secrets of the platform in a cluster: each pod has its own, and no manifest holds one."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.access import managed_databases
from rempart.deployment.kubernetes import cluster
from rempart.errors import ConnectionMissing, StackError
from rempart.settings import config
from rempart.settings.config import parse_connection, read_env_file
from tests.unit.deploy.platform_files import (
    FILES,
    MANAGED,
    PAGE,
    ROOT,
    every,
    given,
    pod_specs,
    project,
    read,
    stack,
)


def test_no_secret_stands_in_a_manifest_and_each_that_is_mounted_is_made(made: dict[str, str]) -> None:
    assert not every("Secret")
    mounted = {
        volume["secret"]["secretName"]
        for spec in pod_specs().values()
        for volume in spec["volumes"]
        if "secret" in volume
    }
    generated = {
        secret["name"]: secret["files"] for secret in yaml.safe_load(made["kustomization.yaml"])["secretGenerator"]
    }
    assert set(generated) == mounted | {"rempart-broker", "rempart-scorer"}, "the last two are of components"
    assert generated.pop("rempart-broker") == ["broker.conf"]
    for name, files in generated.items():
        assert files == [f"{cluster.KEY}={name.removeprefix('rempart-')}.env"]
    text = "".join(file.read_text("utf-8") for file in (*FILES, *sorted(MANAGED.glob("*"))))
    assert not re.search(r"(?i)(password|secret_key|access_key)\s*[:=]\s*['\"]?\w", text)


def test_each_pod_is_given_what_it_needs_and_no_more(made: dict[str, str]) -> None:
    """The database's administrator prepares, and nobody else has him; the key of the watch stays outside."""
    holders = {
        word: {name for name in cluster.SECRETS if word in made[f"{name}.env"]}
        for word in (
            *("secret-admin", "secret-S3_WATCH_HAVEN", "secret-S3_WITNESS_HAVEN", "secret-S3_PRIMARY"),
            *("AIRFLOW_CONN_LEDGER_KEY=", "AIRFLOW_CONN_BACKUP_KEY=", "REMPART_AIRFLOW_API_SECRET="),
        )
    }
    assert holders == {
        "secret-admin": {"prepare"},
        "secret-S3_WATCH_HAVEN": set(),
        "secret-S3_WITNESS_HAVEN": {"tasks", "prepare"},
        # the API server reads logs of tasks at the active site, the triggerer writes those of its triggers
        "secret-S3_PRIMARY": {"tasks", "prepare", "mlflow", "landing-watch", "scorer", "api-server", "triggerer"},
        "AIRFLOW_CONN_LEDGER_KEY=": {"tasks", "prepare"},
        "AIRFLOW_CONN_BACKUP_KEY=": {"tasks", "prepare"},
        "REMPART_AIRFLOW_API_SECRET=": {"api-server", "prepare"},
    }
    assert {name for name in read(made["landing-watch.env"]) if "S3" not in name} == {
        "AIRFLOW_CONN_AIRFLOW_LANDING_WATCH",
        "AIRFLOW_CONN_PG_CONTINUITY",
        "AIRFLOW_CONN_PG_LEDGER",
    }
    assert {name for name in read(made["scorer.env"]) if "S3" not in name} == {"AIRFLOW_CONN_PG_SCORER"}
    for name in ("tasks.env", "mlflow.env", "api-server.env", "triggerer.env"):
        for variable, value in read(made[name]).items():
            if variable.startswith("AIRFLOW_CONN_"):
                assert parse_connection("x", value).password, variable


def test_a_key_that_lists_the_landing_bucket_takes_the_place_of_the_sites_own(tmp_path: Path) -> None:
    limited = {"AIRFLOW_CONN_S3_LANDING_PRIMARY": "aws://lists:secret-landing@"}
    cluster.initialise(stack(tmp_path), given() | limited)
    folder = tmp_path / cluster.FOLDER
    held = read_env_file(folder / "landing-watch.env")
    assert "AIRFLOW_CONN_S3_PRIMARY" not in held and "AIRFLOW_CONN_S3_HAVEN" in held
    assert {file.name for file in folder.iterdir() if "secret-landing" in file.read_text("utf-8")} == {
        cluster.KEY,
        "landing-watch.env",
    }


def test_the_files_are_closed_secrets_stay_and_what_is_given_again_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.initialise(stack(tmp_path), given())
    folder = tmp_path / cluster.FOLDER
    before = read_env_file(folder / cluster.KEY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    cluster.initialise(stack(tmp_path), {})
    assert read_env_file(folder / cluster.KEY) == before, "nothing has to be exported twice"
    cluster.initialise(stack(tmp_path), {"AIRFLOW_CONN_S3_PRIMARY": "aws://key:renewed@"})
    after = read_env_file(folder / cluster.KEY)
    assert {name for name in before if before[name] != after[name]} == {"AIRFLOW_CONN_S3_PRIMARY"}
    for value in before.values():
        password = parse_connection("x", value).password if "conn" in value or "://" in value else value
        assert password and password not in caplog.text


def test_what_nobody_but_the_team_can_know_is_named(tmp_path: Path) -> None:
    inside = cluster.in_cluster(stack(tmp_path))
    with pytest.raises(ConnectionMissing, match="AIRFLOW_CONN_S3_PRIMARY, AIRFLOW_CONN_S3_HAVEN, AIRFLOW_CONN_S3_WIT"):
        cluster.plan(inside, {}, {"AIRFLOW_CONN_PG_ADMIN": given()["AIRFLOW_CONN_PG_ADMIN"]})
    trial = replace(stack(tmp_path), config=config.load(ROOT / "rempart.yaml"))
    with pytest.raises(StackError, match="postgresql, primary, haven") as refused:
        cluster.in_cluster(trial)
    assert "services.<name>.external" in refused.value.hint


def test_the_databases_script_holds_verifiers_and_no_password(made: dict[str, str]) -> None:
    """The vector is that of RFC 7677; what the server keeps is that of PostgreSQL's own tests."""
    salt = bytes.fromhex("5b6d99689d12358eeca04b14123 6fa81".replace(" ", ""))
    assert managed_databases.verifier("pencil", salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    for variable, value in read(made["prepare.env"]).items():
        if variable.startswith("AIRFLOW_CONN_PG_"):
            assert parse_connection("x", value).password not in made["databases.sql"]
    assert set(re.findall(r"CREATE DATABASE (\w+)", made["databases.sql"])) == set(config.DATABASES)


def test_images_are_built_before_anybody_knows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The how-to builds first: all stores of its rempart.yaml are the operator's, and no connection is defined yet."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REMPART_HOME", str(project()))
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "-C", ROOT, "images", "CLUSTER=yes"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (command,) = [line for line in planned.splitlines() if line.startswith(".venv/bin/rempart stack init")]
    settings = tmp_path / ".env"
    done = CliRunner().invoke(app, [*command.split()[1:], "--settings", str(settings)])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "compose"
    assert read_env_file(settings)["REMPART_FILES"] == str(folder)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    read = {secret["source"] for secret in compose["x-build"]["secrets"]}
    assert {file.name for file in folder.iterdir()} == read
    assert "make images CLUSTER=yes" in PAGE
