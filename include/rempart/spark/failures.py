"""Name the cause of a failed Spark action without quoting its message, which may hold values of rows. Pure."""

from __future__ import annotations

import re

from rempart import errors
from rempart.errors import RempartError, SparkError, SparkInterrupted

_OURS = re.compile(r"rempart\.errors\.(\w+): (.+?)\n\s+What to do: ([^\n]+)", re.DOTALL)
_CLASS = re.compile(
    r"(?:\A|(?:Error|Exception): )\[([A-Z][A-Z0-9]*_[A-Z0-9_]*(?:\.[A-Z0-9_]+)*)\] "
    r"|\b((?:[a-z]\w*\.)+[A-Z]\w*(?:Error|Exception))\b"
)
"""A class of Spark where its message begins, or a class of Java or Python. A row in brackets is no class."""
_LOST = ("ExecutorLostFailure", "Master removed our application", "FetchFailed", "SparkContext was shut down")
"""Parts of messages of Spark that tell that executors, not rows, are the cause."""
_MEMORY = ("OutOfMemoryError", "MemoryError", "exited with exit code 52")
_SPACE = ("No space left on device",)
_RUN_AGAIN = "Run again: what the job stored is used again."


def cause(error: BaseException) -> RempartError:
    """Return the cause of a failed job: an error of an executor as it was raised there, else the class of cause.

    The connection to a JVM that is gone is a lost driver, which a new attempt can mend.
    """
    if isinstance(error, RempartError):
        return error
    kind = type(error).__name__
    try:
        text = str(error)  # asks the JVM, whose error it is
    except Exception as gone:
        return SparkInterrupted(f"run the Spark job: its driver ended ({kind}, {type(gone).__name__})", _RUN_AGAIN)
    if matched := _OURS.search(text):
        return _raised(matched[1], matched[2], matched[3])
    if any(part in text for part in _MEMORY):
        return SparkError(
            "run the Spark job: the memory of an executor or of the driver does not suffice",
            "Raise `spark.memory` or `spark.driver_memory` in the pipeline file, or use more executors.",
        )
    if any(part in text for part in _SPACE):
        return SparkError(
            "run the Spark job: the disk for what does not fit in memory is full",
            "Make space in the folder for temporary files, or raise `spark.memory` in the pipeline file.",
        )
    if any(part in text for part in _LOST):
        return SparkInterrupted("run the Spark job: executors were lost too often", _RUN_AGAIN)
    if kind in ("Py4JNetworkError", "ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError"):
        return SparkInterrupted(f"run the Spark job: its driver ended ({kind})", _RUN_AGAIN)
    named = ", ".join([first or second for first, second in _CLASS.findall(text)][:3])
    return SparkError(
        f"run the Spark job: it failed with {kind}{f' ({named})' if named else ''}{_place(error)}",
        "Run again. If it fails again, report it, and use `engine: duckdb` meanwhile.",
    )


def _raised(name: str, what: str, hint: str) -> RempartError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, RempartError):
        return kind(what, hint)
    return SparkError(what, hint)


def _place(error: BaseException) -> str:
    """Return the line of our code that led there, without its text."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/rempart/" in file:
            place = f", in {file.rpartition('/rempart/')[2]}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
