"""Check the types of a connection's fields: a JSON value may be a number where text is needed."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.errors import ConfigError

TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey")
"""Settings of libpq that a connection to PostgreSQL may have in its extra."""
_TEXT = ("conn_type", "host", "login", "password", "schema")
_TEXT_OF_EXTRA = (
    *("endpoint_url", "region_name", "addressing_style", "ca_bundle", "aws_session_token", "session_until"),
    *TLS,
)
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}


def check(name: str, fields: Mapping[str, object], port: object, extra: object) -> None:
    """Check the fields of connection `name`. Raises ConfigError, which names the field and never its value."""
    for field in _TEXT:
        _check_text(name, field, fields[field])
    if isinstance(port, bool) or not isinstance(port, int | str | None):
        raise _wrong(name, "port", port, "a number", '"port": 5432')
    if not isinstance(extra, Mapping):
        raise _wrong(name, "extra", extra, "an object", '"extra": {"endpoint_url": "https://..."}')
    for field in _TEXT_OF_EXTRA:
        if extra.get(field) is not None:
            _check_text(name, f"extra.{field}", extra[field])


def _check_text(name: str, field: str, value: object) -> None:
    if not isinstance(value, str):
        raise _wrong(name, field, value, "text", f'"{field.rpartition(".")[2]}": "..."')


def _wrong(name: str, field: str, value: object, wanted: str, example: str) -> ConfigError:
    return ConfigError(
        f"Connection '{name}': {field} is {_KINDS.get(type(value), 'of another type')}, and not {wanted}",
        f"Write it as {wanted} ({example}) in AIRFLOW_CONN_{name.upper()}, or in the backend that has the connection.",
    )
