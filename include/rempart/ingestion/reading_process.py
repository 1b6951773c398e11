"""Read deliveries in a process without secrets and with limited memory. `isolated` starts it and sends orders.

It takes one order per line (JSON: the file, its name, the source, the columns, the output files), and answers with one
line: `{"fault": null}`, or the reason why the file is refused.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rempart.ingestion import reading
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Source

MEMORY = 128 << 20
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


def work(order: Mapping[str, Any]) -> str | None:
    """Read one file into two Arrow files (`out` and `out`.refused).

    Return the reason if the file is refused as a whole.
    """
    import pyarrow as pa

    columns, out = order["columns"], Path(order["out"])
    schema = pa.schema(
        [*((name, pa.string()) for name in columns), (reading.LINE, pa.int64()), (reading.RAW, pa.string())]
    )
    refused = pa.schema([(reading.LINE, pa.int64()), ("reason", pa.string()), (reading.RAW, pa.string())])
    file = Path(order["file"])
    try:
        with (
            file.open("rb") as stream,
            pa.OSFile(str(out), "wb") as rows_file,
            pa.ipc.new_file(rows_file, schema) as rows,
            pa.OSFile(f"{out}.refused", "wb") as refused_file,
            pa.ipc.new_file(refused_file, refused) as others,
        ):
            source = Source.model_validate(order["source"])
            for batch in reading.scan(order["name"], stream, file.stat().st_size, source, columns):
                rows.write_table(batch.table(columns))
                if batch.refused:
                    found = [[row.line, row.reasons[0], row.raw] for row in batch.refused]
                    arrays = [pa.array([row[i] for row in found], kind) for i, kind in enumerate(refused.types)]
                    others.write_table(pa.table(arrays, schema=refused))
    except Unreadable as fault:
        return str(fault)
    return None


def main() -> None:
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pa.array(["warm"], pa.string())
    limit_memory(MEMORY)
    for line in sys.stdin:
        try:
            fault = work(json.loads(line))
        except MemoryError:
            fault = BEYOND
        except (ValueError, TypeError, OSError, RecursionError) as cause:  # a message may quote the file
            fault = f"the file cannot be read ({type(cause).__name__})"
        sys.stdout.write(json.dumps({"fault": fault}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
