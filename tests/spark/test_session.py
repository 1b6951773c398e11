"""A session of a job on real Spark: its addresses, its numbers, and its errors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rempart.errors import IntegrityError
from rempart.flows.distributed import job
from rempart.settings.pipeline_sections import SparkResources
from rempart.spark import failures, watch
from rempart.spark.order import code_version

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

LISTENING = "0A"


def _children(process: int) -> Iterator[int]:
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        yield int(child)
        yield from _children(int(child))


def _listening(process: int) -> set[str]:
    """The addresses, as the kernel writes them, on which a process listens."""
    sockets = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}
    found = set[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def test_the_session_listens_to_this_machine_alone_and_shows_no_page(spark: SparkSession) -> None:
    addresses = set[str]().union(*(_listening(child) for child in _children(os.getpid())))
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses and addresses <= loopback
    assert spark.sparkContext.uiWebUrl is None
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


def test_the_doctor_s_probe_finds_spark_and_java_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["--probe", code_version()]) == 0
    assert '"stage": "ready"' in capsys.readouterr().out


def test_the_job_s_secret_is_on_no_command_line(spark: SparkSession) -> None:
    secret = (spark.sparkContext.getConf().get("spark.authenticate.secret") or "").encode()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in _children(os.getpid())]
    assert len(secret) == 64 and commands and not any(secret in command for command in commands)


def test_an_error_in_an_executor_keeps_its_class_and_a_value_is_not_told(
    spark: SparkSession, capfd: pytest.CaptureFixture[str]
) -> None:
    def damaged(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            raise IntegrityError("read lake/x: bytes differ", "Run again.")
        yield from ()

    with pytest.raises(Exception, match="IntegrityError") as raised:
        spark.range(3).mapInArrow(damaged, "id long").collect()
    found = failures.cause(raised.value)
    assert isinstance(found, IntegrityError) and found.what == "read lake/x: bytes differ"
    with pytest.raises(Exception, match="CAST_INVALID_INPUT") as wrong:
        spark.sql("SELECT CAST(concat('Jeanne', id) AS INT) FROM range(3)").collect()
    assert "Jeanne" not in str(failures.cause(wrong.value))
    assert "Jeanne" not in "".join(capfd.readouterr())


def test_the_numbers_of_stages_are_told_and_add_up(spark: SparkSession) -> None:
    lines: list[str] = []
    with watch.watching(spark, lambda stage, **facts: lines.append(stage)) as seen:
        spark.range(0, 10_000, 1, 3).repartition(5).selectExpr("count(*)").collect()
    used = seen.usage(SparkResources())
    assert used.tasks >= 8 and used.failed_tasks == 0 and used.shuffled > 0
    assert seen.told()["moved_rows"] >= 10_000
