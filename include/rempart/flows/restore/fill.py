"""Fill a target from a restore point. A restore in place, a side-by-side restore and a drill all use this code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from rempart.backup.databases import postgresql
from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points.points import Dump
from rempart.backup.points.restore_plan import Selection
from rempart.deployment.setup.paths import Stack
from rempart.errors import BackupError, ObjectMissing, RempartError
from rempart.flows.restore.restore_databases import Server, administrator, restore_all
from rempart.flows.restore.restore_objects import Bringer, RestoredObjects
from rempart.flows.restore.restore_source import OpenPoint, Wish
from rempart.flows.restore.targets import OWNERS, Sandbox, Target, live_names
from rempart.flows.shared.replication_pairs import physical_bucket
from rempart.sites.port import Site


def fill_databases(
    target: Target,
    point: OpenPoint,
    selection: Selection,
    tools: postgresql.Tools,
    done: Callable[[Dump, list[RestoreCheck]], object],
) -> dict[str, RempartError]:
    """Restore the selected databases and compare each with its record; `done` gets the checks of each.

    Return the errors by database. Raises BackupError for a database that holds other rows and may not be replaced.
    """
    return restore_all(Server(target, tools), selection.databases, point.repository, done)


def fill_objects(target: Target, point: OpenPoint, selection: Selection) -> RestoredObjects:
    """Copy the selected objects, and read each one back. Raises SiteUnavailable, IntegrityError, SiteError."""
    return Bringer(point.copies(), target.site, target.bucket).bring(selection.objects)


def side_by_side(stack: Stack, point: OpenPoint, wish: Wish, selection: Selection, site: Site) -> Sandbox:
    """Return the sandbox of a side-by-side restore: the names of the selected parts, ending in `aside`.

    The databases get the owners of the live ones. Raises BackupError without `aside`.
    """
    if not wish.aside:
        raise BackupError(
            "Only a side-by-side restore has databases and buckets of its own", "Pass --aside with their suffix."
        )
    config, resolve = point.platform.config, point.platform.connections
    names = [dump.name for dump in selection.databases]
    buckets = {obj.bucket for obj in selection.objects}
    return Sandbox(
        administrator(stack, resolve),
        site,
        {name: f"{name}_{wish.aside}" for name in names},
        {logical: f"{physical_bucket(config, logical)}-{wish.aside}" for logical in sorted(buckets)},
        live_names(config, resolve),
        {name: OWNERS.get(name, name) for name in names},
        wish.force,
    )


def empty(sandbox: Sandbox) -> None:
    """Drop the databases and buckets of a sandbox that exist. Raises DatabaseUnavailable, SiteError."""
    if sandbox.databases:
        with postgresql.session(sandbox.administrator, "drop the databases of a sandbox") as opened:
            for name in sandbox.databases.values():
                postgresql.drop_database(opened, name)
    for name in sandbox.buckets.values():
        with suppress(ObjectMissing):  # it is gone already
            sandbox.site.drop_bucket(name)
