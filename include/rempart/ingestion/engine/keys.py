"""Find the new rows: the first row of each key that is not known. The engine works on sets, and spills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rempart.engine_connection import EngineConnection
from rempart.ingestion.acceptance import CONFLICT, DUPLICATE
from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow
from rempart.ingestion.engine.database import batches
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.engine.staging import raw_text

ACCEPTED = "accepted"
"""View of the rows to accept: the schema's columns."""
FILE = "_file"
"""Column of known rows that tells from which part they are."""
Relations = Mapping[int, str] | str
"""The staged rows: by a delivery's position the relation (SQL) of its rows; or one relation of all, with `_row`."""
NONE_KNOWN = f"(SELECT *, '' AS {FILE} FROM staged LIMIT 0)"  # noqa: S608 - our own names
"""The relation of known rows where there are none."""
_LINES = 40
"""Bits of a row's number that hold its line; those above hold its delivery."""


@dataclass(frozen=True)
class Repeated:
    """A row whose key is known, or was in an earlier row. `delivery`: position of its file."""

    delivery: int
    row: RefusedRow


@dataclass(frozen=True)
class KeyVerdict:
    """What the keys of the staged rows say, by the position of their delivery.

    `refused`: rows to refuse, and the bytes of their text as received. `replaced`: rows that take the place of a known
    one. `repeated`: good rows that do not count, since an equal or newer row with their key stands. `displaced`:
    files of known rows (as in `FILE`) of which some are replaced.
    """

    refused: Mapping[int, tuple[int, int]]
    replaced: Mapping[int, int] = field(default_factory=dict)
    repeated: Mapping[int, int] = field(default_factory=dict)
    displaced: Sequence[str] = ()


def judge(
    connection: EngineConnection,
    staged: Relations,
    known: str | None,
    columns: Sequence[str],
    key: Sequence[str],
) -> bool:
    """Judge the keys of the staged deliveries, in their order, against known rows; create the view `ACCEPTED`.

    Return whether all rows are accepted. If not, the table `new` has the numbers of those that are.

    `known`: the relation (SQL) of known rows, one per key, with the column `FILE`. A row is accepted if its key is in
    no known row and in no earlier one.
    """
    keys = ", ".join(map(quote, key))
    run = connection.execute
    number(connection, staged)
    run(f"CREATE TEMP TABLE firsts AS SELECT {keys}, min(_row) AS _first FROM staged GROUP BY {keys}")  # noqa: S608
    names = ", ".join(map(quote, columns))
    meet(connection, known or NONE_KNOWN, columns, key)
    # nearly always all rows are new, and nobody asks which: the table of new rows would be as long as the delivery
    all_new: bool = run(
        "SELECT NOT EXISTS (FROM met) AND (SELECT count(*) FROM firsts) = (SELECT count(*) FROM staged)"
    ).fetchall() == [(True,)]
    if not all_new:
        run(f"CREATE TEMP TABLE new AS SELECT _first FROM firsts ANTI JOIN met USING ({keys})")  # noqa: S608
    only = "" if all_new else "SEMI JOIN new ON staged._row = new._first"
    run(f"CREATE VIEW {ACCEPTED} AS SELECT {names} FROM staged {only}")  # noqa: S608
    return all_new


def row_number(delivery: int | str) -> str:
    """Return the SQL of a row's number: of its delivery (a position, or SQL) and its line."""
    return f"((CAST({delivery} AS BIGINT) << {_LINES}) | {LINE})"


def number(connection: EngineConnection, staged: Relations) -> None:
    """Create the view `staged`: the rows of these relations, with a number that is in their order (`_row`)."""
    numbered = (
        f"SELECT * FROM {staged}"  # noqa: S608 - our own names
        if isinstance(staged, str)
        else " UNION ALL ".join(f"SELECT *, {row_number(i)} AS _row FROM {rows}" for i, rows in staged.items())  # noqa: S608
    )
    connection.execute(f"CREATE VIEW staged AS {numbered}")


def meet(connection: EngineConnection, before: str, columns: Sequence[str], key: Sequence[str]) -> None:
    """Create the table `met`: these columns of the known rows (`before`, SQL) whose key is in the table `firsts`."""
    run, keys, names = connection.execute, ", ".join(map(quote, key)), ", ".join(map(quote, columns))
    # the keys first: nearly always none is known, and the other columns of all known rows are not read
    run(f"CREATE TEMP TABLE again AS SELECT {keys} FROM {before} SEMI JOIN firsts USING ({keys})")  # noqa: S608
    some = run("SELECT count(*) > 0 FROM again").fetchall() == [(True,)]
    source = f"{before} SEMI JOIN again USING ({keys})" if some else f"{before} LIMIT 0"
    run(f"CREATE TEMP TABLE met AS SELECT {names} FROM {source}")  # noqa: S608


def repeated_sql(columns: Sequence[str], key: Sequence[str]) -> str:
    """Return the query of the rows that are not accepted, in order, with `_same`: whether all their values are those of
    the accepted row; after `judge`."""
    alike = " AND ".join(f"s.{quote(c)} IS NOT DISTINCT FROM o.{quote(c)}" for c in columns)
    names = ", ".join(f"s.{quote(c)}" for c in columns)
    same_key = " AND ".join(f"s.{quote(c)} = o.{quote(c)}" for c in key)
    of_first = " AND ".join(f"s.{quote(c)} = f.{quote(c)}" for c in key)
    rows = f"s._row, {names}, s.{LINE}, s.{RAW}, {alike} AS _same"
    return (
        f"SELECT {rows} FROM staged s JOIN met o ON {same_key} "  # noqa: S608
        f"UNION ALL SELECT {rows} FROM staged s JOIN firsts f ON {of_first} JOIN new USING (_first) "
        "JOIN staged o ON o._row = f._first WHERE s._row > f._first "
        "ORDER BY _row"
    )


def read(connection: EngineConnection, query: str) -> Iterator[Repeated]:
    """Yield the rows of a query such as `repeated_sql`."""
    for batch in batches(connection, query, 10_000):
        for row in batch.to_pylist():
            yield _repeated(row)


def counted(connection: EngineConnection, relation: str) -> dict[int, tuple[int, int]]:
    """Return how many rows of a relation (SQL: `_row`, `RAW`) each delivery has, and the bytes of their text.

    Nothing of them is made an object. Rows of Parquet have no such text.
    """
    total = connection.execute(
        f"SELECT _row >> {_LINES}, count(*), coalesce(sum(strlen({RAW})), 0) FROM ({relation}) GROUP BY 1"  # noqa: S608
    ).fetchall()
    return {int(number): (int(rows), int(text)) for number, rows, text in total}


def not_accepted(connection: EngineConnection) -> dict[int, tuple[int, int]]:
    """Return the numbers of the rows that are not accepted, as `counted`; after `judge`."""
    return counted(connection, "FROM staged ANTI JOIN new ON staged._row = new._first")


def _repeated(row: dict[str, Any]) -> Repeated:
    number, same = row.pop("_row"), row.pop("_same")
    reason = DUPLICATE if same else CONFLICT
    return Repeated(number >> _LINES, RefusedRow(row[LINE], (reason,), raw_text(row)))
