"""The command `rempart model retire`: the plan first, and only with `--yes` its execution."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle.remove import DryRun, Yes, check_one


def retire(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    version: Annotated[
        str | None, typer.Argument(help="Retire this version alone, whatever its age. Default: those due by the rule.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete the files and training sets of a model's old versions at every site. Evidence and figures stay.

    Due is a version that was not used for `retention.*.models` and is none of the `newest_models`. The champion, the
    version to which a rollback returns, and what restore points need are never retired. The models of trials of old
    searches go, too. The same command completes an interrupted retirement. Exit code 1: it is refused now, or
    something could not be deleted yet.

    Example:
        rempart model retire hotel_bookings
        rempart model retire hotel_bookings 3 --yes
    """
    from rempart.cli.views import names
    from rempart.flows.retirement import execute
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    check_one(dry_run, yes)
    json_documents.begin(as_json)
    spec = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    platform = open_platform()
    if not yes:
        planned = execute.look(platform, spec, version)
        if as_json:
            json_documents.show(planned)
        else:
            due = planned.retire or planned.complete or planned.trials
            end = "It is refused now" if planned.refusals else "To execute it, add --yes" if due else "Nothing is due"
            rendering.show([*planned.lines(), f"Nothing was changed. {end}."])
        raise typer.Exit(1 if planned.refusals else 0)
    done = execute.retire(platform, spec, version, dry_run=False)
    if as_json:
        json_documents.show(done)
    else:
        rendering.show([*done.plan.lines(), *done.lines()])
    raise typer.Exit(1 if done.left else 0)
