"""How an executor starts in its pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.errors import SparkError
from rempart.spark.kubernetes import executor, pods

VARIABLES = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.1.2.3:7078",
    "SPARK_EXECUTOR_ID": "4",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "1500m",
    "SPARK_APPLICATION_ID": "spark-a-1",
    "SPARK_EXECUTOR_POD_IP": "10.1.2.4",
    "SPARK_EXECUTOR_POD_NAME": "spark-a-1-exec-4",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_JAVA_OPT_10": "-Dspark.authenticate.secret.executor.file=/of/the/driver",
    "SPARK_JAVA_OPT_2": "-Dspark.authenticate=true",
    pods.SECRET_FILE: "/run/secrets/rempart/secret",
}


def command(variables: dict[str, str]) -> list[str]:
    return executor.command(variables, Path("/java"), Path("/spark"), Path("/work/executor"))


def test_its_options_keep_their_order_and_its_own_come_last() -> None:
    line = command(VARIABLES)
    options = line[1 : line.index("-cp")]
    assert line[0] == "/java/bin/java" and options[:2] == [
        VARIABLES["SPARK_JAVA_OPT_2"],
        VARIABLES["SPARK_JAVA_OPT_10"],
    ]
    # Java takes the last of several values of a property
    told = dict(option.removeprefix("-D").split("=") for option in options if option.startswith("-Dspark."))
    assert told["spark.authenticate.secret.executor.file"] == VARIABLES[pods.SECRET_FILE]
    # before it has the driver's configuration, Spark reads the file of this name, and only under such a master
    assert told["spark.authenticate.secret.file"] == VARIABLES[pods.SECRET_FILE]
    assert told["spark.master"].startswith("k8s://") and "-Xmx1500m" in options


def test_it_tells_the_driver_who_it_is_and_logs_by_its_own_configuration() -> None:
    line = command(VARIABLES)
    assert line[line.index("-cp") + 1].split(":")[0] == "/work/executor"
    given = line[line.index(executor.BACKEND) + 1 :]
    told = dict(zip(given[::2], given[1::2], strict=True))
    assert told["--driver-url"] == VARIABLES["SPARK_DRIVER_URL"] and told["--hostname"] == "10.1.2.4"
    assert told["--executor-id"] == "4" and told["--podName"] == "spark-a-1-exec-4"


def test_a_missing_variable_is_said_by_name() -> None:
    with pytest.raises(SparkError, match="SPARK_DRIVER_URL is missing"):
        command({name: value for name, value in VARIABLES.items() if name != "SPARK_DRIVER_URL"})
