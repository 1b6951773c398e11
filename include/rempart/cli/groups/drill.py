"""Run a restore drill, and make its report again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(invoke_without_command=True)


class _Scenario(StrEnum):
    routine = "routine"
    attack = "cyber-attack"


class _Profile(StrEnum):
    financial = "financial"
    nis2 = "nis2"
    none = "none"


@group.callback()
def drill(
    context: typer.Context,
    point: Annotated[
        str | None, typer.Option(help="Id of the restore point, as in `rempart points list`; default: the newest.")
    ] = None,
    scenario: Annotated[_Scenario, typer.Option(help="Assumed event.")] = _Scenario.routine,
) -> None:
    """Restore a restore point into a sandbox, prove it, measure RPO and RTO, and file the report.

    Running services are not touched, and Airflow is not needed. Exit code 1 if a check failed or an objective was
    missed.
    """
    if context.invoked_subcommand:
        return
    from rempart.flows.drill import drill as flow
    from rempart.flows.shared.platform import open_platform

    done = flow.drill(open_platform(), point, scenario=scenario.value)
    typer.echo(
        f"restore point {done.point_id} is proved: {len(done.checks)} checks, RTO {done.rto_seconds:.0f} s, RPO "
        f"{done.rpo_seconds:.0f} s"
    )


@group.command("report")
def drill_report(
    profile: Annotated[
        _Profile | None, typer.Option(help="A single profile, or none; default: the profiles in rempart.yaml.")
    ] = None,
    record: Annotated[int | None, typer.Option(help="Number of the drill's record; default: the newest.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the two files of the report.")] = Path(),
) -> None:
    """Rebuild the report of a drill from the ledger, as JSON and HTML."""
    from rempart.flows.drill import drill_report as flow
    from rempart.flows.shared.platform import open_platform

    for made in flow.make_again(open_platform(), profile.value if profile else None, record, out):
        typer.echo(made.line)
