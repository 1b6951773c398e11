"""Check the configuration and the pipeline files."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson
from rempart.errors import PipelineError, PlacementDenied

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.OPERATE, help="Check rempart.yaml and the pipeline files."
)


@group.command("check")
def config_check(as_json: AsJson = False) -> None:
    """Validate rempart.yaml and all pipeline files, and ask the policy about each place in them.

    Every fault names file, path and remedy. With --json, the faults of pipelines and places are in the document, and
    the exit code is 1 if there are any.

    Example:
        rempart config check
        rempart config check --json
    """
    from rempart.cli import configuration
    from rempart.flows.training import check_pipeline
    from rempart.settings import pipelines
    from rempart.sovereignty.places import in_use

    json_documents.begin(as_json)
    loaded = configuration.check(quiet=as_json)
    today = datetime.now(UTC).date()
    faults, valid, classifications = [], [], set()
    for name, found in pipelines.load_all().items():
        try:
            if isinstance(found, PipelineError):
                raise found
            classifications.add(found.classification)
            check_pipeline.check(found)
            check_pipeline.check_origin(loaded, found, on=today)
            valid.append(name)
            if not as_json:
                rendering.tell(f"pipeline {name}: valid")
        except (PipelineError, PlacementDenied) as fault:
            faults.append(fault.what)
    for decision in in_use(loaded, sorted(classifications), on=today):
        if not decision.allowed:
            faults.append(decision.explain())
    if as_json:
        json_documents.show({"valid": not faults, "sites": sorted(loaded.sites), "pipelines": valid, "faults": faults})
        raise typer.Exit(1 if faults else 0)
    if faults:
        raise PipelineError("\n".join(faults), "Correct each line above, then run `rempart config check` again.")
