"""Record what derived data counts as."""

from __future__ import annotations

from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="Judge what derived data counts as.")


@group.command("lower")
def classification_lower(
    pipeline: str,
    to: Annotated[str, typer.Option(help="public, internal or personal.")],
    because: Annotated[str, typer.Option(help="Why it is no longer as protected as its data; no personal data here.")],
    role: Annotated[str, typer.Option(help="Who judged so, as a role: data-protection-officer.")],
) -> None:
    """Record that a pipeline's model counts as less protected than its data, and say what to write in its file."""
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.sovereignty.classification import named

    record = open_platform().lower(pipelines.named(pipeline), "model", named(to), because, role)
    typer.echo(f"recorded as number {record.seq}. In include/pipelines/{pipeline}.yaml:")
    typer.echo(f"lowered: {{model: {{to: {to}, evidence: {record.seq}}}}}")
