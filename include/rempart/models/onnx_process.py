"""Run one ONNX model in a process with limited memory and without secrets. `isolated_model` starts it.

Its arguments are the model's file and its memory limit in bytes. It answers each order, a line of JSON, with one line:
`{}`, or `{"what", "hint"}` of a refusal. The first line is about the model itself. An order has the task, the number of
classes, whether the ends of intervals are asked for (`bounds`), and either files of the matrix and of the predictions,
or the matrix's `shape`; then its float32 values follow the line, and the answer is `{"bytes"}` with so many bytes of
float64 values behind it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from rempart.errors import ModelRefused
from rempart.models import onnx_format
from rempart.settings.telemetry import TELEMETRY_OFF


def limit(more: int) -> None:
    """Let this process have so many bytes of private memory more than it has now; no core dumps."""
    status = Path("/proc/self/status").read_text("ascii")
    now = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def tell(answer: dict[str, Any], body: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + body)
    sys.stdout.buffer.flush()


def main(model: str, memory: str) -> None:
    import numpy as np
    import onnx  # noqa: F401 # before the limit is set
    import onnxruntime  # noqa: F401 # as above

    limit(int(memory))
    try:
        session = onnx_format.open_session(Path(model).read_bytes())
    except ModelRefused as cause:
        tell({"what": cause.what, "hint": cause.hint})
        return
    tell({})
    given = sys.stdin.buffer
    for line in given:
        order = json.loads(line)
        try:
            if "shape" in order:
                rows, columns = order["shape"]
                matrix = np.frombuffer(given.read(4 * rows * columns), np.float32).reshape(rows, columns)
            else:
                matrix = np.load(order["matrix"], allow_pickle=False)
            made = onnx_format.run(session, matrix, order["task"], order["classes"], bounds=order["bounds"])
        except ModelRefused as cause:
            tell({"what": cause.what, "hint": cause.hint})
            continue
        if "shape" in order:
            body = made.tobytes()
            tell({"bytes": len(body)}, body)
            continue
        with Path(order["out"]).open("wb") as out:
            np.save(out, made, allow_pickle=False)
        tell({})


if __name__ == "__main__":
    os.environ.update(TELEMETRY_OFF)
    main(*sys.argv[1:])
