"""Read and write var/upgrade.json: an unfinished upgrade, and the data that the way back needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rempart import private_files
from rempart.deployment.embedded.release import Release
from rempart.deployment.setup.paths import Stack
from rempart.errors import UpgradeError

Outcome = Literal["", "upgraded", "back"]


@dataclass(frozen=True)
class BegunUpgrade:
    """One upgrade. `point` is its restore point at site `site`.

    `migrates`: the databases that the previous release cannot use after the upgrade. `outcome`: empty until the
    upgrade, or the return, is verified. `champions`, `ledger_head` and `dags` describe the platform before.
    """

    point: str
    site: str
    before: Release
    migrates: tuple[str, ...]
    champions: Mapping[str, str]
    ledger_head: tuple[int, str | None]
    dags: tuple[str, ...]
    began: str
    outcome: Outcome = ""


def _file(stack: Stack) -> Path:
    return stack.var / "upgrade.json"


def write(stack: Stack, begun: BegunUpgrade) -> None:
    plain = asdict(begun)
    plain["before"]["root"] = str(begun.before.root)
    private_files.write(_file(stack), json.dumps(plain, indent=2) + "\n")


def read(stack: Stack) -> BegunUpgrade | None:
    """Return the newest upgrade of this stack, or None. Raises UpgradeError."""
    if not _file(stack).is_file():
        return None
    try:
        plain = json.loads(_file(stack).read_text(encoding="utf-8"))
        plain["before"] = Release(**{**plain["before"], "root": Path(plain["before"]["root"])})
        for name in ("migrates", "ledger_head", "dags"):
            plain[name] = tuple(plain[name])
        return BegunUpgrade(**plain)
    except (ValueError, TypeError, KeyError) as cause:
        raise UpgradeError(
            f"{_file(stack)} cannot be read ({type(cause).__name__})",
            "Follow docs/runbooks/upgrade-failed.md, 'Without this release'.",
        ) from cause
