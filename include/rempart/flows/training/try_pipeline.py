"""Try a pipeline on files: ingest, features and baseline in this process, without Airflow, a site or a database.

The rows are judged by the engine of ingestion, and the features are those of the offline store's SQL, in DuckDB. A
large file is sampled. Nothing is stored.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.errors import IngestError, LabelsMissing, RempartError
from rempart.features import in_memory
from rempart.features.label_feed import feed_of
from rempart.features.labels import Received
from rempart.features.used import sources
from rempart.flows.ingestion import deliver
from rempart.flows.training import check_pipeline, labelled, try_training
from rempart.flows.training.labelled import split
from rempart.flows.training.train import without_late
from rempart.flows.training.try_training import Baseline, TriedModel
from rempart.ingestion import expectations
from rempart.ingestion.acceptance import CONFLICT, DUPLICATE, good, held_back
from rempart.ingestion.engine import deliveries
from rempart.ingestion.engine.batches import RefusedRow
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.ingestion.profiles.measures import profile
from rempart.ingestion.profiles.page import page as profile_page
from rempart.ingestion.sampling import extract, moment_orders
from rempart.ingestion.sampling.moment_orders import Disorder
from rempart.ingestion.sampling.names import shown
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import sources_of
from rempart.settings.sources import DerivedSource
from rempart.sovereignty.classification import may_be_personal

if TYPE_CHECKING:
    import pyarrow as pa

STAGES = ("check", "judge rows", "build features", "score baseline")
"""Of a pipeline without a model, only the first two run."""
TRAIN = "train model"
"""The stage after them, if it is asked for."""
HIDDEN = "(hidden)"
"""Stands for a personal value."""
HEAD = 5
_EXAMPLES = 3
_MEMORY = 512 << 20
logger = logging.getLogger(__name__)
Told = Callable[[str, str], None]
"""Takes the name of a stage and what it did; an empty text at its start."""


@dataclass(frozen=True)
class Example:
    """A refused row. `line`: its number in the file, if known. `text`: as received; None if it may be personal."""

    line: int | None
    text: str | None


@dataclass(frozen=True)
class Refusal:
    """Rows of a file that are refused for one reason."""

    reason: str
    rows: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class TriedFile:
    """What became of one file. `sampled`: only some of its rows were read. `fault`: why it is refused as a whole.

    `held_back`: more rows are refused than `max_quarantined` allows, so that none would be accepted. `repeated`: good
    rows that do not count, because an equal or newer row has their key. `same_key`: these, and rows that are refused
    because an earlier row has their key. `key`: the columns that identify a row.
    """

    file: str
    sampled: bool
    read: int
    accepted: int
    refusals: Sequence[Refusal]
    held_back: bool
    fault: str | None
    repeated: int = 0
    same_key: int = 0
    key: Sequence[str] = ()

    @property
    def refused(self) -> int:
        """Return the rows that are neither accepted nor repeated."""
        return self.read - self.accepted - self.repeated


@dataclass(frozen=True)
class Tried:
    """The result of a try. `head`: first rows of the training set, personal values hidden. `open`: why there is no
    baseline or model, and the remedy. `labels`: rows by the state of their label, if another pipeline delivers these.
    `model`: if one was trained. `late`: rows before the hold-out whose target became known only after it began.
    `undated`: rows of which nothing tells when their target became known. `waiting`: open rows. `short`: why the
    files, though right, cover too short a time for a hold-out. `disordered`: of moments of the pipeline that are not in
    their order, how many."""

    pipeline: str
    files: Sequence[TriedFile]
    training_rows: int
    columns: Sequence[str]
    head: Sequence[Mapping[str, Any]]
    baseline: Baseline | None
    open: Sequence[str]
    labels: Mapping[str, int] | None = None
    model: TriedModel | None = None
    late: int = 0
    undated: int = 0
    waiting: int = 0
    short: str = ""
    disordered: Sequence[Disorder] = ()

    @property
    def good(self) -> bool:
        """Return whether every file would be accepted, and a model, if there is one, could be judged."""
        return not self.open and not any(file.fault or file.held_back for file in self.files)


def stages(pipeline: Pipeline, *, train: bool = False) -> Sequence[str]:
    """Return the stages of a try."""
    return (*STAGES, *([TRAIN] if train else [])) if isinstance(pipeline, ModelPipeline) else STAGES[:2]


def shipped(name: str) -> list[Path]:
    """Return the project's own data file of a pipeline, below `data/`. Raises IngestError if there is none."""
    found = sorted(path for path in (project_root() / "data").rglob(f"{name}.*") if extract.readable(path))
    if not found:
        raise IngestError(
            f"try pipeline '{name}': no file was named, and data/ has none of this name",
            f"Pass a delivery: `rempart pipeline try {name} your.csv`.",
        )
    return found[:1]


