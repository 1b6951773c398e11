"""Read JSON Lines in batches: one object a line; a faulty line costs itself only.

A value is plain, or a list of plain values where the column is an `array`.

`json_arrow` reads the lines that Arrow's reader takes, with typed columns. Every other line goes through the rule here,
one at a time; its columns are text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow, TextRows
from rempart.ingestion.engine.json_arrow import ArrowLines
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.engine.lines import UTF8_BOM, Block, Blocks
from rempart.ingestion.reading import EMPTY, check_format
from rempart.ingestion.unpacking import Unreadable, names_in, unpacked
from rempart.settings.columns import Column
from rempart.settings.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa


class _Faulty(ValueError):
    """Raised for a line that is refused; the message is the reason, without a value."""


class _NumberText(str):
    """The text of a number, which in a list is no string."""


def read(
    stream: BinaryIO,
    size: int,
    source: Source,
    columns: Sequence[str],
    limits: Limits,
    declared: Mapping[str, Column] | None = None,
) -> Iterator[TextRows]:
    """Yield the rows of a file of `size` bytes. Raises Unreadable. Without `declared`, all columns are text.

    Of each block, first the rows that the rule here reads, then the others; these, and the blocks, in order of lines.

    Numbers keep their text, null is null, and a column that an object lacks is null. A list is the text of its JSON. An
    object with a field that is not in the schema is refused.
    """
    text = unpacked(stream, size, limits.bytes, limits.ratio)
    check_format(text.peek(16)[:16], "JSON Lines")
    if text.peek(3).startswith(UTF8_BOM):
        text.read(len(UTF8_BOM))
    blocks = Blocks(text, "utf-8", limits)
    lists = frozenset(name for name, column in (declared or {}).items() if column.takes_lists)
    rows = faulty = 0
    given = names_in(source, columns)
    known = {name: column for column, name in given.items()}
    by_arrow = ArrowLines({given[name]: column for name, column in declared.items()}, source) if declared else None
    while (block := blocks.next()) is not None:
        typed, others = by_arrow.read(block) if by_arrow else ([], range(len(block)))
        found = _block(block, known, others, lists)
        rows += found.table.num_rows + len(found.refused)
        faulty += len(found.refused)
        if faulty > limits.refused:
            raise Unreadable(f"more than {limits.refused} rows have a fault, such as: {found.refused[-1].reasons[0]}")
        if rows > limits.rows:
            raise Unreadable(f"the file has more than {limits.rows} rows")
        if found.table.num_rows or found.refused:
            yield found
        for table in typed:
            rows += table.num_rows
            if rows > limits.rows:
                raise Unreadable(f"the file has more than {limits.rows} rows")
            yield TextRows(table.rename_columns([*columns, LINE, RAW]))
    if not rows:
        raise Unreadable(EMPTY)


def _block(block: Block, known: Mapping[str, str], indexes: Sequence[int], lists: frozenset[str]) -> TextRows:
    """Return the rows of some lines. `known`: the columns of the schema by the names that the file gives them."""
    columns = list(known.values())
    cells: list[list[str | None]] = [[] for _ in columns]
    lines, raws, refused = [], [], []
    for index in indexes:
        raw = block.line(index).rstrip("\r\n")
        if not raw.strip():
            continue
        try:
            found = _parsed(raw, known, lists)
        except _Faulty as fault:
            refused.append(RefusedRow(block.first + index, (str(fault),), raw))
            continue
        for column, name in zip(cells, columns, strict=True):
            column.append(found.get(name))
        lines.append(block.first + index)
        raws.append(raw)
    return TextRows(_table(columns, cells, lines, raws), refused)


def _parsed(raw: str, known: Mapping[str, str], lists: frozenset[str]) -> dict[str, str | None]:
    try:
        found = json.loads(
            raw, parse_int=_NumberText, parse_float=_NumberText, parse_constant=_NumberText, object_pairs_hook=_object
        )
    except _Faulty:
        raise
    except (ValueError, RecursionError):
        raise _Faulty("not a JSON value") from None
    if not isinstance(found, dict):
        raise _Faulty("not a JSON object")
    if not found.keys() <= known.keys():
        raise _Faulty("has a field that is not in the schema")
    return {known[name]: _text(known[name], value, known[name] in lists) for name, value in found.items()}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Faulty("has a field twice")
    return found


def _text(name: str, value: Any, lists: bool = False) -> str | None:
    """Return a value as a CSV file would have it. Objects are refused, and lists unless the column takes them."""
    match value:
        case list() if lists:
            return f"[{', '.join(_item(name, item) for item in value)}]"
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Faulty(f"{name}: not Unicode text") from None
            return value
    raise _Faulty(f"{name}: not a plain value")


def _item(name: str, value: Any) -> str:
    """Return an item of a list as JSON has it."""
    text = _text(name, value)
    if text is None:
        return "null"
    return text if isinstance(value, bool | _NumberText) else json.dumps(text)


def _table(
    columns: Sequence[str], cells: Sequence[Sequence[str | None]], lines: Sequence[int], raws: Sequence[str]
) -> pa.Table:
    import pyarrow as pa

    made = {name: pa.array(values, pa.string()) for name, values in zip(columns, cells, strict=True)}
    return pa.table({**made, LINE: pa.array(lines, pa.int64()), RAW: pa.array(raws, pa.string())})
