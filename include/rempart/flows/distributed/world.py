"""What the work of a Spark job stands on in the driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rempart.sites.port import Site


class Progress(Protocol):
    """Tells a stage of the job as one line on standard output, with counts and never a value of a row."""

    def __call__(self, stage: str, /, **facts: Any) -> None: ...


@dataclass(frozen=True)
class World:
    """The site of the order, opened in the driver; a folder of the job's own for files; and where progress is told."""

    site: Site
    work: Path
    progress: Progress
