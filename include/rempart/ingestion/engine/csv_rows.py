"""Read a delimited text file as batches of text columns.

Lines whose quotes are closed in the line, nearly all lines of any file, are split by Arrow. Every other line goes
through the rule of `quoted`, one at a time, so that a stray quote costs its own line only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from rempart.ingestion.engine import quoted
from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow, TextRows
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.engine.lines import UTF8_BOM, Block, Blocks
from rempart.ingestion.reading import EMPTY, NO_ROWS, check_format
from rempart.ingestion.unpacking import Unreadable, distinct_names, names_in, unpacked, wrong_header
from rempart.settings.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa


def read(stream: BinaryIO, size: int, source: Source, columns: Sequence[str], limits: Limits) -> Iterator[TextRows]:
    """Yield the rows of a file of `size` bytes. Raises Unreadable.

    Accepts gzip, a byte order mark, any line ends, columns in any order. Blank lines are skipped. Refused rows of one
    batch are in order of lines; rows are not if a row has several lines.
    """
    text = unpacked(stream, size, limits.bytes, limits.ratio)
    check_format(text.peek(16)[:16], "CSV")
    if text.peek(3).startswith(UTF8_BOM):
        if source.encoding != "utf-8":
            raise Unreadable(f"the file is UTF-8, but the pipeline declares {source.encoding}")
        text.read(len(UTF8_BOM))
    blocks = Blocks(text, source.encoding, limits)
    header = distinct_names(_header(blocks, source.delimiter, len(columns), limits))
    names = list(names_in(source, columns).values())
    if wrong := wrong_header(header, names, source.delimiter):
        raise Unreadable(wrong)
    split = _Split(source.delimiter, columns, [header.index(name) for name in names], limits)
    while (block := blocks.next()) is not None:
        yield split.block(block, blocks)
    if not split.rows:
        raise Unreadable(NO_ROWS)


def _header(blocks: Blocks, delimiter: str, width: int, limits: Limits) -> Sequence[str]:
    """Return the fields of the first line that is not blank, and move past it."""
    while (block := blocks.next()) is not None:
        index = 0
        while index < len(block) and not block.line(index).strip("\r\n"):
            index += 1
        if index == len(block):
            continue
        if block.line(index).count(delimiter) >= limits.columns:
            raise Unreadable(f"the header has more than {limits.columns} columns")
        if not block.holds_row(index, limits):
            blocks.give_back(block, index)
            continue
        line = block.line(index)
        used, fields = (
            quoted.row(block.following(index, limits), delimiter, width)
            if '"' in line
            else (1, line.rstrip("\r\n").split(delimiter))
        )
        blocks.give_back(block, index + used)
        return fields or ()
    raise Unreadable(EMPTY)


class _Split:
    """Splits the blocks of one file; counts its rows and refused rows."""

    def __init__(self, delimiter: str, columns: Sequence[str], order: Sequence[int], limits: Limits) -> None:
        self._delimiter, self._columns, self._order, self._limits = delimiter, columns, order, limits
        self._pattern = quoted.well_formed(delimiter)
        self.rows = self.refused = 0

    def block(self, block: Block, blocks: Blocks) -> TextRows:
        """Return the rows of a block. A row that may go on in the next block is given back."""
        import numpy as np
        import pyarrow as pa

        lines = block.normal()
        plain, alone = self._classes(lines)
        ruled: list[tuple[int, str, Sequence[str]]] = []
        refused: list[RefusedRow] = []
        taken, end = 0, len(block)
        for index in np.flatnonzero(~plain & ~alone).tolist():
            if index < taken:
                continue
            if not block.holds_row(index, self._limits):
                end = index
                blocks.give_back(block, index)
                break
            taken = index + self._by_rule(block, index, ruled, refused)
            plain[index:taken] = False
            if self.refused + len(refused) > self._limits.refused:
                break
        if block.first + end - 1 > self._limits.lines:
            raise Unreadable(f"the file has more than {self._limits.lines} lines")
        plain[end:] = False
        table = self._by_arrow(
            lines if plain.all() else lines.filter(pa.array(plain)), block.first + np.flatnonzero(plain), refused
        )
        refused.sort(key=lambda row: row.line)
        self._count(table.num_rows + len(ruled), refused)
        return TextRows(pa.concat_tables([table, self._table(ruled)]) if ruled else table, refused)

    def _classes(self, lines: pa.Array) -> tuple[Any, Any]:
        """Return which lines are rows that Arrow splits, and which are blank. The rule judges all others."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        sizes = pc.binary_length(lines).to_numpy()
        blank = sizes == 1
        if len(self._delimiter.encode()) > 1:  # Arrow takes one byte
            return np.zeros(len(lines), bool), blank
        plain = ~blank
        marked = _with_quotes(lines)
        if marked.any():
            some = pc.ascii_rtrim(lines.filter(pa.array(marked)), characters="\n")
            good = pc.match_substring_regex(some, self._pattern).to_numpy(zero_copy_only=False)
            plain[marked] = good & (sizes[marked] <= quoted.LONGEST_FIELD)
        # a line with more fields than are counted has a reason of its own
        plain[sizes > self._limits.columns] &= ~self._too_wide(lines.filter(pa.array(sizes > self._limits.columns)))
        return plain, blank

    def _too_wide(self, lines: pa.Array) -> Any:
        import pyarrow.compute as pc

        return pc.greater_equal(pc.count_substring(lines, self._delimiter), self._limits.columns).to_numpy(
            zero_copy_only=False
        )

    def _by_rule(
        self, block: Block, index: int, ruled: list[tuple[int, str, Sequence[str]]], refused: list[RefusedRow]
    ) -> int:
        """Add the row that begins at a line, and return how many lines it has."""
        width, most, line = len(self._columns), self._limits.columns, block.line(index)
        fields: Sequence[str] | None
        if '"' in line:
            used, fields = quoted.row(block.following(index, self._limits), self._delimiter, width)
            count = len(fields or ())
        else:
            used, count = 1, line.count(self._delimiter) + 1
            fields = line.rstrip("\r\n").split(self._delimiter) if count <= most else ()
        raw = block.text[block.start(index) : int(block.ends[index + used - 1])].decode().rstrip("\r\n")
        if fields is None:
            refused.append(RefusedRow(block.first + index, (quoted.MISPLACED,), raw))
        elif count != width:
            # today's reader counts every field of a line with quotes
            reason = quoted.wrong_width(count, width, count if '"' in line else most)
            refused.append(RefusedRow(block.first + index, (reason,), raw))
        else:
            ruled.append((block.first + index, raw, [fields[i] for i in self._order]))
        return used

    def _by_arrow(self, lines: pa.Array, numbers: Any, refused: list[RefusedRow]) -> pa.Table:
        """Return lines with their quotes closed as columns; add those of another width to `refused`."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import csv

        if not len(lines):
            return self._table([])
        width, wrong = len(self._columns), []

        def other_width(row: Any) -> str:
            wrong.append((row.number - 1, row.actual_columns))
            return "skip"

        names = [str(i) for i in range(width)]
        offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
        text = lines.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        if text[:3].to_pybytes() == UTF8_BOM:  # Arrow takes one off, but here it belongs to a field
            text = pa.py_buffer(UTF8_BOM + text.to_pybytes())
        table = csv.read_csv(
            pa.BufferReader(text),
            csv.ReadOptions(column_names=names, block_size=max(text.size + 1, 1 << 16), use_threads=False),
            csv.ParseOptions(delimiter=self._delimiter, ignore_empty_lines=False, invalid_row_handler=other_width),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        raw = pc.ascii_rtrim(lines, characters="\n")
        right = np.ones(len(lines), bool)
        for index, count in wrong:
            right[index] = False
            reason = quoted.wrong_width(count, width, count)
            refused.append(RefusedRow(int(numbers[index]), (reason,), raw[index].as_py()))
        chosen = {name: table.column(i) for name, i in zip(self._columns, self._order, strict=True)}
        kept = raw.filter(pa.array(right)) if wrong else raw
        return pa.table({**chosen, LINE: pa.array(numbers[right], pa.int64()), RAW: kept})

    def _table(self, rows: Sequence[tuple[int, str, Sequence[str]]]) -> pa.Table:
        import pyarrow as pa

        made = {name: pa.array([row[2][i] for row in rows], pa.string()) for i, name in enumerate(self._columns)}
        lines = pa.array([row[0] for row in rows], pa.int64())
        return pa.table({**made, LINE: lines, RAW: pa.array([row[1] for row in rows], pa.string())})

    def _count(self, accepted: int, refused: Sequence[RefusedRow]) -> None:
        """Count rows. Raises Unreadable beyond a limit."""
        self.rows += accepted + len(refused)
        left = self._limits.refused - self.refused
        if len(refused) > left:
            raise Unreadable(f"more than {self._limits.refused} rows have a fault, such as: {refused[left].reasons[0]}")
        self.refused += len(refused)
        if self.rows > self._limits.rows:
            raise Unreadable(f"the file has more than {self._limits.rows} rows")


def _with_quotes(lines: pa.Array) -> Any:
    """Return which lines have a quotation mark. Arrow's search for a text looks at each line by itself."""
    import numpy as np

    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
    text = memoryview(lines.buffers()[2])[int(offsets[0]) : int(offsets[-1])]
    marked = np.zeros(len(lines), bool)
    places = np.flatnonzero(np.frombuffer(text, np.uint8) == ord('"'))
    marked[np.searchsorted(offsets, places + int(offsets[0]), side="right") - 1] = True
    return marked
