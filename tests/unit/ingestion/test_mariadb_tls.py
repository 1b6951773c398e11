"""libpq's names of TLS modes, for MariaDB's driver."""

from __future__ import annotations

import ssl

import pytest

from rempart.ingestion.sources.mariadb import tls_context
from rempart.settings.config import Connection


@pytest.mark.parametrize(
    ("mode", "checked", "name"),
    [
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_a_mode_checks_what_libpq_checks(mode: str, checked: ssl.VerifyMode, name: bool) -> None:
    context = tls_context(Connection("shop", "mysql", extra={"sslmode": mode}))
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (checked, name)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_other_modes_do_not_insist(mode: str) -> None:
    assert tls_context(Connection("shop", "mysql", extra={"sslmode": mode})) is None
