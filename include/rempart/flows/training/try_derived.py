"""Give the files that a pipeline is tried on. For a derived one: its rows over the files of its inputs.

The inputs' files are judged as in a try of their own, and the query runs on the accepted rows. A sampled input makes a
join thinner than it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rempart.errors import IngestError
from rempart.flows.training import try_pipeline
from rempart.ingestion.derived import inputs
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.sampling import extract
from rempart.settings.pipeline import Pipeline


@contextmanager
def files_of(pipeline: Pipeline, files: Sequence[Path]) -> Iterator[list[Path]]:
    """Provide the files to try a pipeline on: those named, else the project's own.

    For a derived pipeline the files are those of its inputs, each named after its input. Raises IngestError,
    PipelineError.
    """
    if not inputs.is_derived(pipeline):
        yield list(files) or try_pipeline.shipped(pipeline.name)
        return
    with tempfile.TemporaryDirectory(prefix="rempart-try-") as name:
        folder = Path(name) / "result"
        folder.mkdir()
        yield [derived_rows(pipeline, files, Path(name), folder / f"{pipeline.name}.parquet")]


def derived_rows(pipeline: Pipeline, files: Sequence[Path], folder: Path, out: Path) -> Path:
    """Write the derived rows of a pipeline over files of its inputs to `out`, a Parquet file, and return it."""
    specs = inputs.declared_inputs(pipeline)
    bound = inputs.bound(pipeline, specs)
    _check_names(pipeline, files)
    read = {}
    for name, spec in specs.items():
        place = folder / name
        place.mkdir()
        parts: Sequence[Path]
        if inputs.is_derived(spec):
            parts = [derived_rows(spec, files, place, place / "derived.parquet")]
        else:
            mine = [file for file in files if file.name.split(".")[0] == name] or try_pipeline.shipped(name)
            _, parts = try_pipeline.judged(spec, mine, place, extract.MOST)
        read[name] = (snapshot_columns(spec), parts)
    execute(bound.sql, bound.query, read, pipeline.key, out, try_pipeline.resources(folder))
    return out


def _check_names(pipeline: Pipeline, files: Sequence[Path]) -> None:
    reached = inputs.all_inputs(pipeline)
    for file in files:
        if file.name.split(".")[0] not in reached:
            raise IngestError(
                f"try pipeline '{pipeline.name}': {file.name} is named after none of its inputs: "
                f"{', '.join(sorted(reached))}",
                f"Name each file after its input, such as {min(reached)}.csv.",
            )
