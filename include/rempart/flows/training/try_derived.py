"""Give the files that a pipeline is tried on. For a derived one: its rows over the files of its inputs.

The inputs' files are judged as in a try of their own, and the query runs on the accepted rows. A sampled input makes a
join thinner than it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rempart.errors import IngestError
from rempart.flows.training import try_pipeline
from rempart.ingestion.derived import inputs
from rempart.ingestion.derived.binding import Query
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.sampling import extract
from rempart.ingestion.sampling.names import shown
from rempart.settings.pipeline import Pipeline


@contextmanager
def files_of(pipeline: Pipeline, files: Sequence[Path]) -> Iterator[list[Path]]:
    """Provide the files to try a pipeline on: those named, else the project's own.

    For a derived pipeline the files are those of its inputs, each named after its input. A file with labels is named
    after the pipeline that delivers them. Raises IngestError, PipelineError.
    """
    files, labels = try_pipeline.parted(pipeline, files)
    if not inputs.is_derived(pipeline):
        yield [*(files or try_pipeline.shipped(pipeline.name)), *labels]
        return
    with tempfile.TemporaryDirectory(prefix="rempart-try-") as name:
        folder = Path(name) / "result"
        folder.mkdir()
        yield [derived_rows(pipeline, files, Path(name), folder / f"{pipeline.name}.parquet"), *labels]


def derived_rows(pipeline: Pipeline, files: Sequence[Path], folder: Path, out: Path) -> Path:
    """Write the derived rows of a pipeline over files of its inputs to `out`, a Parquet file, and return it."""
    specs = inputs.declared_inputs(pipeline)
    bound = inputs.bound(pipeline, specs)
    write_rows(pipeline.name, bound.sql, bound.query, specs, files, folder, out, key=pipeline.key)
    return out


def write_rows(
    name: str,
    sql: str,
    query: Query,
    specs: Mapping[str, Pipeline],
    files: Sequence[Path],
    folder: Path,
    out: Path,
    *,
    key: Sequence[str],
) -> None:
    """Write the rows of a bound query over files of its inputs to `out`. Raises IngestError for a file of no input."""
    _check_names(name, files, set(specs).union(*map(inputs.all_inputs, specs.values())))
    read = {}
    for input_name, spec in specs.items():
        place = folder / input_name
        place.mkdir()
        parts: Sequence[Path]
        if inputs.is_derived(spec):
            deeper = inputs.all_inputs(spec)
            mine = [file for file in files if _stem(file) in deeper]
            parts = [derived_rows(spec, mine, place, place / "derived.parquet")]
        else:
            mine = [file for file in files if _stem(file) == input_name] or try_pipeline.shipped(input_name)
            _, parts = try_pipeline.judged(spec, mine, place, extract.MOST)
        read[input_name] = (snapshot_columns(spec), parts)
    execute(sql, query, read, key, out, try_pipeline.resources(folder))


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


def _check_names(name: str, files: Sequence[Path], reached: Collection[str]) -> None:
    for file in files:
        if _stem(file) not in reached:
            raise IngestError(
                f"derive '{name}' from files: {shown(file.name)} is named after none of its inputs: "
                f"{', '.join(sorted(reached))}",
                f"Name each file after its input, such as {min(reached)}.csv.",
            )
