"""The commands `rempart pipeline reset`, `remove` and `rename`: the plan first, and only with `--yes` its execution."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.errors import PipelineError
from rempart.flows.shared.removals import What

Name = Annotated[str, typer.Argument(help="Name of the pipeline, as in include/pipelines/NAME.yaml.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan. Nothing is changed. This is the default.")]
Yes = Annotated[bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown.")]
AcceptLoss = Annotated[
    bool, typer.Option("--accept-loss", help="Go on although accepted rows are no longer stored as deliveries.")
]


def check_one(dry_run: bool, yes: bool) -> None:
    """Raise BadParameter if a plan is to be shown only, and executed."""
    if dry_run and yes:
        raise typer.BadParameter("pass either --dry-run or --yes")


def reset(
    name: Name, dry_run: DryRun = False, yes: Yes = False, accept_loss: AcceptLoss = False, as_json: AsJson = False
) -> None:
    """Delete a pipeline's snapshots, quarantine, cursor and features, and let its deliveries wait again.

    Use it after the key or the meaning of columns changed. The next run judges the stored deliveries again, in their
    order; a database or API is read again from its first row on. Models, training sets and the ledger stay. The same
    command completes an interrupted reset. Exit code 1: something could not be deleted yet.

    Example:
        rempart pipeline reset hotel_bookings
        rempart pipeline reset hotel_bookings --yes
    """
    _change(name, "reset", dry_run=dry_run, yes=yes, accept_loss=accept_loss, as_json=as_json)


def remove(name: Name, dry_run: DryRun = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete all data, features and models of a pipeline at every site, and take its file out of the project.

    The ledger, locked backups and recorded erasures stay. The file moves to include/pipelines/removed/. The same
    command completes an interrupted removal. Exit code 1: something could not be deleted yet.

    Example:
        rempart pipeline remove hotel_bookings
        rempart pipeline remove hotel_bookings --yes
    """
    _change(name, "remove", dry_run=dry_run, yes=yes, accept_loss=False, as_json=as_json)


def rename(
    old: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    new: Annotated[str, typer.Argument(help="The name that you want.")],
) -> None:
    """Say how a pipeline gets another name: as a new pipeline, whose snapshot you compare. It changes nothing.

    Evidence, erasures, locked backups and models bear the name, so none of them can be renamed (docs/adr/0098).

    Example:
        rempart pipeline rename hotel_bookings bookings
    """
    from rempart.cli.views import names
    from rempart.settings import pipelines

    spec = pipelines.named(names.pipeline(old, pipelines.names()))
    if new in pipelines.names():
        raise PipelineError(f"rename '{old}': there is a pipeline '{new}' already", "Choose another name.")
    raise PipelineError(
        f"rename '{old}' to '{new}': evidence, erasures, locked backups, features and models bear the name "
        f"'{old}' and cannot be renamed. Nothing was changed",
        f"1. Copy include/pipelines/{old}.yaml to include/pipelines/{new}.yaml; set `name: {new}` and, instead of "
        f"`{spec.source.prefix}`, a prefix of its own. 2. Deliver the files again (`rempart pipeline deliver {new} "
        f"FILE`), or let its source be read; erase erased rows of '{old}' in '{new}' as well. 3. `rempart pipeline run "
        f"{new} --follow`, and compare the snapshots: the same rows have the same id. 4. `rempart pipeline remove "
        f"{old}` shows the plan for the old one.",
    )


def _change(name: str, what: What, *, dry_run: bool, yes: bool, accept_loss: bool, as_json: bool) -> None:
    from rempart.airflow_api import AirflowApi
    from rempart.cli.run_follow import dag_ids
    from rempart.flows.removal import execute
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import config, pipelines

    check_one(dry_run, yes)
    json_documents.begin(as_json)
    spec, platform = pipelines.named_or_removed(name), open_platform()
    api = AirflowApi(config.environment_connections("airflow_api"))

    def runs() -> list[str]:
        dags = (*dag_ids(name), f"profile_data_{name}", f"score_{name}")
        return [run for dag in dags for run in api.unfinished_runs(dag)]

    planned = execute.look(platform, spec, what, runs, accept_loss=accept_loss)
    if not yes:
        if as_json:
            json_documents.show(planned)
        else:
            end = "It is refused now" if planned.refusals else "To execute the plan, add --yes"
            rendering.show([*planned.lines(), f"Nothing was changed. {end}."])
        raise typer.Exit(1 if planned.refusals else 0)
    if not as_json:
        rendering.show(planned.lines())
    done = execute.remove(platform, spec, what, runs, accept_loss=accept_loss)
    if as_json:
        json_documents.show({"plan": planned, "result": done})
    else:
        rendering.show(done.lines())
    raise typer.Exit(1 if done.left else 0)
