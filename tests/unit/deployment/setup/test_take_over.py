"""A restored platform's secrets become the stack's own, and never silently replace others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rempart.deployment.setup import credentials, paths
from rempart.errors import StackError
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[4]


def make(var: Path, offset: int = 0) -> paths.Stack:
    return paths.Stack(ROOT, var / "var", config.load(ROOT / "rempart.yaml"), offset)


@pytest.fixture
def point(tmp_path: Path) -> dict[str, str]:
    """The secrets of a platform that is gone."""
    return credentials.plan(make(tmp_path / "gone"), {}, credentials.new_token, credentials.new_fernet_key)


def test_on_a_bare_machine_they_are_written_for_their_owner_alone_and_stay(
    tmp_path: Path, point: dict[str, str]
) -> None:
    stack = make(tmp_path, 100)
    assert credentials.take_over(stack, point)
    assert stack.secrets.stat().st_mode & 0o777 == 0o600
    ensured = credentials.ensure(stack)  # as `up` does: places move, secrets do not
    assert not credentials.others(ensured, point)
    assert (
        json.loads(ensured["AIRFLOW_CONN_PG_AIRFLOW"])["port"] != json.loads(point["AIRFLOW_CONN_PG_AIRFLOW"])["port"]
    )
    assert not credentials.take_over(stack, point)  # a run that goes on
    assert credentials.ensure(stack) == ensured


def test_other_secrets_are_not_replaced_and_the_error_quotes_none(tmp_path: Path, point: dict[str, str]) -> None:
    stack = make(tmp_path)
    stack.prepare()
    before = credentials.ensure(stack)
    with pytest.raises(StackError, match="holds other secrets than the restore point: AIRFLOW_CONN_AIRFLOW_API") as no:
        credentials.take_over(stack, point)
    for secrets in (before, point):
        assert not [v for v in secrets.values() if v in str(no.value) or json_password(v) in str(no.value)]
    assert config.read_env_file(stack.secrets) == before


def json_password(value: str) -> str:
    return str(json.loads(value)["password"]) if value.startswith("{") else value


def test_who_insists_gets_them_but_the_servers_own_password_stays_where_a_server_is(
    tmp_path: Path, point: dict[str, str]
) -> None:
    stack = make(tmp_path)
    stack.prepare()
    before = credentials.ensure(stack)
    stack.postgresql_data.mkdir(parents=True)
    (stack.postgresql_data / "PG_VERSION").write_text("18\n")
    assert credentials.take_over(stack, point, replace=True)
    now = config.read_env_file(stack.secrets)
    assert now["REMPART_POSTGRESQL_PASSWORD"] == before["REMPART_POSTGRESQL_PASSWORD"]
    assert credentials.others(now, point) == ["REMPART_POSTGRESQL_PASSWORD"]
