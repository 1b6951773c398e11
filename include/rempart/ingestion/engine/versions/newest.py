"""`on_conflict: newest`: of the rows of a key the newest stands. The engine compares sets, and spills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rempart.engine_connection import EngineConnection
from rempart.ingestion.engine import keys
from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.database import batches, parquet
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.engine.keys import FILE, KeyVerdict, Relations


def judge(
    connection: EngineConnection,
    staged: Relations,
    known: str | None,
    columns: Sequence[str],
    key: Sequence[str],
    version: str | None,
    *,
    late: bool,
) -> KeyVerdict:
    """Take the newest row of each key, if it differs from the known one and is not older; create the view `ACCEPTED`.

    Newer is the row with the greater `version` (a column without null), then the later row of the later delivery. A
    known row is from an earlier delivery, unless `late`: then a row that only its place would make newer than a known
    one, or older, is refused, together with all rows of its key.
    """
    run = connection.execute
    names, by = ", ".join(map(quote, columns)), ", ".join(map(quote, key))
    keys.number(connection, staged)
    of_newest = ""
    if version:
        run(f"CREATE TEMP TABLE tops AS SELECT {by}, max({quote(version)}) AS _version FROM staged GROUP BY {by}")  # noqa: S608
        of_newest = f"JOIN tops USING ({by}) WHERE staged.{quote(version)} = tops._version"
    run(f"CREATE TEMP TABLE firsts AS SELECT {by}, max(_row) AS _first FROM staged {of_newest} GROUP BY {by}")  # noqa: S608
    keys.meet(connection, known or keys.NONE_KNOWN, [*columns, FILE], key)
    run(f"CREATE TEMP TABLE new AS SELECT _first FROM firsts ANTI JOIN met USING ({by})")  # noqa: S608
    alike = " AND ".join(f"s.{quote(c)} IS NOT DISTINCT FROM m.{quote(c)}" for c in columns)
    same_key = " AND ".join(f"f.{quote(c)} = m.{quote(c)}" for c in key)
    older, tie = (f"s.{v} < m.{v}" if (v := version and quote(version)) else "false", f"s.{v} = m.{v}" if v else "true")
    run(
        f"CREATE TEMP TABLE faced AS SELECT f._first, m._file, {', '.join(f'm.{quote(c)}' for c in key)}, "  # noqa: S608
        f"{tie} AND {late} AS _open FROM firsts f JOIN met m ON {same_key} JOIN staged s ON s._row = f._first "
        f"WHERE NOT ({alike}) AND NOT ({older})"
    )
    run("CREATE VIEW replacing AS SELECT * FROM faced WHERE NOT _open")
    run(
        f"CREATE TEMP TABLE undecided AS SELECT s._row FROM staged s SEMI JOIN (FROM faced WHERE _open) o USING ({by})"  # noqa: S608
    )
    run("CREATE TEMP TABLE taken AS SELECT _first FROM new UNION ALL SELECT _first FROM replacing")
    every = "SELECT (SELECT count(*) FROM taken) = (SELECT count(*) FROM staged)"
    only = "" if run(every).fetchall() == [(True,)] else "SEMI JOIN taken ON staged._row = taken._first"
    run(f"CREATE VIEW {keys.ACCEPTED} AS SELECT {names} FROM staged {only}")  # noqa: S608
    others = "FROM staged ANTI JOIN taken ON staged._row = taken._first"
    return KeyVerdict(
        keys.counted(connection, "FROM staged SEMI JOIN undecided USING (_row)"),
        _rows(keys.counted(connection, "FROM staged s SEMI JOIN replacing r ON s._row = r._first")),
        _rows(keys.counted(connection, f"{others} ANTI JOIN undecided USING (_row)")),
        [str(file) for (file,) in run(f"SELECT DISTINCT {FILE} FROM replacing ORDER BY {FILE}").fetchall()],  # noqa: S608
    )


def repeated(columns: Sequence[str]) -> str:
    """Return the query of the refused rows, in order; after `judge`."""
    names = ", ".join(map(quote, columns))
    rows = f"SELECT _row, {names}, {LINE}, {RAW}, false AS _same FROM staged"  # noqa: S608 - our own names
    return f"{rows} SEMI JOIN undecided USING (_row) ORDER BY _row"


def without_replaced(connection: EngineConnection, file: Path, schema: Any, key: Sequence[str], out: Path) -> None:
    """Write the rows of a known file that are not replaced to `out`; after `judge`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, by = ", ".join(map(quote, schema.names)), ", ".join(map(quote, key))
    query = f"SELECT {names} FROM {parquet([file])} ANTI JOIN replacing USING ({by})"  # noqa: S608
    with pq.ParquetWriter(out, schema, compression="lz4") as writer:
        for batch in batches(connection, query, 50_000):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _rows(counts: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    return {position: rows for position, (rows, _) in counts.items()}
