"""Read deliveries in a process without secrets and with limited memory. `isolated` starts it and sends orders.

It takes one order per line (JSON: what to do, the file, its name, what the pipeline says of its rows, the output
files), and answers with one line: facts with `"fault": null`, or the reason why the file is refused.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rempart.ingestion.content import parquet_cut
from rempart.ingestion.engine import staging
from rempart.ingestion.engine.batches import LINE, TextRows
from rempart.ingestion.engine.deliveries import rows_of
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.parsing import formats
from rempart.ingestion.refused import RefusedRows
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.columns import Moment
from rempart.settings.pipeline import Column, Pipeline, Source

MEMORY = 256 << 20
"""Limit in bytes of the memory for one delivery, in addition to the idle process."""
BEYOND = f"the memory to read the file exceeds {MEMORY >> 20} MiB"


def limit_memory(more: int) -> None:
    """Let this process have so many bytes of private memory more than it has now; no core dumps."""
    pages = {
        line.split(":")[0]: int(line.split()[1])
        for line in Path("/proc/self/status").read_text("ascii").splitlines()
        if line.startswith("VmData")
    }
    most = (pages["VmData"] << 10) + more
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(order: Mapping[str, Any]) -> dict[str, Any]:
    """Do one order. Return the facts about the file; Raises Unreadable."""
    return _WORK[order["do"]](order)


def _stage(order: Mapping[str, Any]) -> dict[str, Any]:
    """Read and type a delivery into two files: `out` (Parquet) and `out`.refused (Arrow)."""

    pipeline, limits, out = _pipeline(order["pipeline"]), Limits(**order["limits"]), Path(order["out"])
    if wrong := formats.wrong_name(order["name"], pipeline.source.format):
        raise Unreadable(wrong)
    rows = rows_of(Path(order["file"]), pipeline, limits, order["name"])
    if pipeline.source.format == "parquet" and (removed := parquet_cut.removed_from(Path(order["file"]))):
        rows = _renumbered(rows, removed)
    staged = staging.stage(rows, pipeline, out, limits, lambda table: {})
    if staged.fault:
        raise Unreadable(staged.fault)
    RefusedRows.of(staged.refused).save(Path(f"{out}.refused"))
    return {"good": staged.good}


def _renumbered(rows: Iterator[TextRows], removed: Sequence[int]) -> Iterator[TextRows]:
    """Yield rows of a delivery from which rows were erased, with their lines in the delivery as received."""
    import pyarrow.compute as pc

    first = 1
    for batch in rows:
        count = batch.table.num_rows + len(batch.refused)
        lines = parquet_cut.numbers(first, count, removed)
        places = batch.table.column_names.index(LINE)
        moved = lines.take(pc.subtract(batch.table[LINE], first))
        refused = [replace(row, line=lines[row.line - first].as_py()) for row in batch.refused]
        yield TextRows(batch.table.set_column(places, LINE, moved), refused)
        first += count


def _keys(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write the key columns of a Parquet delivery to `out` (Parquet), as ingestion judges them, with `LINE`."""
    parquet_cut.write_keys(Path(order["file"]), order["key"], Path(order["out"]))
    return {}


def _cut(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write a Parquet delivery without some rows to `out`."""
    parquet_cut.write_without(Path(order["file"]), frozenset(order["lines"]), Path(order["out"]))
    return {}


_WORK: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"stage": _stage, "keys": _keys, "cut": _cut}


def _pipeline(facts: Mapping[str, Any]) -> Pipeline:
    """Return a pipeline with what is needed to read and type rows, and nothing else."""
    return Pipeline.model_construct(
        schema_={name: Column.model_validate(column) for name, column in facts["columns"].items()},
        key=facts["key"],
        partition_by=facts["partition_by"],
        moments={name: Moment.model_validate(moment) for name, moment in facts["moments"].items()},
        source=Source.model_validate(facts["source"]),
    )


class _WithoutPandas:
    """Hides pandas: Arrow would load it with its first array, for 0.25 s and 40 MB, and nothing here uses it."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def main() -> None:
    sys.meta_path.insert(0, _WithoutPandas())
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.parquet

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.array(["warm"], pa.string())
    limit_memory(MEMORY)
    for line in sys.stdin:
        try:
            answer = {"fault": None, **work(json.loads(line))}
        except Unreadable as fault:
            answer = {"fault": str(fault)}
        except MemoryError:
            answer = {"fault": BEYOND}
        except Exception as cause:  # whatever a file brings about; a message may quote it
            answer = {"fault": f"the file cannot be read ({type(cause).__name__})"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
