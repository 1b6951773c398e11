"""Commands of point-in-time recovery."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli.root import pitr_app, run_app

Site = Annotated[str, typer.Option("--site", help="The site of the archive; by default backup.site.")]
Identity = Annotated[Path | None, typer.Option(help="Escrow identity; by default the platform's own.")]


@pitr_app.command("status")
def pitr_status(site: Site = "", identity: Identity = None) -> None:
    """Show to which moments the server can be recovered, by which base backups, and every gap."""
    from rempart.flows.pitr import restore_to_moment as flow
    from rempart.flows.restore.restore_source import detached, identity_of

    platform = detached()
    for line in flow.status(flow.find(platform, site, identity_of(platform, identity)), datetime.now(UTC)):
        typer.echo(line)


@pitr_app.command("base")
def pitr_base() -> None:
    """Take a base backup now; the archiver does so by itself as often as rempart.yaml says."""
    from rempart.backup.pitr.receiver import look
    from rempart.flows.pitr import point_in_time as flow
    from rempart.flows.shared.keys import warn_of_escrow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    warn_of_escrow(platform)
    target = flow.open_target(platform)
    flow.take_base(target, look(target.server))


@pitr_app.command("prune")
def pitr_prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is deleted.")
    ] = False,
) -> None:
    """Delete base backups and WAL that no moment of the window needs; the archiver does so every hour."""
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
    typer.echo(f"{what} {'would be' if done.dry_run else 'were'} deleted")
    if done.retained_until:
        typer.echo(f"retained: {done.retained}, the last of them until {done.retained_until:%Y-%m-%d %H:%M} UTC")
    if done.dry_run:
        typer.echo("Nothing was deleted. Pass --yes to do it.")


@pitr_app.command("restore")
def pitr_restore(
    until: Annotated[str, typer.Option(help="2026-11-25T18:03:12Z, or `latest`.")],
    to: Annotated[Path, typer.Option(help="A new or empty folder; it becomes a server's data folder.")],
    site: Site = "",
    identity: Identity = None,
    system: Annotated[str | None, typer.Option(help="Of several servers, the one with this identifier.")] = None,
    timeline: Annotated[int | None, typer.Option(help="Of several timelines: by default the newest.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is fetched.")
    ] = False,
) -> None:
    """Recover a copy of the whole server to a chosen second in a folder of its own; the running server is unchanged."""
    from rempart.flows.pitr import restore_to_moment as flow
    from rempart.flows.restore.restore_source import detached, identity_of

    moment, platform = flow.parse_moment(until), detached()
    flow.check_folder(to)
    found = flow.find(platform, site, identity_of(platform, identity), system)
    planned = flow.plan(found, moment, timeline)
    for line in flow.lines(found, planned, to):
        typer.echo(line)
    if not yes:
        typer.echo("Nothing was fetched. Pass --yes to do it.")
        return
    for line in flow.told(flow.restore(found, planned, to.absolute()), to):
        typer.echo(line)


@run_app.command("wal-archive")
def run_wal_archive(
    folder: Annotated[Path | None, typer.Option(help="Where WAL waits for the site; by default wal in var.")] = None,
) -> None:
    """Archive PostgreSQL's WAL and base backups at the backup site, until the process is ended."""
    from rempart.deployment.setup.environment import MARKER
    from rempart.flows.pitr.wal_archive import Archiver
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.config import var_dir

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    marks = {name: os.environ[name] for name in (MARKER, "PATH") if name in os.environ}
    Archiver(open_platform(), (folder or var_dir() / "wal").absolute(), stop, marks=marks).run()
