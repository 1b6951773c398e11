"""Store the progress of a restore in one small file, so that a killed run continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rempart import private_files
from rempart.errors import BackupError


@dataclass(frozen=True)
class Progress:
    """One restore of one point. `began` is the start of its first run; `databases` are completely restored.

    `filled`: databases and objects were equal to their record; later erasures may change them. `opened`: the platform
    was started on the restored data, so nothing may be replaced any more. `steps`: seconds of each step, over all runs.
    """

    point: str
    manifest_sha256: str
    began: datetime
    databases: tuple[str, ...] = ()
    opened: bool = False
    steps: Mapping[str, float] = field(default_factory=dict)
    filled: bool = False

    def took(self, step: str, seconds: float) -> Progress:
        return replace(self, steps={**self.steps, step: round(self.steps.get(step, 0.0) + seconds, 3)})


@dataclass(frozen=True)
class Journal:
    """File of a restore. Raises BackupError if unreadable."""

    file: Path

    def read(self, point: str, manifest_sha256: str, now: datetime) -> Progress:
        """Return the progress of this restore; new if the file is missing or belongs to another point."""
        fresh = Progress(point, manifest_sha256, now)
        try:
            plain: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
            found = Progress(
                str(plain["point"]),
                str(plain["manifest_sha256"]),
                datetime.fromisoformat(plain["began"]),
                tuple(map(str, plain["databases"])),
                bool(plain["opened"]),
                {str(name): float(seconds) for name, seconds in plain["steps"].items()},
                bool(plain.get("filled")),
            )
        except FileNotFoundError:
            return fresh
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise BackupError(
                f"read the progress of the restore from {self.file}: it is not valid",
                "Delete the file. The restore then starts again, and skips what is already restored.",
            ) from cause
        return found if (found.point, found.manifest_sha256) == (point, manifest_sha256) else fresh

    def write(self, progress: Progress) -> None:
        """Save the progress atomically."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        plain = {**asdict(progress), "began": progress.began.isoformat()}
        private_files.write(self.file, json.dumps(plain, indent=1) + "\n")

    def end(self) -> None:
        """End the restore. The next restore starts a new journal."""
        self.file.unlink(missing_ok=True)
