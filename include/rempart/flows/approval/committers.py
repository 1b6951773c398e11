"""Write `include/authors.json`: the last committer of each pipeline file and trainer, from git, by number."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from rempart.errors import AccessError
from rempart.flows.shared.authors import FILE, sha256
from rempart.settings.config import project_root


def parsed(given: Iterable[str]) -> dict[str, int]:
    """Return the number of each committer by e-mail, from `e-mail=number`. Raises AccessError."""
    found: dict[str, int] = {}
    for entry in given:
        email, _, number = entry.rpartition("=")
        if not email or not number.isdigit() or int(number) < 1:
            raise AccessError(
                f"read a committer: '{entry}' is not of the form e-mail=number",
                "Take the number from `rempart users list`: --is marie@example.eu=3.",
            )
        found[email.strip().lower()] = int(number)
    return found


def write(committers: Mapping[str, int]) -> dict[str, int | None]:
    """Write the file, and return each file's last committer by number, None if unknown. Raises AccessError."""
    root = project_root()
    files = sorted(
        path.relative_to(root).as_posix()
        for folder, ending in (("pipelines", "*.yaml"), ("trainers", "**/*.py"))
        for path in (root / "include" / folder).glob(ending)
    )
    found = {file: committers.get(_committer(root, file)) for file in files}
    entries = {
        file: {"sha256": sha256(root / file), "user": number} for file, number in found.items() if number is not None
    }
    (root / FILE).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return found


def _committer(root: Path, file: str) -> str:
    """Return the e-mail of the author of a file's last commit; empty if it was changed since, or never committed."""
    if _git(root, "status", "--porcelain", "--", file):
        return ""
    return _git(root, "log", "-1", "--format=%ae", "--", file).lower()


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        raise AccessError(
            f"ask git who changed the files of {root}: it did not answer",
            "Run the command in a checkout with its history, where git is installed.",
        ) from None
    return done.stdout.strip()
