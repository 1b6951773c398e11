"""A field of a connection that has another type than it needs is refused by name, and its value is not quoted."""

from __future__ import annotations

import json

import pytest

from rempart.errors import ConfigError, SiteError
from rempart.settings.config import Connection, parse_connection
from rempart.sites.s3.client import open_client


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"extra": {"endpoint_url": 9000}}, "extra.endpoint_url is a number, and not text"),
        ({"extra": {"region_name": ["fr"]}}, "extra.region_name is a list"),
        ({"extra": {"sslmode": True}}, "extra.sslmode is true or false"),
        ({"extra": ["endpoint_url"]}, "extra is a list, and not an object"),
        ({"extra": '"text"'}, "extra is text, and not an object"),
        ({"login": 123456}, "login is a number"),
        ({"password": {"secret": 123456}}, "password is an object"),
        ({"host": 127.001}, "host is a number"),
        ({"port": [5432]}, "port is a list, and not a number"),
    ],
)
def test_a_field_of_another_type_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_connection("s3_primary", json.dumps({"conn_type": "aws", **given}))
    assert refused.value.what.startswith(f"Connection 's3_primary': {told}")
    assert "AIRFLOW_CONN_S3_PRIMARY" in refused.value.hint
    assert "123456" not in str(refused.value)


def test_a_field_that_is_null_is_absent_and_a_port_may_be_text() -> None:
    text = '{"conn_type": "aws", "port": "9000", "extra": {"endpoint_url": null, "verify": false}}'
    assert parse_connection("s3_primary", text).port == "9000"


def test_an_endpoint_without_a_scheme_is_refused() -> None:
    connection = Connection("s3_primary", "aws", extra={"endpoint_url": "s3.example:9000"})
    with pytest.raises(SiteError, match="endpoint of connection 's3_primary' is no address"):
        open_client("primary", connection, "eu")
