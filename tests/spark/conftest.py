"""One Spark session for all tests of this folder, which run under the interpreter of .venv-spark."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rempart.settings.pipeline_sections import SparkResources
from rempart.spark import session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A session with two tasks at a time in this process, configured as that of a job, but for few rows.

    Compiling each statement, and compiling Java once more, takes longer than a few hundred rows do.
    """
    with tempfile.TemporaryDirectory(prefix="rempart-spark-") as folder:
        resources = SparkResources(executors=1, cores=1, memory=1024, driver_memory=1024)
        settings = session.configuration(resources, Path(folder), secrets.token_hex(32), master="local[2]")
        settings["spark.driver.extraJavaOptions"] += " -XX:TieredStopAtLevel=1"
        few = {"spark.sql.shuffle.partitions": "2", "spark.sql.codegen.wholeStage": "false"}
        with session.started(settings | few, Path(folder)) as opened:
            yield opened
