"""Audit the installation, and write bills of materials."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import panels, rendering
from rempart.errors import RempartError

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.GOVERN, help="Audit the installation, and write bills of materials."
)


@group.command("run")
def audit_run(
    as_json: Annotated[
        bool, typer.Option("--json", help=("Print the report as JSON (docs/reference/audit.schema.json)."))
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file instead of printing it.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run only this check; may be repeated.")] = None,
    debian: Annotated[
        list[Path] | None, typer.Option(help="An image's root, dpkg status file or bill of materials; may be repeated.")
    ] = None,
    advisories: Annotated[
        Path | None, typer.Option(help="Advisory database to use instead of audit.advisories.")
    ] = None,
) -> None:
    """Find open, unknown and vulnerable parts. Exit code 0: nothing above low; 1: medium; 2: worse; 3: not run.

    Example:
        rempart audit run
        rempart audit run --only licences --json --out audit.json
    """
    from rempart.audit import findings
    from rempart.deployment.setup import paths
    from rempart.flows.governance import audit as flow

    try:
        found = flow.Audit(paths.current(), datetime.now(UTC), debian or (), advisories, only or ()).run()
        readable = findings.readable(found)
        text = flow.report_json(found) if as_json else readable
        if out:
            flow.write_text(text, out)
            text = f"{out}: {readable.rstrip().splitlines()[-1]}"
        rendering.show(text.rstrip("\n").split("\n"))
    except RempartError as error:
        rendering.show(f"error: {error}".split("\n"), err=True)
        raise typer.Exit(3) from error
    raise typer.Exit(found.exit_code)


@group.command("sbom")
def audit_sbom(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    debian: Annotated[
        Path | None, typer.Option(help="A dpkg status file or an image's root, to read instead of the lock.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Root of an image; its Python distributions and programs are included.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the image.")] = "image",
    release: Annotated[str, typer.Option(help="Debian release, such as 13, if the image has no os-release.")] = "",
    timestamp: Annotated[
        datetime | None, typer.Option(help=("Time to write into the file; without it the file has no time."))
    ] = None,
) -> None:
    """Write a bill of materials (CycloneDX 1.6 JSON) of the lock, of a Debian system, or of an image.

    Example:
        rempart audit sbom --out sbom.cdx.json
        rempart audit sbom --image /mnt/image --name platform
    """
    from rempart.flows.governance import audit as flow
    from rempart.settings import config

    at = timestamp.replace(tzinfo=UTC) if timestamp and not timestamp.tzinfo else timestamp
    if image:
        text = flow.bill_of_image(image, name, at)
    else:
        text = flow.bill_of_debian(debian, release, at) if debian else flow.bill_of_lock(config.project_root(), at)
    if out:
        flow.write_text(text, out)
    else:
        rendering.show(text.rstrip("\n").split("\n"))
