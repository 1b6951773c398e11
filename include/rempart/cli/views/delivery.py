"""Show a delivery: the progress of its upload, and what happens next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from rempart.cli.views import text
from rempart.flows.ingestion.deliver import Delivered, PlannedFile, Progress, Step

WORDS: dict[Step, str] = {"upload": "uploading", "check": "reading back"}


@contextmanager
def progress(planned: Sequence[PlannedFile], *, terminal: bool, out: Callable[[str], object]) -> Iterator[Progress]:
    """Show the upload of new files: a bar for each step at a terminal, else a line at the end of each step."""
    sizes = {file.name: file.size for file in planned if file.state == "new"}
    with (_bars if terminal else _lines)(sizes, out) as made:
        yield made


@contextmanager
def _lines(sizes: dict[str, int], out: Callable[[str], object]) -> Iterator[Progress]:
    done: dict[tuple[Step, str], int] = {}

    def tell(step: Step, name: str, count: int) -> None:
        done[step, name] = done.get((step, name), 0) + count
        if done[step, name] == sizes[name]:
            ended = "uploaded" if step == "upload" else "read back, its SHA-256 is right"
            out(f"{name}: {text.size(sizes[name])} {ended}")

    yield tell


@contextmanager
def _bars(sizes: dict[str, int], out: Callable[[str], object]) -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    tasks: dict[tuple[Step, str], TaskID] = {}
    with Bars(*columns, TransferSpeedColumn(), TimeRemainingColumn()) as bars:

        def tell(step: Step, name: str, count: int) -> None:
            if (step, name) not in tasks:
                tasks[step, name] = bars.add_task(f"{WORDS[step]} {name}", total=sizes[name])
            bars.advance(tasks[step, name], count)

        yield tell


def lines(done: Delivered) -> Iterator[str]:
    """Yield a line for each file of a delivery."""
    for file in done.files:
        where = f"{done.bucket}/{file.key} at site '{done.site}'"
        yield {
            "new": f"delivered {file.name} ({text.size(file.size)}, SHA-256 {file.sha256[:12]}) to {where}",
            "waiting": f"{file.name} is at {where} already, with the same bytes; nothing was uploaded",
            "ingested": f"{file.name} was ingested before, with the same bytes; nothing was uploaded",
        }[file.state]


def following(pipeline: str, waiting: int, scheduled: tuple[datetime, timedelta] | None) -> Iterator[str]:
    """Yield what happens next with `waiting` delivered files, as lines."""
    if not waiting:
        yield f"No delivery waits. State of the pipeline: rempart pipeline show {pipeline}"
        return
    files = "1 delivery waits" if waiting == 1 else f"{waiting} deliveries wait"
    if scheduled is None:
        yield f"{files}. The pipeline file has no schedule, so you start the ingestion:"
    else:
        at, wait = scheduled
        yield (
            f"{files}. The DAG ingest_{pipeline} ingests at {text.moment(at)} (in {text.span(wait.total_seconds())}), "
            "and its assets start features, training and gate. To start now:"
        )
    yield f"  rempart pipeline run {pipeline} --follow"
