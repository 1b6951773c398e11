"""The lines of JSON that Arrow's reader takes: objects whose values have one kind a column, such as strings or lists.

Arrow refuses a whole text for one line that it cannot read, so a text is halved until the rest is few lines. It refuses
fields twice, unknown fields, other nested values, NaN and half characters, as the rule of `json_rows` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.lines import Block
from rempart.ingestion.parsing import arrays, numbers, typed
from rempart.settings.columns import Column
from rempart.settings.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa

_FEW = 64
"""Lines that are left to the rule together."""
_SHOWN = 20
"""Lines of a text that show the kinds of its values."""


class ArrowLines:
    """Reads lines of one file. What it learns of the kinds of values serves the following lines."""

    def __init__(self, declared: Mapping[str, Column], source: Source) -> None:
        self._declared = declared
        self._kinds: dict[str, set[type]] = {name: set() for name in declared}
        self._items: dict[str, set[type]] = {name: set() for name in declared}
        # a number of another dialect, without its unit, or one that means a missing value, is decided by its text
        plain = numbers.is_plain(source) and not source.units
        self._numbers = plain and not any(map(typed.like_a_value, source.null_values))
        self._serves = True

    def read(self, block: Block) -> tuple[list[pa.Table], Sequence[int]]:
        """Return rows with typed columns, and the indexes of all other lines."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self._serves:
            return [], range(len(block))
        lines = block.normal()
        flat = pc.and_(pc.starts_with(lines, "{"), pc.ends_with(lines, "}\n"))
        places = np.flatnonzero(flat.to_numpy(zero_copy_only=False))
        raw = pc.ascii_rtrim(lines, characters="\n")
        tables: list[pa.Table] = []
        others = np.ones(len(lines), bool)
        waiting = [places] if len(places) else []
        while waiting:
            some = waiting.pop()
            table = self._table(lines.take(pa.array(some)))
            if table is not None:
                numbered = table.append_column(LINE, pa.array(block.first + some, pa.int64()))
                tables.append(numbered.append_column(RAW, raw.take(pa.array(some))))
                others[some] = False
            elif len(some) > _FEW:
                waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
        left = np.flatnonzero(others).tolist()
        self._serves = len(left) <= max(_FEW, len(lines) // 2)
        return tables, left

    def _table(self, lines: pa.Array) -> pa.Table | None:
        """Return the rows of some lines, or None if Arrow does not take them all."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import json as reader

        step = max(1, len(lines) // _SHOWN)
        for line in lines.take(pa.array(range(0, len(lines), step))).to_pylist():
            self._learn(line)
        schema = self._schema()
        if schema is None:
            return None
        offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :]
        text = lines.buffers()[2].slice(int(offsets[0]), int(offsets[len(lines)] - offsets[0]))
        try:
            table = reader.read_json(
                pa.BufferReader(text),
                read_options=reader.ReadOptions(use_threads=False, block_size=text.size + 1),
                parse_options=reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
            )
        except pa.ArrowInvalid:
            return None
        return table.select(list(self._declared)) if table.num_rows == len(lines) else None

    def _learn(self, line: str) -> None:
        try:
            found: Any = json.loads(line)
        except (ValueError, RecursionError):
            return
        for name, value in found.items():
            if name in self._kinds and value is not None:
                self._kinds[name].add(type(value))
                if isinstance(value, list):
                    self._items[name].update(map(type, value))

    def _schema(self) -> pa.Schema | None:
        """Return the columns as Arrow shall read them, so that nothing of a value is lost; None if that cannot be."""
        import pyarrow as pa

        fields = []
        for name, column in self._declared.items():
            kind = self._list(name, column) if column.takes_lists else self._kind(self._kinds[name], column.type)
            if kind is None:
                return None
            fields.append(pa.field(name, kind))
        return pa.schema(fields)

    def _list(self, name: str, column: Column) -> pa.DataType | None:
        import pyarrow as pa

        assert column.items is not None  # noqa: S101 - the pipeline's validation
        plain = {int, float} if column.items == "number" else {str}
        if self._kinds[name] <= {list} and self._items[name] <= plain:
            return arrays.arrow_type(column.items)
        return pa.string() if self._kinds[name] <= {str} else None

    def _kind(self, kinds: set[type], declared: str) -> pa.DataType | None:
        import pyarrow as pa

        if kinds <= {str}:
            return pa.string()
        if kinds == {bool}:
            return pa.bool_()
        if kinds == {int} and declared == "integer" and self._numbers:
            return pa.int64()
        if kinds <= {int, float} and declared == "number" and self._numbers:
            return pa.float64()
        return None
