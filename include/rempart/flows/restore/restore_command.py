"""Run `rempart restore`: find the restore point, explain the plan, and carry it out with `yes`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rempart.backup.drill import suspicion
from rempart.backup.points import points
from rempart.deployment.setup.layout import Stack
from rempart.errors import IntegrityError, ObjectMissing, StackError
from rempart.flows.governance import evidence
from rempart.flows.restore import repair, restore_active, restore_erasures, restore_report
from rempart.flows.restore.restore import RestoreResult, restore
from rempart.flows.restore.restore_source import (
    Found,
    OpenPoint,
    Wish,
    detached,
    find,
    identity_of,
    open_point,
    plan,
    trusted_of,
)
from rempart.flows.shared.platform import open_platform

Say = Callable[[str], None]


def secrets_of(wish: Wish, identity: Path | None, trust: Sequence[Path], say: Say) -> dict[str, str]:
    """Return the secrets of a restore point, for a platform to restore. Raises the errors of `command`."""
    platform = detached()
    wish = wish if wish.site else replace(wish, site=platform.config.backup.site)
    trusted = trusted_of(trust, lambda: open_platform().trusted_keys())
    point = open_point(find(platform, wish, trusted), wish, identity_of(platform, identity))
    say(f"restore point {point.link.point} of site '{point.site.name}'")
    return point.secrets()


def command(
    stack: Stack,
    wish: Wish,
    *,
    identity: Path | None = None,
    trust: Sequence[Path] = (),
    listed: bool = False,
    explained: bool = False,
    yes: bool = False,
    wait: float = 0.0,
    say: Say = print,
) -> None:
    """Carry out the request. Without `yes` nothing is changed. Without a site, `backup.site` is used.

    `wait` is the number of seconds to wait in containers until MLflow and Airflow are started on the restored stores.

    Raises StackError for `wait` outside containers, and the errors of `restore_source.find`, `open_point`, `plan` and
    `restore.restore`.
    """
    if wait and not stack.containers:
        raise StackError(
            "--wait works only in containers: on this machine Rempart starts MLflow and Airflow itself",
            "Leave out --wait.",
        )
    platform = detached()
    wish = wish if wish.site else replace(wish, site=platform.config.backup.site)
    restore_active.check(platform.config, wish)
    trusted = trusted_of(trust, lambda: open_platform().trusted_keys())
    if line := repair.warning(platform, wish.site, trusted):
        say(line)
    found = find(platform, wish, trusted)
    if listed:
        for line in restore_report.listing(found.site.name, found.links, found.present, platform.clock()):
            say(line)
        return
    point = open_point(found, wish, identity_of(platform, identity))
    selection = plan(point, wish)
    for line in restore_report.explain(point.manifest, selection, platform.clock()):
        say(line)
    for doubt in doubts(found, point):
        say(f"WARNING   {doubt}. Find out whether this is an attack: docs/runbooks/restore-drill.md, 'After an attack'")
    if not yes and (register := restore_erasures.register_of(point, i_know=wish.i_know, say=say)):
        say(f"erased    {len(register)} erasures are on record; the restore erases their subjects again")
    if wish.active:
        left = f"changes at '{point.manifest.source}' after the restore point are lost"
        say(f"'{wish.active}' would become the active site, after each object is verified there; {left}")
    if explained:
        return
    if not yes:
        say("Dry run: nothing was changed. Pass --yes to restore.")
        return
    for line in lines(restore(stack, point, wish, selection, say, patience=wait)):
        say(line)
    if not wish.aside and (lost := evidence.lost_exports(open_platform())):
        say(lost)
    if wish.active and (why := restore_active.no_backup(open_platform(), wish.active)):
        say(why)


def doubts(found: Found, point: OpenPoint) -> tuple[str, ...]:
    """Return anomalies of a restore point, compared with the complete point before it; empty without one."""
    before = [link for link in found.links if link.seq < point.link.seq and link.consistent]
    for link in reversed([link for link in before if link.point in found.present]):
        try:
            clean = points.read(found.site, found.platform.config.buckets.backups, link.point, link.manifest_sha256)
        except (IntegrityError, ObjectMissing):
            continue
        return suspicion.judge(clean, replace(point.manifest, dangling=()))  # what it lacks is told already
    return ()


def lines(result: RestoreResult) -> Iterator[str]:
    """Yield the result of a restore as lines for people."""
    yield "steps: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.steps.items())
    yield (
        f"restore point {result.point} is restored: {len(result.databases)} databases, {result.objects} objects, "
        f"in {result.rto_seconds:.0f} s; the restore point was {result.rpo_seconds:.0f} s old"
    )
