"""Show a delivery: the progress of its upload, and what happens next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from rempart.cli.views import text
from rempart.counts import counted, size
from rempart.flows.ingestion.deliver import Delivered, PlannedFile, Progress, Step
from rempart.flows.ingestion.first_rows import MOST, FirstRows
from rempart.settings.pipeline import ModelPipeline, Pipeline

CHECKED = f"Only the header was checked, and the types and empty cells of the first {MOST:,} rows."
WORDS: dict[Step, str] = {"upload": "uploading", "check": "reading back"}


@contextmanager
def progress(planned: Sequence[PlannedFile], *, terminal: bool, out: Callable[[str], object]) -> Iterator[Progress]:
    """Show the upload of new files: a bar for each step at a terminal, else a line at the end of each step."""
    sizes = {file.name: file.size for file in planned if file.state == "new"}
    with (_bars if terminal else _lines)(sizes, out) as made:
        yield made


@contextmanager
def _lines(sizes: dict[str, int], out: Callable[[str], object]) -> Iterator[Progress]:
    checked: dict[str, int] = {}

    def tell(step: Step, name: str, count: int) -> None:
        if step == "check":
            checked[name] = checked.get(name, 0) + count
            if checked[name] == sizes[name]:
                out(f"{name}: {size(sizes[name])} uploaded and read back, with the right SHA-256")

    yield tell


@contextmanager
def _bars(sizes: dict[str, int], out: Callable[[str], object]) -> Iterator[Progress]:
    """Show one bar for each step over all files, with the name of the file that is on its way."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    tasks: dict[Step, TaskID] = {}
    with Bars(*columns, TransferSpeedColumn(), TimeRemainingColumn()) as bars:

        def tell(step: Step, name: str, count: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task("", total=sum(sizes.values()))
            bars.update(tasks[step], advance=count, description=f"{WORDS[step]} {name}")

        yield tell


_SHOWN = 3
"""Lines of one reason."""


def warnings(looked: Sequence[FirstRows], pipeline: Pipeline) -> Iterator[str]:
    """Yield which of the first rows would go to quarantine, as lines; none if all are good."""
    for file in looked:
        if file.fault:
            yield f"WARNING: {file.file}: ingestion would refuse this file as a whole: {file.fault}"
        elif file.refused:
            of = text.counted(file.rows, "row") if file.rows < MOST else f"first {MOST:,} rows"
            yield f"WARNING: {file.file}: {file.refused:,} of its {of} would go to quarantine:"
            for reason, lines in file.reasons.items():
                yield f"  {len(lines):>7,} x {reason}{text.places(lines[:_SHOWN], len(lines))}"
            if sum(map(len, file.reasons.values())) > file.refused:
                yield "  (a row may have several reasons)"
            if file.refused > pipeline.max_quarantined * file.rows:
                share = f"{100 * pipeline.max_quarantined:g} %"
                yield f"  If all its rows are like these, it will be held back: more than {share} (`max_quarantined`)."


def plan_lines(planned: Sequence[PlannedFile]) -> Iterator[str]:
    """Yield what a delivery would do, as lines."""
    words = {"waiting": "waits already, with the same bytes", "ingested": "was ingested before, with the same bytes"}
    for file in planned:
        yield f"{file.name}: {words.get(file.state, f'{size(file.size)} to upload to {file.key}')}"
        yield from _before(file)
    yield "Nothing was uploaded. Leave out --dry-run to deliver."
    yield f"{CHECKED} To judge all rows first, and store nothing: rempart pipeline try NAME FILE"


def _before(file: PlannedFile) -> Iterator[str]:
    """Yield what the evidence tells about earlier ingestions of a file's bytes; nothing if it knows none."""
    if (known := file.before) is None:
        return
    held = f", {known.in_quarantine:,} still in quarantine" if known.in_quarantine else ""
    told = f"  these bytes were ingested on {text.moment(known.at)} ({counted(known.accepted, 'row')} accepted{held}): "
    if known.counts_again:
        yield f"{told}ingested again, a row replaces another one of its key that came since; equal rows change nothing"
    else:
        yield f"{told}ingesting them again changes nothing"
    if known.in_quarantine and not known.counts_again:
        yield "  To judge the rows in quarantine again, after you corrected the pipeline file: rempart quarantine again"


FEW = 3
"""Number of files up to which each has a line of its own."""


def lines(done: Delivered) -> Iterator[str]:
    """Yield the result of a delivery: a line for each file, or one for many new files."""
    new = [file for file in done.files if file.state == "new"]
    if len(new) > FEW:
        folder = f"{done.bucket}/{new[0].key.removesuffix(new[0].name)}"
        total = size(sum(file.size for file in new))
        yield (
            f"delivered {counted(len(new), 'file')} ({total}) to {folder} at site '{done.site}', "
            "each read back with the right SHA-256"
        )
    for file in done.files:
        where = f"{done.bucket}/{file.key} at site '{done.site}'"
        if file.state == "waiting":
            yield f"{file.name} is at {where} already, with the same bytes; nothing was uploaded"
        elif file.state == "ingested":
            yield f"{file.name} was ingested before, with the same bytes; nothing was uploaded"
        elif len(new) <= FEW:
            yield f"delivered {file.name} ({size(file.size)}, SHA-256 {file.sha256[:12]}) to {where}"
        elif file.before:
            yield f"{file.name} is one of them"
        yield from _before(file)


def following(spec: Pipeline, waiting: int, scheduled: tuple[datetime, timedelta] | None) -> Iterator[str]:
    """Yield what happens next with `waiting` delivered files, as lines."""
    name = spec.name
    if not waiting:
        yield f"No delivery waits. State of the pipeline: rempart pipeline show {name}"
        return
    yield f"{CHECKED} The ingestion judges each row by all rules."
    files = counted(waiting, "delivery waits", "deliveries wait")
    if spec.schedules.on_delivery:
        yield f"{files}. `schedules.on_delivery` starts ingest_{name} by itself, within about a minute."
        yield from after_snapshot(spec)
        return
    if scheduled is None:
        yield f"{files}. The pipeline file has no schedule, so you start the ingestion:"
    else:
        at, wait = scheduled
        yield (
            f"{files}. The DAG ingest_{name} ingests at {text.moment(at)} (in {text.span(wait.total_seconds())}), "
            f"and its assets start {_stages(spec)}. To start now:"
        )
    yield f"  rempart pipeline run {name} --follow"


def after_snapshot(spec: Pipeline) -> Iterator[str]:
    """Yield what a new snapshot of a pipeline starts by itself, and the command that shows it, as lines."""
    yield f"Its new snapshot starts {_stages(spec)} by itself: you need no `rempart pipeline run`."
    yield f"What runs now, and the result: rempart pipeline show {spec.name}"


def _stages(spec: Pipeline) -> str:
    """Return in words what a new snapshot of a pipeline starts."""
    if not isinstance(spec, ModelPipeline):
        return "the pipelines that read it, if there are any,"
    return "features, training and gate" if spec.retrain.on_features else "features"
