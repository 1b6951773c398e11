"""One Spark session for all tests of this folder, which run under the interpreter of .venv-spark."""

from __future__ import annotations

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
    """A session with two tasks at a time in this process, configured as that of a job."""
    with tempfile.TemporaryDirectory(prefix="rempart-spark-") as folder:
        resources = SparkResources(executors=1, cores=1, memory=1024, driver_memory=1024)
        with session.opened(resources, Path(folder), master="local[2]") as opened:
            yield opened
