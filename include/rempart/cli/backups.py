"""Commands of restore points, of their keys, and of who watches them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli.root import app, keys_app, points_app, watch_app

if TYPE_CHECKING:
    pass


PointSite = Annotated[str | None, typer.Option("--site", help="Another site than the one where backups go now.")]
Role = Annotated[str, typer.Option(help="Who decided so, as a role: data-protection-officer.")]
Point = Annotated[str, typer.Argument(help="Its id, as `rempart points list` shows it.")]


@points_app.command("list")
def points_list(site: PointSite = None) -> None:
    """Show every restore point: its age and size, the last drill of it, and why it is kept."""
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    for line in point_report.list_lines(restore_points.survey(open_platform(), site)):
        typer.echo(line)


@points_app.command("explain")
def points_explain(point: Point, site: PointSite = None) -> None:
    """Explain one restore point, and what every reason to keep it means."""
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    for line in point_report.explain_lines(restore_points.survey(open_platform(), site), point):
        typer.echo(line)


@points_app.command("hold")
def points_hold(
    point: Point,
    why: Annotated[str, typer.Option(help="Why it must be kept; no personal data here.")],
    role: Role,
    site: PointSite = None,
) -> None:
    """Put a restore point under legal hold: it is not pruned until it is released. Recorded as evidence."""
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    standing = restore_points.hold(open_platform(), point, role=role, why=why, where=site)
    typer.echo(f"{point} is held {point_report.hold_line(standing)}")


@points_app.command("release")
def points_release(
    point: Point,
    why: Annotated[str, typer.Option(help="Why it need not be kept any more; no personal data here.")],
    role: Role,
    site: PointSite = None,
) -> None:
    """End the legal hold of a restore point: the next prune may delete it. Recorded as evidence."""
    from rempart.flows.backup import restore_points
    from rempart.flows.shared.platform import open_platform

    released = restore_points.release(open_platform(), point, role=role, why=why, where=site)
    typer.echo(f"{point} is released" if released else f"{point} was not held: nothing was changed")


@points_app.command("prune")
def points_prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is deleted.")
    ] = False,
    site: PointSite = None,
) -> None:
    """Delete the restore points that no rule keeps, for ever. The DAG backup_platform does so after each backup."""
    from rempart.flows.backup import point_report, prune
    from rempart.flows.shared.platform import open_platform

    done = prune.prune(open_platform(), dry_run=not yes, where=site)
    for line in point_report.prune_lines(done):
        typer.echo(line)
    if done.dry_run:
        typer.echo("Nothing was deleted. Pass --yes to do it.")


@points_app.command("repair")
def points_repair(
    site: PointSite = None,
    trust: Annotated[
        list[Path] | None, typer.Option(help="The ledger's public key, PEM, where no platform runs; may be repeated.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it what is hidden is shown and nothing is changed.")
    ] = False,
    mark_lost: Annotated[
        bool, typer.Option("--mark-lost", help="Mark links of which no true copy is left, so that backups go on.")
    ] = False,
) -> None:
    """Restore hidden restore points at the site, and altered or missing links of their chain."""
    from rempart.flows.restore import repair

    done = repair.command(site, trust or (), dry_run=not yes, mark_lost=mark_lost)
    for line in done.lines():
        typer.echo(line)
    if done.dry_run and (done.keys or done.links.healed):
        typer.echo("Nothing was changed. Pass --yes to do it.")
    if len(done.links.lost) > len(done.links.marked):
        typer.echo(
            "What a lost link vouched for cannot be restored, and no backup goes on until each is marked as lost:"
            " --yes --mark-lost (docs/runbooks/chain-is-broken.md)."
        )


@app.command("restore")
def restore_cli(
    site: Annotated[str, typer.Option(help="The site to restore from; by default backup.site.")] = "",
    point: Annotated[str | None, typer.Option(help="Its id; by default the newest that lacks nothing.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="database:NAME, bucket:lake, bucket:artifacts, model:NAME, dataset:NAME; may be repeated."),
    ] = None,
    aside: Annotated[str | None, typer.Option(help="Beside the platform's own, under names that end in this.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Escrow identity; by default the platform's own.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="The ledger's public key, PEM; may be repeated.")] = None,
    active: Annotated[
        str | None, typer.Option(help="The site that serves afterwards, where that of the point is lost.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the points that can be restored.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what the point holds, part by part.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also an older point, over other secrets, into databases that hold rows.")
    ] = False,
    wait: Annotated[
        int, typer.Option(min=0, help="In containers: seconds to wait until somebody has started MLflow and Airflow.")
    ] = 0,
) -> None:
    """Restore the platform, or a part of it, from a site and the escrowed keys; needs no Airflow.

    Start it again to continue an interrupted run.
    """
    from rempart.backup.points.restore_plan import check_suffix, parse_part
    from rempart.deployment.setup import paths
    from rempart.flows.restore import restore_command as flow
    from rempart.flows.restore.restore_source import Wish

    parts = tuple(parse_part(text) for text in only or ())
    wish = Wish(site, point, parts, check_suffix(aside) if aside else None, force, active)
    stack = paths.current()
    looked = flow.look(stack, wish, trust or (), wait)
    if listed:
        for line in looked.listing():
            typer.echo(line)
        return
    prepared = flow.prepare(looked, identity)
    for line in prepared.lines(yes=yes):
        typer.echo(line)
    if explain:
        return
    if not yes:
        typer.echo("Nothing was changed. Pass --yes to restore.")
        return
    for line in flow.carry_out(stack, prepared, wait):
        typer.echo(line)


@keys_app.command("list")
def keys_list() -> None:
    """Show every encryption scope's keys: who can open each, where a copy is missing, which were destroyed."""
    from rempart.flows.shared import keys as flow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    flow.warn_of_escrow(platform)
    for line in flow.listing(flow.open_keyring(platform)):
        typer.echo(line)


