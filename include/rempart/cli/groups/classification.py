"""Record what derived data counts as."""

from __future__ import annotations

from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="The classification of derived data.")


@group.command("lower")
def classification_lower(
    pipeline: str,
    to: Annotated[str, typer.Option(help="New classification: public, internal or personal.")],
    because: Annotated[
        str, typer.Option(help=("Reason why it needs less protection than its data; no personal data here."))
    ],
    role: Annotated[str, typer.Option(help="Role of the person who decided: data-protection-officer.")],
) -> None:
    """Record that a pipeline's model counts as less protected than its data, and print the lines for its file."""
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.sovereignty.classification import named

    record = open_platform().lower(pipelines.named(pipeline), "model", named(to), because, role)
    typer.echo(f"recorded as number {record.seq}. In include/pipelines/{pipeline}.yaml:")
    typer.echo(f"lowered: {{model: {{to: {to}, evidence: {record.seq}}}}}")
