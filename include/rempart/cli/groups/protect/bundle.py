"""Store, write and fetch the bootstrap bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.PROTECT,
    help=("The bundle at the backup site: all that a bare machine needs to restore."),
)


@group.command("status")
def bundle_status(as_json: AsJson = False) -> None:
    """Show the bundle at the site, and whether it belongs to the running release.

    Exit code 1 if there is none, or it is older.

    Example:
        rempart bundle status
    """
    from rempart.flows.bundle import bundle as flow
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    found = flow.standing(open_platform())
    if as_json:
        size = found.index.bytes if found.index else 0
        made = found.index.at if found.index else None
        shown = {"good": found.good, "key": found.key, "made": made, "bytes": size}
        json_documents.show({**shown, "stale": found.stale, "lines": found.lines})
    rendering.show(() if as_json else found.lines)
    if not found.good:
        raise typer.Exit(1)


@group.command("store")
def bundle_store(
    wheels: Annotated[
        Path | None, typer.Option(help="Folder for the wheels; existing wheels are not fetched again.")
    ] = None,
) -> None:
    """Store code, wheels of the lock and restic at the backup site, signed and locked; only changes are sent.

    Start it again to continue an interrupted run.

    Example:
        rempart bundle store
    """
    from rempart.flows.bundle import bundle as flow
    from rempart.flows.shared.platform import open_platform

    done = flow.store(open_platform(), wheels=wheels)
    if not done.changed:
        rendering.tell(f"{done.key} is the running release: nothing was sent")
    rendering.tell(f"open_bundle.py has SHA-256 {flow.opener_sha256()}: store it, or this line, with the escrowed keys")


@group.command("write")
def bundle_write(
    folder: Annotated[Path | None, typer.Argument(help="Folder of the bundle; default: dist/rempart-VERSION.")] = None,
    images: Annotated[bool, typer.Option(help="Include every image of docker-compose.yml, as built here.")] = True,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder for the wheels; existing wheels are not fetched again.")
    ] = None,
) -> None:
    """Write everything that a machine without a network needs to one folder, signed with the ledger's key.

    Example:
        rempart bundle write /mnt/usb/rempart
    """
    from importlib.metadata import version

    from rempart.flows.bundle import bundle_folder
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import config

    target = folder or config.project_root() / "dist" / f"rempart-{version('rempart')}"
    written = bundle_folder.write(open_platform(), target.absolute(), wheels=wheels, images=images)
    rendering.show(bundle_folder.lines(target.absolute(), written))


@group.command("fetch")
def bundle_fetch(
    folder: Annotated[Path, typer.Argument(help="Folder of the bundle; intact files are not fetched again.")],
    site: Annotated[str, typer.Option(help="Site of the bundle; default: backup.site.")] = "",
    trust: Annotated[list[Path] | None, typer.Option(help="Public key of the ledger, PEM; may be repeated.")] = None,
) -> None:
    """Fetch the newest bundle for this machine, and verify every file against the signed index.

    Example:
        rempart bundle fetch bundle --site haven --trust public.pem
    """
    from rempart.flows.bundle import bundle as flow

    flow.fetch_from(site, trust or (), folder)
