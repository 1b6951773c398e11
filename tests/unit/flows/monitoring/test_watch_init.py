"""`rempart watch init`: a file that the watch accepts unchanged, with the platform's objectives and no secret."""

from __future__ import annotations

import base64
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from rempart.errors import ConfigError
from rempart.flows.monitoring import watch_file, watch_init
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import signer
from rempart.settings.config import Connection
from rempart.settings.sections import PointInTime
from tests import switchovers

SEED = bytes(31) + b"9"


def connections(name: str) -> Connection:
    if name == "ledger_key":
        return Connection(name, "ledger", password=base64.b64encode(SEED).decode())
    extra = {"endpoint_url": "http://127.0.0.1:8433", "region_name": "local-2"}
    return Connection(name, "aws", login="login-secret", password="password-secret", extra=extra)


@pytest.fixture
def platform() -> Platform:
    return dataclasses.replace(switchovers.in_memory(), connections=connections)


def test_the_file_has_what_the_platform_promised_and_no_secret(platform: Platform, tmp_path: Path) -> None:
    file = watch_init.write(platform, tmp_path / "watch.yaml")
    made, text = watch_file.load(file), file.read_text()
    assert (made.site.name, made.site.endpoint, made.site.region) == ("haven", "http://127.0.0.1:8433", "local-2")
    assert made.public_keys() == [signer(SEED).public]
    limits = made.limits()
    assert (limits["backup"].max_interval, limits["backup"].rpo) == (timedelta(hours=1), timedelta(hours=1))
    assert limits["replication/primary-haven"].lag == timedelta(minutes=15)
    assert limits["drill"].max_interval == timedelta(days=8) and made.alerts == {}
    assert "secret" not in text.replace("secret_key_env", "").replace("No secret", "") and "s3_watch_haven" in text
    assert base64.b64encode(SEED).decode() not in text


def test_the_archive_of_wal_is_watched_where_it_is_on(platform: Platform, tmp_path: Path) -> None:
    backup = platform.config.backup.model_copy(update={"point_in_time": PointInTime()})
    on = dataclasses.replace(platform, config=platform.config.model_copy(update={"backup": backup}))
    limit = watch_file.load(watch_init.write(on, tmp_path / "watch.yaml")).limits()["wal"]
    assert limit.max_interval == limit.lag == timedelta(minutes=15)
    assert "wal" not in watch_file.load(watch_init.write(platform, tmp_path / "off.yaml")).limits()


def test_the_examples_of_alerts_in_it_are_valid(platform: Platform, tmp_path: Path) -> None:
    file = watch_init.write(platform, tmp_path / "watch.yaml")
    file.write_text(file.read_text().replace("alerts: {}", "alerts:").replace("\n#  ", "\n  "))
    assert {alert.by for alert in watch_file.load(file).alerts.values()} == {"webhook", "mail"}


def test_nothing_is_red_while_the_next_backup_runs(platform: Platform) -> None:
    slow = platform.config.backup.model_copy(update={"every": timedelta(hours=2)})
    assert watch_init.limits(platform.config.model_copy(update={"backup": slow}))["backup"]["max_interval"] == "4h"


def test_a_file_that_is_there_is_kept(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "watch.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        watch_init.write(platform, tmp_path / "watch.yaml")
    assert (tmp_path / "watch.yaml").read_text() == "mine"


@pytest.mark.parametrize(("length", "text"), [(60, "1m"), (90, "90s"), (3600, "1h"), (8 * 86400, "8d"), (0, "0d")])
def test_durations_are_written_as_the_file_reads_them(length: int, text: str) -> None:
    assert watch_file.text_of(timedelta(seconds=length)) == text
