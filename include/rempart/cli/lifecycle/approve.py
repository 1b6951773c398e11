"""The command `rempart model approve`: what it would do first, and only with `--yes` the promotion."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle.remove import DryRun, Yes, check_one


def approve(
    name: Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")],
    version: Annotated[str, typer.Argument(help="Version that waits: `rempart model list` shows it.")],
    role: Annotated[
        str, typer.Option(help="The role in which you approve, for the evidence: never a name.", metavar="ROLE")
    ],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Promote a candidate that passed the gate and waits for a person (`gate: {approval: person}`).

    Its files are compared with the record first. If another version became champion since, it is judged anew and not
    promoted. Exit code 1: it was not promoted.

    Example:
        rempart model approve hotel_bookings 3 --role model-owner
        rempart model approve hotel_bookings 3 --role model-owner --yes
    """
    from rempart.cli.views import names
    from rempart.flows.approval import approve as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    check_one(dry_run, yes)
    json_documents.begin(as_json)
    spec = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    platform = open_platform()
    done = flow.approve(platform, spec, version, by=f"role {role}", dry_run=not yes, asked=platform.clock())
    if as_json:
        json_documents.show(done)
    else:
        rendering.tell(done.told)
        if not yes:
            rendering.tell("Nothing was changed. To approve it, add --yes.")
    raise typer.Exit(0 if done.promoted or not yes else 1)
