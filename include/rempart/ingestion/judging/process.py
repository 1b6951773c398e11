"""The process of `pool`: reads rows from its standard input, applies expectations, and answers with places.

An order is a line of JSON (`expectations`: YAML; `bytes`: of the rows that follow, an Arrow stream). The answer is a
line of JSON: `places`, the `error` of a pipeline file, or the class of what `failed`. No answer holds a value.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from rempart.errors import PipelineError
from rempart.ingestion import expectations
from rempart.ingestion.reading_process import limit_memory
from rempart.settings.pipeline import Expectation


def answer(order: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """Return the answer to one order."""
    import pyarrow as pa
    import yaml

    declared = [Expectation.model_validate(given) for given in yaml.safe_load(order["expectations"])]
    try:
        return {"places": expectations.places(declared, pa.ipc.open_stream(body).read_all())}
    except PipelineError as error:
        return {"error": [error.what, error.hint]}
    except Exception as error:  # its message may quote values
        return {"failed": type(error).__name__}


def work(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer orders until they end."""
    while line := orders.readline():
        order = json.loads(line)
        body = orders.read(order["bytes"])
        if len(body) < order["bytes"]:
            return
        answers.write(json.dumps(answer(order, body)).encode() + b"\n")
        answers.flush()


def main(memory: int) -> None:
    import pyarrow as pa

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    expectations.great_expectations()  # its own memory is not that of the rows
    limit_memory(memory)
    work(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main(int(sys.argv[1]))
