"""Recover PostgreSQL to a chosen second."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.PROTECT,
    help="Point-in-time recovery of PostgreSQL: to a chosen second.",
)

Site = Annotated[str, typer.Option("--site", help="Site of the archive; default: backup.site.")]
Identity = Annotated[Path | None, typer.Option(help="Escrow identity; default: the platform's own.")]


@group.command("status")
def pitr_status(site: Site = "", identity: Identity = None, as_json: AsJson = False) -> None:
    """Show the moments to which the server can be recovered, the base backups, and every gap.

    Example:
        rempart pitr status
    """
    from rempart.flows.pitr import restore_to_moment as flow
    from rempart.flows.restore.restore_source import detached, identity_of

    json_documents.begin(as_json)
    platform = detached()
    found = flow.find(platform, site, identity_of(platform, identity))
    if as_json:
        json_documents.show(flow.facts(found))
        return
    rendering.show(flow.status(found, datetime.now(UTC)))


@group.command("base")
def pitr_base() -> None:
    """Take a base backup now. The archiver takes one by itself as often as rempart.yaml says.

    Example:
        rempart pitr base
    """
    from rempart.backup.pitr.receiver import look
    from rempart.flows.pitr import point_in_time as flow
    from rempart.flows.shared.keys import warn_of_escrow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    warn_of_escrow(platform.config)
    target = flow.open_target(platform)
    flow.take_base(target, look(target.server))


@group.command("prune")
def pitr_prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete. Without it the plan is shown and nothing is deleted.")
    ] = False,
) -> None:
    """Delete base backups and WAL that no moment of the window needs; the archiver does so every hour.

    Example:
        rempart pitr prune --yes
    """
    from rempart.backup.pitr.receiver import look
    from rempart.flows.pitr import point_in_time as flow
    from rempart.flows.shared.keys import open_keyring
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    target = flow.open_target(platform)
    live = target.archive(look(target.server).system)
    done = flow.prune(
        platform.ledger,
        open_keyring(platform),
        target.site,
        target.bucket,
        target.settings,
        platform.clock(),
        live,
        dry_run=not yes,
    )
    what = f"{done.bases} base backups and {done.files} WAL files, {done.bytes:,} bytes"
    rendering.tell(f"{what} {'would be' if done.dry_run else 'were'} deleted")
    if done.retained_until:
        rendering.tell(f"locked: {done.retained}, until {done.retained_until:%Y-%m-%d %H:%M} UTC at the latest")
    if done.dry_run:
        rendering.tell("Nothing was deleted. Pass --yes to delete.")


@group.command("restore")
def pitr_restore(
    until: Annotated[str, typer.Option(help="Time to recover to: 2026-11-25T18:03:12Z, or `latest`.")],
    to: Annotated[Path, typer.Option(help="New or empty folder, which becomes the data folder of a server.")],
    site: Site = "",
    identity: Identity = None,
    system: Annotated[str | None, typer.Option(help="Identifier of the server, if the archive has several.")] = None,
    timeline: Annotated[int | None, typer.Option(help="Timeline, if there are several; default: the newest.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is fetched.")
    ] = False,
) -> None:
    """Recover a copy of the whole server to a chosen second in a new folder. The running server is unchanged.

    Example:
        rempart pitr restore --until 2026-11-25T18:03:12Z --to recovered
        rempart pitr restore --until latest --to recovered --yes
    """
    from rempart.flows.pitr import restore_to_moment as flow
    from rempart.flows.restore.restore_source import detached, identity_of

    moment, platform = flow.parse_moment(until), detached()
    flow.check_folder(to)
    found = flow.find(platform, site, identity_of(platform, identity), system)
    planned = flow.plan(found, moment, timeline)
    rendering.show(flow.lines(found, planned, to))
    if not yes:
        rendering.tell("Nothing was fetched. Pass --yes to execute the plan.")
        return
    rendering.show(flow.result_lines(flow.restore(found, planned, to.absolute()), to))
