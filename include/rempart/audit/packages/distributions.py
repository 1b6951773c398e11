"""Compare a project's lock with the installed environment, for the bill of materials and the licences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution
from pathlib import Path

from rempart.audit import licences, lock
from rempart.audit.licences import Licence, Review
from rempart.audit.lock import Locked
from rempart.audit.packages import installed
from rempart.errors import AuditError


@dataclass(frozen=True)
class Distributions:
    """A project's lock and the distributions installed in this environment."""

    root: Path

    @cached_property
    def locked(self) -> tuple[Locked, ...]:
        return lock.read(read_text(self.root / "requirements.txt"))

    @cached_property
    def installed(self) -> dict[str, Distribution]:
        return installed.by_name()

    @cached_property
    def review(self) -> Review:
        return licences.read_review(self.root / "include" / "licences.yaml")

    @cached_property
    def licences(self) -> tuple[Licence, ...]:
        metadata = {
            locked.name: installed.licence_metadata(self.installed[locked.name])
            for locked in self.locked
            if locked.name in self.installed
        }
        return tuple(licences.licence_of(locked, metadata, self.review) for locked in self.locked)

    @cached_property
    def unlocked(self) -> dict[str, str]:
        """Return installed packages that no lock names, with their versions."""
        return self._differences[1]

    @cached_property
    def differing(self) -> dict[str, str]:
        """Return packages installed in another version than locked."""
        return self._differences[0]

    @cached_property
    def _differences(self) -> tuple[dict[str, str], dict[str, str]]:
        development = self.root / "requirements-dev.txt"
        locks = [self.locked, *([lock.read(read_text(development))] if development.is_file() else [])]
        return lock.differences({name: distribution.version for name, distribution in self.installed.items()}, *locks)

    @cached_property
    def inside(self) -> tuple[str, ...]:
        """Return programs inside locked distributions, with version and distribution."""
        names = {locked.name for locked in self.locked}
        bundled = [(name, part) for name, parts in self.review.bundled.items() if name in names for part in parts]
        return tuple(f"{part.name} {part.version} ({name})" for name, part in bundled)

    @cached_property
    def native_libraries(self) -> int:
        """Return native libraries in the installed wheels of the lock."""
        names = {locked.name for locked in self.locked}
        return sum(
            installed.native_libraries(distribution) for name, distribution in self.installed.items() if name in names
        )


def read_text(file: Path) -> str:
    """Return the text of a project file. Raises AuditError."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as cause:
        raise AuditError(f"read {file}: {cause.strerror}", "Run the audit in the project's folder.") from cause
