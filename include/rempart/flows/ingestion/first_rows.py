"""Judge the first rows of files by the types of a pipeline, before they are uploaded. Only ingestion decides.

Expectations and keys are left to ingestion: they need all rows, and seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rempart.ingestion.engine import staging
from rempart.ingestion.engine.batches import LINE, TextRows
from rempart.ingestion.engine.deliveries import rows_of
from rempart.ingestion.engine.limits import Limits
from rempart.settings.pipeline import Pipeline

MOST = 1_000
"""Rows of a file that are judged."""
_LIMITS = Limits(block=256 << 10)
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


def judge(pipeline: Pipeline, files: Sequence[Path], most: int = MOST) -> list[FirstRows]:
    """Return what the types of a pipeline say about the first `most` rows of each file. No value is repeated."""
    with tempfile.TemporaryDirectory(prefix="rempart-deliver-") as folder:
        return [_judged(pipeline, file, Path(folder, "rows.parquet"), most) for file in files]


def _judged(pipeline: Pipeline, file: Path, out: Path, most: int) -> FirstRows:
    try:
        first = _first(rows_of(file, pipeline, _LIMITS), most)
        staged = staging.stage(first, pipeline, out, _LIMITS, lambda table: {})
    except OSError:  # the upload reads the file again, and says why it cannot
        return FirstRows(file.name)
    lines: dict[str, list[int]] = {}
    for row in staged.refused:
        for reason in row.reasons:
            lines.setdefault(reason, []).append(row.line)
    reasons = dict(sorted(lines.items(), key=lambda item: (-len(item[1]), item[0])))
    return FirstRows(file.name, staged.delivered, len(staged.refused), reasons, staged.fault)


def _first(batches: Iterable[TextRows], most: int) -> Iterator[TextRows]:
    """Yield batches up to a number of rows; the rows of a batch may be out of the order of their lines."""
    import pyarrow.compute as pc

    for batch in batches:
        lines = sorted([*batch.table[LINE].to_pylist(), *(row.line for row in batch.refused)])
        if len(lines) >= most:
            last = lines[most - 1]
            table = batch.table.filter(pc.less_equal(batch.table[LINE], last))
            yield TextRows(table, [row for row in batch.refused if row.line <= last])
            return
        yield batch
        most -= len(lines)
