"""A job's connections come from one file for its owner alone, and no error quotes it."""

import stat
from pathlib import Path

import pytest

from rempart.errors import ConnectionMissing, PlacementDenied, SparkError
from rempart.settings.config import Connection
from rempart.spark import credentials
from tests.unit.spark.orders import PERMISSION, order

HELD = Connection("s3_primary", "aws", login="key", password="hush-hush", extra={"endpoint_url": "http://127.0.0.1:9"})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "credentials.json"
    credentials.write(place, "t" * 64, {"s3_primary": HELD})
    monkeypatch.setenv(credentials.VARIABLE, str(place))
    return place


def test_the_file_is_for_its_owner_and_gives_back_what_was_written(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = credentials.connection("s3_primary")
    assert (found.login, found.password, found.extra) == (HELD.login, HELD.password, HELD.extra)
    assert credentials.secret() == "t" * 64


def test_a_connection_that_the_job_did_not_get_is_named_without_the_others(file: Path) -> None:
    with pytest.raises(ConnectionMissing, match="'mlflow'") as missing:
        credentials.connection("mlflow")
    assert "hush" not in str(missing.value)


def test_a_file_that_cannot_be_read_is_said_without_its_content(file: Path) -> None:
    file.write_text("hush-hush {")
    with pytest.raises(ConnectionMissing, match="names no file of credentials") as unreadable:
        credentials.secret()
    assert "hush" not in str(unreadable.value)


def test_a_site_opens_only_where_the_order_s_permission_names_its_host(file: Path) -> None:
    assert credentials.site_of(order()).name == "primary"
    elsewhere = PERMISSION.model_copy(update={"hosts": {"primary": ("s3.example.eu",)}})
    with pytest.raises(PlacementDenied, match="not a host that the job's spec allows"):
        credentials.site_of(order(permission=elsewhere))
    with pytest.raises(SparkError, match="no permission of the policy"):
        credentials.site_of(order(permission=None))
