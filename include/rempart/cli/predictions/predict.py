"""Predict the rows of a file with the champion of a pipeline."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import rendering


def predict(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    file: Annotated[
        Path, typer.Argument(help="Rows with the columns of the source: a .csv, .tsv, .txt, .jsonl or .parquet file.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="File for all predictions, ending in .parquet or .csv.", dir_okay=False)
    ] = None,
) -> None:
    """Predict the rows of a file with the champion, whose files are compared with their record first.

    The file has the columns of the source, written as in a delivery. Columns that the model does not read may be left
    out, and those that may be empty. Features of trailing views come from the online store, as they are now. Without
    --output, the first predictions are shown. Exit code 1: some rows cannot be predicted; each reason is listed with
    its lines.

    Example:

        rempart model predict hotel_bookings bookings.csv
        rempart model predict hotel_bookings bookings.csv --output predictions.parquet
    """
    from rempart.cli.predictions import lines
    from rempart.cli.views import names
    from rempart.flows.prediction import files
    from rempart.flows.prediction.champion import champion_of
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.sovereignty.classification import may_be_personal

    if output is not None and (fault := files.ending_fault(output)):
        raise typer.BadParameter(fault, param_hint="--output")
    pipeline = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    champion = champion_of(open_platform(), pipeline)
    with files.scored(champion, pipeline, file) as found:
        rendering.show([*lines.answered_by(champion.model), *lines.absent(found.absent)])
        if output is not None:
            rendering.show([lines.written(files.write(found.batches, output), output)])
        else:
            hidden = list(map(files.key_column, pipeline.key)) if may_be_personal(pipeline.classification) else ()
            first = next(found.batches, None)
            rows = sum(batch.num_rows for batch in chain(filter(None, [first]), found.batches))
            rendering.show(lines.shown(first, rows, hidden))
        rendering.show(lines.refused(found.refused))
    raise typer.Exit(1 if found.refused else 0)
