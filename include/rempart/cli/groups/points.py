"""List, hold, prune and repair restore points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="Restore points: list them, say why each is kept, hold, prune.")

PointSite = Annotated[str | None, typer.Option("--site", help="Another site than the one where backups go now.")]
Role = Annotated[str, typer.Option(help="Who decided so, as a role: data-protection-officer.")]
Point = Annotated[str, typer.Argument(help="Its id, as `rempart points list` shows it.")]


@group.command("list")
def points_list(site: PointSite = None) -> None:
    """Show every restore point: its age and size, the last drill of it, and why it is kept."""
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    for line in point_report.list_lines(restore_points.survey(open_platform(), site)):
        typer.echo(line)


@group.command("explain")
def points_explain(point: Point, site: PointSite = None) -> None:
    """Explain one restore point, and what every reason to keep it means."""
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    for line in point_report.explain_lines(restore_points.survey(open_platform(), site), point):
        typer.echo(line)


@group.command("hold")
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


@group.command("release")
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


@group.command("prune")
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


@group.command("repair")
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
