"""Check for each database that a backup can read it: connect with PostgreSQL's programs and the backup role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rempart.backup.databases.postgresql import Tools, find_tools, for_database
from rempart.errors import RempartError
from rempart.settings.config import DATABASES, Connection


@dataclass(frozen=True)
class Tried:
    """One database: whether a backup can read it, the finding, and the remedy if it cannot."""

    database: str
    ok: bool
    found: str
    remedy: str = ""

    def line(self) -> str:
        text = f"{'ok' if self.ok else 'FAIL':<5} {self.database:<15} {self.found}"
        return f"{text}\n{'':<6}-> {self.remedy}" if self.remedy else text


def look(backup: Connection, tools: Tools | None = None) -> Iterator[Tried]:
    """Check each database in turn without changes, with the backup role. Raises BackupError without client programs."""
    tools = tools or find_tools()
    for name in DATABASES:
        try:
            yield Tried(name, True, tools.check(for_database(backup, name)))
        except RempartError as error:
            yield Tried(name, False, error.what, error.hint)
