"""Surroundings of a Spark job's work in the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rempart.sites.port import Site

Progress = Callable[..., None]
"""Tells a stage of the job as one line on standard output: its name, and facts by keyword, never a value of a row."""


@dataclass(frozen=True)
class World:
    """The site of the order, opened in the driver; a folder of the job's own for files; and where progress is told."""

    site: Site
    work: Path
    progress: Progress
