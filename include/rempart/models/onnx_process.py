"""Run one ONNX model in a process with limited memory and without secrets. `isolated_model` starts it.

Its arguments are the model's file and its memory limit in bytes. It answers each line (JSON: the matrix's file, where
the predictions go, the task, the number of classes) with one line: `{}`, or `{"what", "hint"}` of a refusal. A small
matrix is in the line itself (`inline`, `shape`), and so are its predictions. The first line is about the model itself.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
from pathlib import Path

from rempart.errors import ModelRefused
from rempart.models import onnx_format
from rempart.settings.telemetry import TELEMETRY_OFF


def limit(more: int) -> None:
    """Let this process have so many bytes of private memory more than it has now; no core dumps."""
    status = Path("/proc/self/status").read_text("ascii")
    now = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def tell(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


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
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "inline" in order:
                matrix = np.frombuffer(base64.b64decode(order["inline"]), np.float32).reshape(order["shape"])
            else:
                matrix = np.load(order["matrix"], allow_pickle=False)
            made = onnx_format.run(session, matrix, order["task"], order["classes"])
        except ModelRefused as cause:
            tell({"what": cause.what, "hint": cause.hint})
            continue
        if "inline" in order:
            tell({"inline": base64.b64encode(made.tobytes()).decode()})
            continue
        with Path(order["out"]).open("wb") as out:
            np.save(out, made, allow_pickle=False)
        tell({})


if __name__ == "__main__":
    os.environ.update(TELEMETRY_OFF)
    main(*sys.argv[1:])
