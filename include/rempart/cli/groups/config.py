"""Check the configuration and the pipeline files."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from rempart.errors import PipelineError

group = typer.Typer(no_args_is_help=True, help="Check rempart.yaml and the pipeline files.")


@group.command("check")
def config_check(
    pipeline: Annotated[str | None, typer.Argument(help="Name of a pipeline; default: all pipelines.")] = None,
) -> None:
    """Validate rempart.yaml and the pipeline files, and ask the policy about each place in them.

    Every fault names file, path and remedy.
    """
    from rempart.deployment.setup import paths
    from rempart.flows.training import check_pipeline
    from rempart.settings import config, pipelines
    from rempart.sovereignty import facts
    from rempart.sovereignty.places import in_use

    loaded = config.load()
    paths.ports_of(loaded, 0)  # ports may collide
    typer.echo(f"{config.project_root() / 'rempart.yaml'}: valid ({len(loaded.sites)} sites)")
    old = facts.stale(facts.in_use(loaded), datetime.now(UTC).date(), loaded.audit.facts_max_age)
    for line in facts.summaries(old, loaded.audit.facts_max_age):
        typer.echo(f"warning: {line}", err=True)
    if pipeline:
        check_pipeline.check(pipelines.named(pipeline))
        typer.echo(f"pipeline {pipeline}: valid")
        return
    faults, classifications = [], set()
    for name, found in pipelines.load_all().items():
        try:
            if isinstance(found, PipelineError):
                raise found
            classifications.add(found.classification)
            check_pipeline.check(found)
            typer.echo(f"pipeline {name}: valid")
        except PipelineError as fault:
            faults.append(fault.what)
    for decision in in_use(loaded, sorted(classifications), on=datetime.now(UTC).date()):
        if not decision.allowed:
            faults.append(decision.explain())
    if faults:
        raise PipelineError("\n".join(faults), "Correct each line above, then run `rempart config check` again.")
