"""Probe the clusters that train."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import panels, rendering
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.OPERATE,
    help="GPU pools: check each live cluster, and print the remedies.",
)


@group.command("doctor")
def pool_doctor(
    name: Annotated[
        str | None, typer.Argument(help="Name of a pool, as under gpu_pools in rempart.yaml; default: all pools.")
    ] = None,
    probe: Annotated[
        bool, typer.Option(help="Also run a short pod that checks the image and what jobs must reach.")
    ] = False,
    as_json: AsJson = False,
    wait: Annotated[
        int, typer.Option(min=1, help="Maximum seconds for the pod, including the pull of its image.")
    ] = 180,
) -> None:
    """Check a pool's live cluster. Exit code 0: no check failed; 1: a check failed; 2: a cluster did not answer.

    Example:
        rempart pool doctor
        rempart pool doctor gpu-paris --probe --wait 600
    """
    from rempart.flows.doctor import doctor_pool as flow

    found = flow.diagnose([name] if name else [], probe=probe, seconds=wait)
    told = (line for diagnosis in found for line in diagnosis.lines())
    rendering.show(flow.as_json(found).split("\n") if as_json else told)
    raise typer.Exit(flow.exit_code(found))
