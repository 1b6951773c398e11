"""Why a job failed is said by class, remedy and place, and never by a message that quotes a row."""

import pytest

from rempart.errors import IntegrityError, SiteUnavailable, SparkError, SparkInterrupted
from rempart.spark.failures import cause

WORKER = """An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "/x/rempart/sites/s3/reader.py", line 3, in read
rempart.errors.{}
  More: docs/reference/errors.md

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator"""


def test_an_error_of_an_executor_is_the_one_that_was_raised_there() -> None:
    found = cause(RuntimeError(WORKER.format("IntegrityError: read lake/x: bytes differ\n  What to do: Run again.")))
    assert (
        isinstance(found, IntegrityError) and found.what == "read lake/x: bytes differ" and found.hint == "Run again."
    )
    waits = cause(RuntimeError(WORKER.format("SiteUnavailable: no answer\n  What to do: Wait.")))
    assert isinstance(waits, SiteUnavailable) and waits.transient


def test_a_message_of_spark_is_not_passed_on() -> None:
    text = '[CAST_INVALID_INPUT] The value \'Jeanne Martin\' of the type "STRING" cannot be cast to "BIGINT"'
    found = cause(ValueError(text))
    assert type(found) is SparkError and "Jeanne" not in str(found) and "CAST_INVALID_INPUT" in found.what


@pytest.mark.parametrize("text", ["cannot read [MARTIN] as a number", "the row is [MARTIN_1984], of Jeanne"])
def test_a_row_in_brackets_is_no_class(text: str) -> None:
    assert "MARTIN" not in cause(ValueError(text)).what


@pytest.mark.parametrize("name", ["canonical_json", "os", "NoSuchError"])
def test_a_name_in_a_message_that_is_no_error_of_ours_makes_a_plain_one(name: str) -> None:
    assert type(cause(RuntimeError(f"rempart.errors.{name}: x\n  What to do: y\n"))) is SparkError


@pytest.mark.parametrize(
    ("text", "transient", "part"),
    [
        ("Job aborted: ExecutorLostFailure (executor 1 exited)", True, "executors were lost"),
        ("java.lang.OutOfMemoryError: Java heap space", False, "memory"),
        ("java.io.IOException: No space left on device", False, "disk"),
    ],
)
def test_lost_executors_can_be_tried_again_and_too_little_memory_cannot(text: str, transient: bool, part: str) -> None:
    found = cause(RuntimeError(text))
    assert found.transient is transient and part in found.what


def test_a_driver_that_is_gone_can_be_tried_again() -> None:
    assert isinstance(cause(ConnectionRefusedError(111, "refused")), SparkInterrupted)


def test_an_error_of_a_jvm_that_is_gone_by_now_can_be_tried_again() -> None:
    class OfTheJvm(Exception):
        def __str__(self) -> str:
            raise ConnectionRefusedError(111, "refused")

    found = cause(OfTheJvm())
    assert isinstance(found, SparkInterrupted) and "OfTheJvm" in found.what
