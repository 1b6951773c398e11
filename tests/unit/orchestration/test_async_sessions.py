"""Airflow's asynchronous sessions trust PostgreSQL as libpq does with the same URL."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from bench.outside import make_pair
from rempart.orchestration.async_sessions import connect_args

URL = "postgresql+psycopg://airflow:secret@db.acme.example:5432/airflow"


def context(url: str) -> ssl.SSLContext:
    found: Any = connect_args(url)["ssl"]
    assert isinstance(found, ssl.SSLContext)
    return found


@pytest.mark.parametrize(
    ("query", "given"),
    [("", {}), ("?sslmode=require", {"ssl": "require"}), ("?sslmode=prefer", {"ssl": "prefer"})],
)
def test_without_a_certificate_to_verify_the_mode_is_handed_on(query: str, given: dict[str, str]) -> None:
    assert connect_args(URL + query) == given


@pytest.mark.parametrize(("mode", "name"), [("verify-full", True), ("verify-ca", False), ("require", False)])
def test_a_root_certificate_verifies_the_server(tmp_path: Path, mode: str, name: bool) -> None:
    """libpq takes `require` with a root certificate for `verify-ca`."""
    authority = make_pair(tmp_path, "db.acme.example").certificate
    found = context(f"{URL}?sslmode={mode}&sslrootcert={authority}")
    assert found.verify_mode == ssl.CERT_REQUIRED and found.check_hostname is name
    assert len(found.get_ca_certs()) == 1


def test_the_authorities_of_the_machine_are_no_file() -> None:
    """`sslrootcert=system` is libpq's word for them. A file of that name would stop every process of Airflow."""
    found = context(f"{URL}?sslmode=verify-full&sslrootcert=system")
    assert found.verify_mode == ssl.CERT_REQUIRED and found.check_hostname


def test_a_root_certificate_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        connect_args(f"{URL}?sslmode=verify-full&sslrootcert={tmp_path / 'none.pem'}")
