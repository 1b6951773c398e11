"""One Spark session for all tests of this folder, which run under the interpreter of .venv-spark."""

from __future__ import annotations

import os
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

# each Java of these tests compiles once, quickly: what it saves by compiling again takes longer than the tests
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A session with two tasks at a time in this process, configured as that of a job, but for few rows.

    Compiling each statement takes longer than a few hundred rows do.
    """
    with tempfile.TemporaryDirectory(prefix="rempart-spark-") as folder:
        resources = SparkResources(executors=1, cores=1, memory=1024, driver_memory=1024)
        settings = session.configuration(resources, Path(folder), secrets.token_hex(32), master="local[2]")
        few = {
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.adaptive.enabled": "false",  # it plans each stage again
        }
        with session.started(settings | few, Path(folder)) as opened:
            yield opened
