"""Draft a derived pipeline from a SQL file: its rows over files of its inputs show the types, the key and the time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rempart.flows.training import try_derived
from rempart.ingestion.derived.binding import bind
from rempart.ingestion.derived.inputs import text_of
from rempart.ingestion.draft import save_draft
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.sampling.files import check_names, of_file
from rempart.settings.pipelines import named


def save_derived_draft(
    sql: str, inputs: Sequence[str], files: Sequence[Path], name: str | None = None, *, target: str | None = None
) -> Path:
    """Write the draft of a pipeline that is derived from `inputs` by the SQL file `sql`, and return its path.

    `files`: one for each input, named after it; by default the project's own. `name`: by default that of the SQL file.
    `target`: the column of the query that the model predicts; without it, the draft guesses.
    Raises PipelineError naming each fault of the query with its line, IngestError.
    """
    specs = {input_name: named(input_name) for input_name in inputs}
    query = bind(sql, text_of(sql), {input_name: snapshot_columns(spec) for input_name, spec in specs.items()})
    called = name or Path(sql).stem
    with tempfile.TemporaryDirectory(prefix="rempart-draft-") as folder:
        out = Path(folder) / f"{called}.parquet"
        try_derived.write_rows(called, sql, query, specs, files, Path(folder), out, key=())
        sample = of_file(out)
    check_names(sql, list(sample.header), "Name them in the SQL file, such as `AS booking_id`.")
    source = {"kind": "derived", "inputs": f"[{', '.join(inputs)}]", "sql": sql}
    return save_draft(replace(sample, name=sql, source=source), called, target=target)