@keys_app.command("new-recipient")
def keys_new_recipient(file: Annotated[Path, typer.Argument(help="A new file; keep it apart from here.")]) -> None:
    """Make an escrow identity in a file that only you can read, and print what goes into rempart.yaml."""
    from rempart.flows.shared import keys as flow

    recipient = flow.new_recipient(file, datetime.now(UTC))
    typer.echo(f"{file} opens every backup: take it off this machine. In rempart.yaml, under backup.recipients:")
    typer.echo(recipient)


@keys_app.command("destroy")
def keys_destroy(
    scope: Annotated[str, typer.Argument(help="As `rempart keys list` names it.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Destroy a scope's keys: what they sealed is unreadable from then on, in every copy, and nothing else is."""
    from rempart.flows.shared import keys as flow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    flow.warn_of_escrow(platform)
    done = flow.destroy(platform.ledger, flow.open_keyring(platform), scope, dry_run=not yes)
    for line in flow.destruction_lines(done, dry_run=not yes):
        typer.echo(line)


@keys_app.command("rewrap")
def keys_rewrap(
    opened_with: Annotated[
        Path | None, typer.Option("--with", help="An identity that opens the keys, if the platform's own is new.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Wrap every key for the recipients of rempart.yaml and the platform's own key, and for no other."""
    from rempart.backup.keys.age import read_identity_file
    from rempart.flows.shared import keys as flow
    from rempart.flows.shared.platform import open_platform

    platform, opener = open_platform(), read_identity_file(opened_with) if opened_with else None
    flow.warn_of_escrow(platform)
    keyring = flow.open_keyring(platform)
    done = flow.rewrap(platform.ledger, keyring, opener, dry_run=not yes)
    for line in flow.rewrap_lines(keyring, done, dry_run=not yes):
        typer.echo(line)


@watch_app.callback()
def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Look once, as a timer does.")] = False,
    every: Annotated[str, typer.Option(help="Between two looks: 30s, 5m.")] = "5m",
    file: Annotated[Path, typer.Option(help="As `rempart watch init` writes it.")] = Path("watch.yaml"),
    state: Annotated[Path | None, typer.Option(help="Who was told what, instead of `state` in the file.")] = None,
) -> None:
    """Alert when backup, replication or drill heartbeats are missing; runs outside Airflow, best at another operator.

    Exit code of --once: 0: all is green; 1: something is red; 2: the check or an alert failed.
    """
    if context.invoked_subcommand:
        return
    from rempart.flows.monitoring import watch as flow
    from rempart.settings.schema import parse_duration

    try:
        seconds = max(parse_duration(every).total_seconds(), 1.0)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--every") from fault
    for found in flow.rounds(file, state, os.environ, lambda: datetime.now(UTC), lambda: time.sleep(seconds)):
        for line in found.lines():
            typer.echo(line)
        if found.fault:
            typer.echo(f"error: {found.fault}", err=True)
        if once:
            raise typer.Exit(found.exit_code)
    raise typer.Exit(flow.UNKNOWN)


@watch_app.command("init")
def watch_init(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("watch.yaml"),
) -> None:
    """Write the watch's file from this platform's configuration: site, public key, and how long each may be silent."""
    from rempart.flows.monitoring import watch_init as flow
    from rempart.flows.shared.platform import open_platform

    typer.echo(f"{flow.write(open_platform(), out)}: written. Name whom to tell under `alerts`; docs/how-to/watch.md")
