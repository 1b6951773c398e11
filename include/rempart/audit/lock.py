"""The lock (requirements.txt) as data: every pinned distribution, its hashes, and who asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from rempart.errors import AuditError

_REMEDY = "Write the lock again with `make lock`."


@dataclass(frozen=True)
class Locked:
    """One line of the lock. `asked_by` holds canonical names; empty for what requirements.in names itself."""

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()
    asked_by: tuple[str, ...] = ()
    direct: bool = False

    @property
    def reference(self) -> str:
        """Return the name of this line in a bill of materials."""
        return f"pkg:pypi/{self.name}@{self.version}"


def read(text: str) -> tuple[Locked, ...]:
    """Return the lines of a lock written by `uv pip compile --generate-hashes`. Raises AuditError for anything else."""
    found: list[Locked] = []
    for block in re.split(r"\n(?=\S)", text):
        head, *rest = block.splitlines() or [""]
        if not head.strip() or head.startswith("#"):
            continue
        found.append(_locked(head.removesuffix("\\").strip(), [line.strip() for line in rest]))
    return tuple(sorted(found, key=lambda locked: (locked.name, locked.version)))


def _locked(head: str, rest: list[str]) -> Locked:
    try:
        requirement = Requirement(head)
    except InvalidRequirement as cause:
        raise AuditError(f"read the lock: this line pins no version: {head[:80]}", _REMEDY) from cause
    pins = [specifier.version for specifier in requirement.specifier if specifier.operator == "=="]
    hashes = tuple(sorted(match[1] for line in rest if (match := re.search(r"--hash=sha256:([0-9a-f]{64})", line))))
    if len(pins) != 1 or not hashes:
        raise AuditError(f"read the lock: {requirement.name} is not pinned to one version with SHA-256", _REMEDY)
    comments = [line.lstrip("# ") for line in rest if line.startswith("#")]
    askers = [line.removeprefix("via").strip() for line in comments]
    return Locked(
        canonicalize_name(requirement.name),
        pins[0],
        str(requirement.marker or ""),
        hashes,
        tuple(sorted({canonicalize_name(asker) for asker in askers if asker and not asker.startswith("-")})),
        any(asker.startswith("-r") for asker in askers),
    )


def differences(installed: Mapping[str, str], *locks: Iterable[Locked]) -> tuple[dict[str, str], dict[str, str]]:
    """Return packages installed in other versions than locked, and packages missing in the lock: both from name to
    installed version.
    """
    pinned: dict[str, set[str]] = {}
    for lock in locks:
        for locked in lock:
            pinned.setdefault(locked.name, set()).add(locked.version)
    other = {name: version for name, version in installed.items() if name in pinned and version not in pinned[name]}
    return other, {name: version for name, version in installed.items() if name not in pinned}
