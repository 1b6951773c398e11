"""Read rows of one table directly from a dump, without a database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rempart.backup.databases.postgresql import Tools, first_error
from rempart.backup.databases.processes import Messages, ending, start
from rempart.errors import BackupError

_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
Row = Mapping[str, str | None]


def rows(tools: Tools, file: Path, table: str) -> list[Row]:
    """Yield every row of a table in PostgreSQL's custom format, values as text. Raises BackupError."""
    command = [str(tools.folder / "pg_restore"), "--data-only", f"--table={table}", "--file=-", str(file)]
    with ending(start(command, {"LC_ALL": "C"})) as process:
        stderr, told = Messages(process.stderr), process.stdout
        assert told is not None  # noqa: S101 - it was started with a pipe
        with told:
            found = list(copied(line.decode("utf-8", "replace").rstrip("\n") for line in told))
        messages = "\n".join(stderr.end())
        if process.wait() != 0:
            raise BackupError(
                f"read table {table} from its dump: {first_error(messages)}", "Choose another restore point."
            )
    return found


def copied(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of COPY statements as pg_restore writes them."""
    columns: list[str] | None = None
    for line in lines:
        if columns is None:
            if begun := re.fullmatch(r"COPY .*? \((.*)\) FROM stdin;", line):
                columns = [name.strip().strip('"') for name in begun[1].split(",")]
        elif line == r"\.":
            columns = None
        else:
            yield dict(zip(columns, map(_value, line.split("\t")), strict=True))


def _value(text: str) -> str | None:
    if text == r"\N":
        return None
    return re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), text)
