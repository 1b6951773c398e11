"""Write predictions, and the rows without one, as lines. No value of a refused row is repeated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.cli.views import text
from rempart.ingestion.reading import RefusedRow
from rempart.models.loading import LoadedModel

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 20
"""Predictions that are shown without a file for all."""
_LINES = 5


def answered_by(model: LoadedModel) -> Iterator[str]:
    """Yield which model predicts."""
    yield f"{model.name}: version {model.version}, champion; model.onnx has SHA-256 {model.sha256}"


def shown(predicted: pa.Table | None, rows: int, hidden: Collection[str]) -> Iterator[str]:
    """Yield a table of the first predictions of `rows`. `hidden`: columns that are left out."""
    if predicted is None:
        return
    kept = [name for name in predicted.column_names if name not in hidden]
    first = predicted.select(kept).slice(0, SHOWN).to_pylist()
    yield ""
    yield from text.table([name.upper() for name in kept], ([_cell(row[name]) for name in kept] for row in first))
    yield ""
    more = rows - len(first)
    yield f"{text.counted(rows, 'row')} {'is' if rows == 1 else 'are'} predicted." + (
        f" {more:,} are not shown: write all to a file with --output predictions.parquet." if more else ""
    )


def written(rows: int, output: Path) -> str:
    """Return what was written."""
    told = text.counted(rows, "prediction") if rows else "No row can be predicted: nothing was"
    return f"{told} written to {output}"


def absent(columns: Sequence[str]) -> Iterator[str]:
    """Yield which columns the model reads that the file lacks, if there are any."""
    if columns:
        yield f"The file lacks columns that the model reads, which are taken as empty: {', '.join(columns)}."


def refused(rows: Sequence[RefusedRow]) -> Iterator[str]:
    """Yield the reasons against rows with their first lines, the most frequent first."""
    lines: dict[str, list[int]] = {}
    for row in rows:
        for reason in row.reasons:
            lines.setdefault(reason, []).append(row.line)
    if rows:
        yield f"{text.counted(len(rows), 'row')} cannot be predicted:"
    for reason, found in sorted(lines.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"  {len(found):>7,} x {reason}{text.places(found[:_LINES], len(found))}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
