"""Tell the newest verdict on a champion."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson


def drift(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    as_json: AsJson = False,
) -> None:
    """Show the newest verdict on a champion: have its inputs, predictions or errors moved since its training?

    Exit code 0: no; 1: yes; 2: unknown, also if the verdict is two days old or of another version.

    Example:

        rempart model drift hotel_bookings
    """
    from rempart.cli.monitoring import lines
    from rempart.cli.views import facts, names
    from rempart.settings import pipelines
    from rempart.web.read_models.watched import drift as watched

    json_documents.begin(as_json)
    found = facts.gather()
    names.require_pipelines(found)
    model = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names()))).name
    told = next(each for each in watched.all_watched(found, found.at) if each.pipeline == model)
    if as_json:
        json_documents.show({"at": found.at, "unknown": found.unknown(), **lines.document(told)})
    else:
        rendering.show(lines.verdict(told))
    raise typer.Exit({"good": 0, "bad": 1}.get(told.state, 2))
