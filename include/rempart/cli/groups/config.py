"""Check the configuration and the pipeline files."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from rempart.cli import panels
from rempart.errors import PipelineError, PlacementDenied

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.OPERATE, help="Check rempart.yaml and the pipeline files."
)


@group.command("check")
def config_check() -> None:
    """Validate rempart.yaml and all pipeline files, and ask the policy about each place in them.

    Every fault names file, path and remedy.

    Example:
        rempart config check
    """
    from rempart.cli import configuration
    from rempart.flows.training import check_pipeline
    from rempart.settings import pipelines
    from rempart.sovereignty.places import in_use

    loaded = configuration.check()
    today = datetime.now(UTC).date()
    faults, classifications = [], set()
    for name, found in pipelines.load_all().items():
        try:
            if isinstance(found, PipelineError):
                raise found
            classifications.add(found.classification)
            check_pipeline.check(found)
            check_pipeline.check_origin(loaded, found, on=today)
            typer.echo(f"pipeline {name}: valid")
        except (PipelineError, PlacementDenied) as fault:
            faults.append(fault.what)
    for decision in in_use(loaded, sorted(classifications), on=today):
        if not decision.allowed:
            faults.append(decision.explain())
    if faults:
        raise PipelineError("\n".join(faults), "Correct each line above, then run `rempart config check` again.")
