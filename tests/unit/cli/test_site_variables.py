"""`rempart site env` gives S3 clients what they need, and nothing that a shell would run."""

from __future__ import annotations

import subprocess

import pytest

from rempart.cli import site_variables
from rempart.errors import ConfigError
from rempart.settings import config
from rempart.settings.config import Connection, project_root


def test_a_shell_takes_the_lines_and_runs_nothing_of_them() -> None:
    secret = "a'b $(touch /tmp/no) \"c"
    connection = Connection(
        "s3", "aws", login="key", password=secret, extra={"endpoint_url": "http://127.0.0.1:8333", "ca_bundle": "/ca x"}
    )
    script = "\n".join([*site_variables.lines(connection, "fr-par"), "env"])
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("AWS_"))
    assert (found["AWS_SECRET_ACCESS_KEY"], found["AWS_ACCESS_KEY_ID"]) == (secret, "key")
    assert (found["AWS_ENDPOINT_URL"], found["AWS_ALLOW_HTTP"]) == ("http://127.0.0.1:8333", "true")
    assert "AWS_SESSION_TOKEN" not in found
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "fr-par" and found["AWS_CA_BUNDLE"] == "/ca x"


def test_an_address_with_tls_allows_no_other() -> None:
    connection = Connection("s3", "aws", extra={"endpoint_url": "https://s3.acme.example", "region_name": "x"})
    told = "\n".join(site_variables.lines(connection, "fr-par"))
    assert "AWS_ALLOW_HTTP" not in told and "AWS_CA_BUNDLE" not in told and "export AWS_REGION=x" in told


def test_an_unknown_site_is_answered_with_the_one_that_may_be_meant() -> None:
    loaded = config.load(project_root() / "rempart.yaml")
    with pytest.raises(ConfigError) as error:
        site_variables.chosen(loaded, "primry")
    assert error.value.hint == "Did you mean primary?"
    with pytest.raises(ConfigError, match="is not in rempart"):
        site_variables.chosen(loaded, "xyz")
