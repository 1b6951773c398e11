"""Ports never collide and move together; a collision in a person's file is reported with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.deployment.setup import paths, preflight
from rempart.errors import ConfigError, StackError
from rempart.settings import config
from rempart.settings.config import Config

SHIPPED = config.load(Path(__file__).resolve().parents[4] / "rempart.yaml")


def with_services(services: dict[str, Any]) -> Config:
    return Config.model_validate(SHIPPED.model_dump() | {"services": services})


@given(st.integers(min_value=0, max_value=39999))
def test_every_service_has_ports_of_its_own_at_any_offset(offset: int) -> None:
    ports = paths.ports_of(SHIPPED, offset)
    assert len(set(ports.values())) == len(ports) == 20
    assert ports == preflight.default_ports(offset)


def test_one_service_moves_alone() -> None:
    ports = paths.ports_of(with_services({"primary": {"port": 28000}, "mlflow": {"port": 5001}}), 10)
    assert ports["primary"] == 28010 and ports["primary master"] == 28011 and ports["mlflow"] == 5011
    assert ports["haven"] == 18443


def test_the_scorer_is_started_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    stack = paths.Stack(tmp_path, tmp_path, SHIPPED, 10)
    assert stack.services[-1] == "scorer" and stack.ports["scorer"] == stack.scorer_port == 18100
    moved = paths.Stack(tmp_path, tmp_path, with_services({"scorer": {"port": 28090}}))
    assert moved.ports["scorer"] == moved.scorer_port == 28090
    without = paths.Stack(tmp_path, tmp_path, with_services({"scorer": {"start": False}}))
    assert "scorer" not in without.services and "scorer" not in without.ports and without.scorer_port == 18090
    for services, told in (
        ({"mlflow": {"start": False}}, r"services\.mlflow\.start: the platform needs it"),
        ({"scorer": {"external": {"url": "http://scorer:1", "connection": "x"}}}, r"services\.scorer\.external"),
        ({"broker": {}}, r"services\.broker: 'broker' is not one of"),
    ):
        with pytest.raises(ValueError, match=told):
            with_services(services)


def test_a_collision_names_both_and_the_key() -> None:
    with pytest.raises(ConfigError, match=r"services\.mlflow\.port: 18335 is wanted for mlflow and for primary"):
        paths.ports_of(with_services({"mlflow": {"port": 18335}}), 0)


def test_a_port_beyond_the_last_is_refused() -> None:
    with pytest.raises(ConfigError, match="REMPART_PORT_OFFSET"):
        paths.ports_of(with_services({"mlflow": {"port": 65000}}), 1000)


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "40000"])
def test_a_wrong_offset_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMPART_PORT_OFFSET", text)
    with pytest.raises(ConfigError, match="0 to 39999"):
        paths.current()


def test_an_external_service_takes_no_port_and_starts_nothing(tmp_path: Path) -> None:
    outside = {"url": "https://mlflow.internal:443", "connection": "mlflow"}
    place = {"operator": "this-machine", "service": "machine", "region": "local"}
    services = {"mlflow": {"external": outside | place}, "haven": {"external": outside}}
    stack = paths.Stack(tmp_path, tmp_path, with_services(services))
    assert "mlflow" not in stack.ports and "haven" not in stack.ports
    assert stack.services[:3] == ["postgresql", "site-primary", "airflow-api-server"]


def test_sockets_fit_into_a_deep_folder_and_are_closed_to_others(tmp_path: Path) -> None:
    stack = paths.Stack(tmp_path, tmp_path / ("deep" * 30) / "var", SHIPPED)
    stack.prepare()
    assert len(str(stack.sockets / "supervisor.sock")) < 100
    assert stack.sockets.stat().st_mode & 0o077 == 0
    stack.sockets.chmod(0o755)
    with pytest.raises(StackError, match="open to others"):
        stack.prepare()
    stack.sockets.rmdir()
