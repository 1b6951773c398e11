"""What a session is opened with: no page, no log of values, nothing unauthenticated, no secret where others read."""

import socket
import stat
from pathlib import Path

import pytest

from rempart.errors import SparkError
from rempart.settings.pipeline_sections import SparkResources
from rempart.spark import session

RESOURCES = SparkResources(executors=3, cores=2, memory=1500, driver_memory=900)


def test_every_connection_proves_the_secret_and_is_encrypted(tmp_path: Path) -> None:
    settings = session.configuration(RESOURCES, tmp_path, "s" * 64)
    assert settings["spark.authenticate"] == settings["spark.network.crypto.enabled"] == "true"
    assert (
        settings["spark.io.encryption.enabled"] == "true" and settings["spark.network.crypto.saslFallback"] == "false"
    )
    assert settings["spark.driver.bindAddress"] == settings["spark.driver.host"] == "127.0.0.1"
    assert settings["spark.ui.enabled"] == settings["spark.eventLog.enabled"] == "false"
    assert settings["spark.sql.variable.substitute"] == "false"  # no variable of the process stands in a text
    assert not [name for name in settings if name.startswith(("spark.jars.packages", "spark.jars.repositories"))]


def test_memory_and_tasks_are_those_that_the_pipeline_file_names(tmp_path: Path) -> None:
    settings = session.configuration(RESOURCES, tmp_path, "s")
    assert settings["spark.master"] == "local-cluster[3,2,1500]"
    assert settings["spark.executor.memory"] == "1500m" and settings["spark.driver.memory"] == "900m"
    places = [value for name, value in settings.items() if name.endswith((".dir", ".ivy"))]
    assert places and all(value.startswith(str(tmp_path)) for value in places)


def test_what_spark_reads_is_for_its_owner_alone_and_its_log_says_nothing(tmp_path: Path) -> None:
    home, work = tmp_path / "installed", tmp_path / "work"
    (home / "bin").mkdir(parents=True)
    session.prepare(session.configuration(RESOURCES, work, "s" * 64), work, home)
    file = work / "conf" / "spark-defaults.conf"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(work.stat().st_mode) == 0o700
    assert f"spark.authenticate.secret {'s' * 64}\n" in file.read_text()
    assert "rootLogger.level = off" in (work / "conf" / "log4j2.properties").read_text()
    assert (work / "home" / "bin").resolve() == home / "bin"


def test_no_value_can_add_a_setting() -> None:
    with pytest.raises(SparkError, match=r"spark\.local\.dir has a line end"):
        session.properties({"spark.local.dir": "/x\nspark.authenticate false"})


def test_java_asks_no_name_server_for_the_name_of_its_machine(tmp_path: Path) -> None:
    settings = session.configuration(RESOURCES, tmp_path / "work", "s")
    session.prepare(settings, tmp_path / "work", tmp_path)
    names = tmp_path / "work" / "conf" / "hosts"
    assert names.read_text().splitlines() == [f"127.0.0.1 {name}" for name in ("localhost", socket.gethostname())]
    for part in ("driver", "executor"):
        assert f"-Djdk.net.hosts.file={names}" in settings[f"spark.{part}.extraJavaOptions"]
