"""Find the environment in which Spark jobs of this machine run."""

from __future__ import annotations

from pathlib import Path

from rempart.errors import SparkError
from rempart.settings.config import project_root

FOLDER = ".venv-spark"


def python() -> Path:
    """Return the interpreter of the environment of Spark. Raises SparkError if it is not installed."""
    folder = project_root() / FOLDER
    if not (folder / "rempart-installed").is_file():
        raise SparkError(
            f"engine: spark: there is no environment for Spark on this machine ({FOLDER})",
            "Run `make setup-spark`, or set `engine: duckdb` in the pipeline file.",
        )
    return folder / "bin" / "python"
