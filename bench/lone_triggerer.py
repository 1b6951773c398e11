"""Airflow's triggerer alone, in a process of its own, and the memory that it holds."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any


def triggerer(inbox: Any, outbox: Any) -> None:
    """Run triggers as they come; tell each event. A process of its own."""
    asyncio.run(_serve(inbox, outbox))


async def _serve(inbox: Any, outbox: Any) -> None:
    from airflow.sdk.module_loading import import_string

    from rempart.orchestration.training import pod_triggers

    async def run(number: int, path: str, arguments: dict[str, Any]) -> None:
        async for event in import_string(path)(**arguments).run():
            outbox.put((number, event.payload))
            return

    running: set[asyncio.Task[None]] = set()
    while (asked := await asyncio.to_thread(inbox.get)) is not None:
        if asked == "memory":
            gc.collect()
            outbox.put(("memory", resident()))
        elif isinstance(asked, float):
            pod_triggers.MINIMUM_SECONDS = asked
        else:
            task = asyncio.create_task(run(*asked))
            running.add(task)
            task.add_done_callback(running.discard)
    for task in running:
        task.cancel()


def resident() -> float:
    """Resident memory of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6
