"""Upgrade to this release, or go back to the previous one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import rendering

if TYPE_CHECKING:
    from rempart.deployment.setup.paths import Stack


def take_over(stack: Stack, *, check: bool, yes: bool) -> None:
    """Show what an upgrade would change. With `yes` execute it, or continue an unfinished one. Raises UpgradeError."""
    from rempart.flows.upgrade import upgrade as flow
    from rempart.flows.upgrade.upgrade_plan import migrating

    begun = flow.unfinished(stack)
    if begun and not yes:
        rendering.tell(
            f"An upgrade was started at {begun.began} and is not finished. `rempart stack upgrade --yes` continues it,"
        )
        rendering.tell("`rempart stack upgrade --back --yes` goes back to the previous release.")
        return
    if begun:
        rendering.tell(f"An upgrade was started at {begun.began} and continues")
    else:
        facts, lines = flow.look(stack)
        for line in lines:
            rendering.show(line.lines())
        flow.check(lines)
        if flow.is_current(facts):
            rendering.tell("This release already runs: nothing to do.")
            return
        if check:
            return
        if not yes:
            rendering.show(flow.steps(migrating(facts)))
            return
        begun = flow.prepare(stack, facts)
    rendering.show(flow.exchange(stack, begun))


def go_back(stack: Stack, *, yes: bool) -> None:
    """Show the plan of a return to the previous release; with `yes`, carry it out. Raises UpgradeError, StackError."""
    from rempart.flows.upgrade import upgrade_back as flow

    begun = flow.newest(stack)
    rendering.show(flow.plan(begun))
    if not yes:
        rendering.tell("Nothing was changed. Pass --yes to execute the plan.")
        return
    flow.go_back(stack, begun)
    rendering.tell(
        f"{begun.before.root} is running again. Work in that folder; this checkout no longer starts anything."
    )


def upgrade(
    check: Annotated[bool, typer.Option("--check", help="Only show what this release would change.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
    back: Annotated[bool, typer.Option("--back", help="Go back to the previous release.")] = False,
) -> None:
    """Replace the running release by this checkout: restore point, drill, migration, start, proof.

    Name the state of the running platform with REMPART_VAR. Exit code 1 if the upgrade is refused.

    Example:
        rempart stack upgrade --check
        rempart stack upgrade --yes
        rempart stack upgrade --back --yes
    """
    from rempart.deployment.setup import paths

    if back:
        go_back(paths.current(), yes=yes and not check)
    else:
        take_over(paths.current(), check=check, yes=yes)
