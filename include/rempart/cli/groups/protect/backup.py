"""List, explain, hold, prove, prune, repair and restore restore points."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering, restore
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.PROTECT,
    help="Restore points: list, explain, hold, prune, prove and restore them.",
)


class _Scenario(StrEnum):
    routine = "routine"
    attack = "cyber-attack"


class _Profile(StrEnum):
    financial = "financial"
    nis2 = "nis2"
    none = "none"


PointSite = Annotated[
    str | None, typer.Option("--site", help=("Site of the restore points; default: the current backup site."))
]
Role = Annotated[str, typer.Option(help="Role of the person who decided: data-protection-officer.")]
Point = Annotated[str, typer.Argument(help="Id of the restore point, as in `rempart backup list`.")]


@group.command("now")
def backup_now() -> None:
    """Write a restore point now, as the platform does by itself. Airflow runs it: the DAG backup_platform.

    Example:
        rempart backup now
    """
    from rempart.airflow_api import AirflowApi
    from rempart.cli import run_follow
    from rempart.settings import config

    def tell(tasks: str) -> None:
        rendering.tell(tasks if tasks.startswith("skipped") else run_follow.progress(tasks))

    rendering.tell("Starting backup_platform in Airflow; it waits while another run of it goes on.")
    point = AirflowApi(config.environment_connections("airflow_api")).run("backup_platform", "back_up", {}, tell)
    rendering.tell(f"restore point {point['id']}")


@group.command("list")
def backup_list(site: PointSite = None, as_json: AsJson = False) -> None:
    """Show every restore point: its age and size, its last drill, and the reasons to keep it.

    Example:
        rempart backup list
        rempart backup list --site haven
    """
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    found = restore_points.survey(open_platform(), site)
    if as_json:
        shown = {"site": found.site, "at": found.at, "points": found.points}
        json_documents.show({**shown, "leftovers": found.leftovers, "hidden": found.hidden})
        return
    rendering.show(point_report.list_lines(found))


@group.command("explain")
def backup_explain(point: Point, site: PointSite = None, as_json: AsJson = False) -> None:
    """Explain one restore point, and each reason to keep it.

    Example:
        rempart backup explain 20260105T000000Z-abcdef
    """
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    found = restore_points.survey(open_platform(), site)
    lines = list(point_report.explain_lines(found, point))
    if as_json:
        json_documents.show(next(listed for listed in found.points if listed.id == point))
        return
    rendering.show(lines)


@group.command("hold")
def backup_hold(
    point: Point,
    why: Annotated[str, typer.Option(help="Reason to keep it; no personal data here.")],
    role: Role,
    site: PointSite = None,
) -> None:
    """Put a restore point under legal hold: it is not pruned until it is released. Recorded as evidence.

    Example:
        rempart backup hold 20260105T000000Z-abcdef --why "court order 12/26" --role data-protection-officer
    """
    from rempart.flows.backup import point_report, restore_points
    from rempart.flows.shared.platform import open_platform

    standing = restore_points.hold(open_platform(), point, role=role, why=why, where=site)
    rendering.tell(f"{point} is held {point_report.hold_line(standing)}")


@group.command("release")
def backup_release(
    point: Point,
    why: Annotated[str, typer.Option(help="Reason to release it; no personal data here.")],
    role: Role,
    site: PointSite = None,
) -> None:
    """End the legal hold of a restore point: the next prune may delete it. Recorded as evidence.

    Example:
        rempart backup release 20260105T000000Z-abcdef --why "case closed" --role data-protection-officer
    """
    from rempart.flows.backup import restore_points
    from rempart.flows.shared.platform import open_platform

    released = restore_points.release(open_platform(), point, role=role, why=why, where=site)
    rendering.tell(f"{point} is released" if released else f"{point} was not held: nothing was changed")


@group.command("prune")
def backup_prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete. Without it the plan is shown and nothing is deleted.")
    ] = False,
    site: PointSite = None,
) -> None:
    """Delete the restore points that no retention rule keeps, permanently.

    The DAG backup_platform does so after each backup.

    Example:
        rempart backup prune
        rempart backup prune --yes
    """
    from rempart.flows.backup import point_report, prune
    from rempart.flows.shared.platform import open_platform

    done = prune.prune(open_platform(), dry_run=not yes, where=site)
    rendering.show(point_report.prune_lines(done))
    if done.dry_run:
        rendering.tell("Nothing was deleted. Pass --yes to delete.")


@group.command("repair")
def backup_repair(
    site: PointSite = None,
    trust: Annotated[
        list[Path] | None, typer.Option(help=("Public key of the ledger, PEM, if no platform runs; may be repeated."))
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Repair. Without it hidden objects are shown and nothing is changed.")
    ] = False,
    mark_lost: Annotated[
        bool,
        typer.Option("--mark-lost", help=("Mark links without a valid copy as lost, so that backups can continue.")),
    ] = False,
) -> None:
    """Restore hidden restore points at the site, and altered or missing links of their chain.

    Example:
        rempart backup repair
        rempart backup repair --site haven --trust public.pem --yes
    """
    from rempart.flows.restore import repair

    done = repair.command(site, trust or (), dry_run=not yes, mark_lost=mark_lost)
    rendering.show(done.lines())
    if done.dry_run and (done.keys or done.links.healed):
        rendering.tell("Nothing was changed. Pass --yes to repair.")
    if len(done.links.lost) > len(done.links.marked):
        rendering.tell(
            "Restore points of a lost link cannot be restored. Backups stop until each lost link is marked: "
            "--yes --mark-lost (docs/runbooks/chain-is-broken.md)."
        )


@group.command("drill")
def backup_drill(
    point: Annotated[
        str | None, typer.Option(help="Id of the restore point, as in `rempart backup list`; default: the newest.")
    ] = None,
    scenario: Annotated[_Scenario, typer.Option(help="Assumed event.")] = _Scenario.routine,
) -> None:
    """Restore a restore point into a sandbox, prove it, measure RPO and RTO, and file the report.

    Running services are not touched, and Airflow is not needed. Exit code 1 if a check failed or an objective was
    missed.

    Example:
        rempart backup drill
        rempart backup drill --scenario cyber-attack
    """
    from rempart.backup.drill.checks import passed_told
    from rempart.flows.drill import drill as flow
    from rempart.flows.drill.drill_verdict import RPO, RTO
    from rempart.flows.shared.platform import open_platform

    done = flow.drill(open_platform(), point, scenario=scenario.value)
    rendering.show(check.line for check in done.checks if check.what in (RPO, RTO))  # a line for each check by now
    passed = passed_told(check.ok for check in done.checks)
    rendering.tell(
        f"restore point {done.point_id} is proved: {passed}; both objectives are met: RTO "
        f"{done.rto_seconds:.0f} s, RPO {done.rpo_seconds:.0f} s"
    )


@group.command("drill-report")
def backup_drill_report(
    profile: Annotated[
        _Profile | None, typer.Option(help="A single profile, or none; default: the profiles in rempart.yaml.")
    ] = None,
    record: Annotated[int | None, typer.Option(help="Number of the drill's record; default: the newest.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the two files of the report.")] = Path(),
) -> None:
    """Rebuild the report of a drill from the ledger, as JSON and HTML.

    Example:
        rempart backup drill-report --profile nis2 --out reports
    """
    from rempart.flows.drill import drill_report as flow
    from rempart.flows.shared.platform import open_platform

    for made in flow.make_again(open_platform(), profile.value if profile else None, record, out):
        rendering.tell(made.line)


group.command("restore")(restore.restore)
