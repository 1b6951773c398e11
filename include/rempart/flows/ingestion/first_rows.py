"""Judge the first rows of files by the types of a pipeline, before they are uploaded. Only ingestion decides.

Expectations and keys are left to ingestion: they need all rows, and seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rempart.ingestion.engine import staging
from rempart.ingestion.engine.batches import LINE, TextRows
from rempart.ingestion.engine.deliveries import rows_of
from rempart.ingestion.engine.limits import Limits
from rempart.settings.pipeline import Pipeline

MOST = 1_000
"""Rows of a file that are judged."""
_BLOCK = 256 << 10
"""Bytes that are read at once: of many files enough for all these rows."""


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a file. `refused`: how many of `rows` would go to quarantine. `reasons`: lines by reason.

    `fault`: why ingestion would refuse the file as a whole.
    """

    file: str
    rows: int = 0
    refused: int = 0
    reasons: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fault: str | None = None


def judge(pipeline: Pipeline, files: Sequence[Path], limits: Limits, most: int = MOST) -> list[FirstRows]:
    """Return what the types of a pipeline say about the first `most` rows of each file. No value is repeated.

    `limits`: those of the ingestion, which refuses a file beyond them.
    """
    limits = replace(limits, block=_BLOCK)
    with tempfile.TemporaryDirectory(prefix="rempart-deliver-") as folder:
        return [_judged(pipeline, file, Path(folder, "rows.parquet"), limits, most) for file in files]


def _judged(pipeline: Pipeline, file: Path, out: Path, limits: Limits, most: int) -> FirstRows:
    try:
        first = _first(rows_of(file, pipeline, limits), most)
        staged = staging.stage(first, pipeline, out, limits, lambda table: {})
    except (OSError, ValueError):  # the upload or the ingestion reads the file again, and says why it cannot
        return FirstRows(file.name)
    lines: dict[str, list[int]] = {}
    for row in staged.refused:
        for reason in row.reasons:
            lines.setdefault(reason, []).append(row.line)
    reasons = dict(sorted(lines.items(), key=lambda item: (-len(item[1]), item[0])))
    return FirstRows(file.name, staged.delivered, len(staged.refused), reasons, staged.fault)


def _first(batches: Iterable[TextRows], most: int) -> Iterator[TextRows]:
    """Yield the rows with the lowest lines.

    Batches overlap where a block of JSON Lines has rows of several kinds. A batch behind the rows that are wanted is
    followed by no row among them: see `json_rows.read`.
    """
    import pyarrow.compute as pc

    read: list[TextRows] = []
    lines: list[int] = []
    for batch in batches:
        here = sorted([*batch.table[LINE].to_pylist(), *(row.line for row in batch.refused)])
        if len(lines) >= most and here and here[0] > lines[most - 1]:
            break
        read.append(batch)
        lines = sorted([*lines, *here])[:most]
    last = lines[-1] if lines else 0
    for batch in read:
        table = batch.table.filter(pc.less_equal(batch.table[LINE], last))
        yield TextRows(table, [row for row in batch.refused if row.line <= last])