def parted(pipeline: Pipeline, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of a pipeline, and those of pipelines that give it labels or values: named after these."""
    labels = pipeline.prediction.from_ if isinstance(pipeline, ModelPipeline) else None
    others = {*sources_of(pipeline), *([labels.pipeline] if labels else [])}
    inputs = pipeline.source.inputs if isinstance(pipeline.source, DerivedSource) else ()
    own = [file for file in files if _stem(file) not in others or _stem(file) in inputs]
    return own, [file for file in files if _stem(file) in others]


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


def try_pipeline(
    pipeline: Pipeline,
    files: Sequence[Path],
    told: Told,
    *,
    page: Path | None = None,
    most: int = extract.MOST,
    now: datetime | None = None,
    train: bool = False,
) -> Tried:
    """Try a pipeline on files, each sampled to its share of `most` bytes. `page`: file for the rows' data profile.

    Labels of another pipeline, and rows of one whose views are used, come from files of its name, below data/ if none
    is given; `now` (UTC) is the time at which labels are known. Without a file, used values are empty. `train`: train a
    model, too, in a process of its own. Raises PipelineError if the pipeline is wrong, as `check` does; IngestError if
    a file cannot be read; FeatureError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    told("check", "")
    check_pipeline.check(pipeline)
    told("check", "the file is valid")
    told("judge rows", "")
    with tempfile.TemporaryDirectory(prefix="rempart-try-") as name:
        folder = Path(name)
        own, others = parted(pipeline, files)
        tried, parts = judged(pipeline, own, folder, most)
        rows = pa.concat_tables(map(pq.read_table, parts)) if parts else None
        received, used_rows = None, dict[str, pa.Table]()
        if rows is not None and isinstance(pipeline, ModelPipeline):
            received = _labels(pipeline, others, folder, most, now or datetime.now(UTC), tried)
            for name, source in sources.sources(pipeline).items():
                used_rows[name] = _rows(source, _files_of(name, others), folder, most, tried)
        if page is not None:
            _profile(pipeline, parts, folder, page)
    read, accepted, repeated, refused = (sum(counts) for counts in zip(*map(_counts, tried), strict=True))
    told("judge rows", f"{counted(read, 'row')}: {good(accepted, repeated)}, {refused:,} refused")
    if rows is None:
        return Tried(pipeline.name, tried, 0, (), (), None, ("No row was accepted: look at the reasons above.",))
    if not isinstance(pipeline, ModelPipeline):
        return Tried(pipeline.name, tried, 0, (), (), None, ())
    disordered = moment_orders.disorders(pipeline, rows)
    told("build features", "")
    try:
        built = in_memory.build(pipeline, rows, received, used_rows)
    except LabelsMissing as missing:
        return Tried(pipeline.name, tried, 0, (), (), None, (f"No example: {missing.what}.", missing.hint))
    training, used = built.table, built.labels
    learnable = without_late(pipeline, training)
    undated = labelled.undated(training) - labelled.undated(learnable)
    late = training.num_rows - learnable.num_rows - undated
    short = "" if undated else try_training.too_short(pipeline, training, learnable)
    states = {**asdict(used.rows), "late": late} if used else None
    training = learnable
    empty = "".join(f"; pass {name}.csv for those of '{name}'" for name, of in used_rows.items() if not of.num_rows)
    told("build features", f"{len(pipeline.model_inputs())} features of {counted(training.num_rows, 'row')}{empty}")
    told("score baseline", "")
    baseline: Baseline | None = None
    left: Sequence[str] = ()
    if not short:
        baseline, left = try_training.baseline(pipeline, training, whole=not any(file.sampled for file in tried))
    elif train:
        left = ("No model: it needs held-out rows and rows before them.",)
    told("score baseline", f"{baseline.metric} {baseline.value:.4g}" if baseline else "not possible on these rows")
    first = head(pipeline, training)
    found = Tried(
        pipeline.name,
        tried,
        training.num_rows,
        training.column_names,
        first,
        baseline,
        left,
        states,
        late=late,
        undated=undated,
        waiting=built.open,
        short=short,
        disordered=disordered,
    )
    return _with_model(found, pipeline, training, told) if train and baseline else found


def _with_model(tried: Tried, pipeline: ModelPipeline, training: pa.Table, told: Told) -> Tried:
    """Return a try with the scores of a model, or with why there are none."""
    told(TRAIN, "")
    metric = pipeline.gate.metric
    try:
        model = try_training.train(pipeline, split(pipeline, training))
    except RempartError as error:
        told(TRAIN, "failed")
        return replace(tried, open=(*tried.open, f"No model: {error.what}.", error.hint))
    told(TRAIN, f"{metric} {model.metrics[metric]:.4g}")
    return replace(tried, model=model)


def _labels(
    pipeline: ModelPipeline, files: Sequence[Path], folder: Path, most: int, now: datetime, tried: list[TriedFile]
) -> Received | None:
    """Return the accepted labels of files of another pipeline, if it delivers them. What became of a file is added to
    `tried`. Raises IngestError without a file.
    """
    if (feed := feed_of(pipeline)) is None:
        return None
    name = feed.source.name
    if not (chosen := _files_of(name, files)):
        raise IngestError(
            f"try pipeline '{pipeline.name}': its labels come from '{name}', and neither a file nor data/ has them",
            f"Pass a delivery of each, named after its pipeline: `rempart pipeline try {pipeline.name} "
            f"{pipeline.name}.csv {name}.csv`.",
        )
    return Received(feed, _rows(feed.source, chosen, folder, most, tried).to_reader(), None, now)


def _files_of(name: str, files: Sequence[Path]) -> list[Path]:
    """Return the files of a pipeline among these; without any its file below data/, if there is one."""
    if chosen := [file for file in files if _stem(file) == name]:
        return chosen
    with suppress(IngestError):
        return shipped(name)
    return []


def _rows(source: Pipeline, files: Sequence[Path], folder: Path, most: int, tried: list[TriedFile]) -> pa.Table:
    """Return the accepted rows of another pipeline's files; what became of these is added to `tried`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = arrow_schema(snapshot_columns(source)).empty_table()
    if not files:
        return empty
    (place := folder / f"of_{source.name}").mkdir(exist_ok=True)
    told, parts = judged(source, files, place, most)
    tried += told
    return pa.concat_tables(map(pq.read_table, parts)) if parts else empty


def _profile(pipeline: Pipeline, parts: Sequence[Path], folder: Path, page: Path) -> None:
    """Write the data profile of accepted rows. Raises IngestError."""
    found = profile(
        parts,
        {name: column.full_type for name, column in pipeline.columns.items()},
        pipeline.key,
        resources(folder),
        pipeline=pipeline.name,
        snapshot="(tried rows)",
        classification=pipeline.classification,
    )
    try:
        page.write_text(profile_page(found), encoding="utf-8")
    except OSError as cause:
        raise IngestError(
            f"write {shown(page)}: {cause.strerror}", "Pass a file in a folder that you may write."
        ) from cause


def resources(folder: Path) -> Resources:
    """Return what the engine may use during a try."""
    return Resources(memory=_MEMORY, threads=2, spill=folder / "spill")


def judged(
    pipeline: Pipeline, files: Sequence[Path], folder: Path, most: int
) -> tuple[list[TriedFile], Sequence[Path]]:
    """Return what became of each file, and the parts with the accepted rows of all."""
    taken = [extract.take(file, folder / f"{i:03d}", most // len(files)) for i, file in enumerate(files)]
    judge = partial(expectations.broken, pipeline.expectations)
    lenient = pipeline.model_copy(update={"max_quarantined": 1.0})  # a try goes on where ingestion would wait
    limits = Limits()
    found = deliveries.take_in([t.file for t in taken], [], lenient, folder, resources(folder), limits, judge)
    held = held_back([(d.delivered, len(d.refused)) for d in found.deliveries], pipeline.max_quarantined)
    hidden = may_be_personal(pipeline.classification)
    tried = [
        TriedFile(
            file.name,
            not sample.whole,
            staged.delivered,
            staged.good - staged.repeated,
            list(_refusals(staged.refused, sample, hidden=hidden)),
            i in held,
            staged.fault and _fault(pipeline, file, staged.fault),
            staged.repeated,
            staged.repeated + sum(not {DUPLICATE, CONFLICT}.isdisjoint(row.reasons) for row in staged.refused),
            pipeline.row_key,
        )
        for i, (file, sample, staged) in enumerate(zip(files, taken, found.deliveries, strict=True))
    ]
    return tried, [part.file for part in found.parts]


def _counts(file: TriedFile) -> tuple[int, int, int, int]:
    return file.read, file.accepted, file.repeated, file.refused


def _fault(pipeline: Pipeline, file: Path, told: str) -> str:
    """Return why a file is refused as a whole: with the names in its header, which ingestion does not repeat."""
    found = None if isinstance(pipeline.source, DerivedSource) else deliver.file_fault(pipeline, file)
    return found.what() if found else told


def _refusals(refused: Iterable[RefusedRow], sample: extract.Extract, *, hidden: bool) -> Iterator[Refusal]:
    """Yield the reasons against rows of a file, the most frequent first."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {}
    for row in refused:
        for reason in row.reasons:
            counts[reason] += 1
            if len(some := examples.setdefault(reason, [])) < _EXAMPLES:
                some.append(Example(sample.line(row.line), None if hidden else row.raw[:200]))
    for reason, rows in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield Refusal(reason, rows, examples[reason])


def head(pipeline: Pipeline, training: pa.Table, rows: int = HEAD) -> list[dict[str, Any]]:
    """Return the first rows of a training set. Of personal data, keys, texts and arrays are hidden."""
    hidden: set[str] = set()
    if may_be_personal(pipeline.classification):
        texts = {name for name, column in pipeline.columns.items() if column.type in ("string", "array")}
        secret = texts | set(pipeline.key)
        ends = tuple(f"__{column}" for column in secret)  # of features; a column's own name may hold `__`, too
        hidden = {name for name in training.column_names if name in secret or name.endswith(ends)}
    return [
        {name: HIDDEN if name in hidden and value is not None else value for name, value in row.items()}
        for row in training.slice(0, rows).to_pylist()
    ]
