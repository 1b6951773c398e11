"""`rempart restore`, from what was typed to what is told: look, explain, then do it if that was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rempart.flows import restore_report
from rempart.flows.platform import open_platform
from rempart.flows.restore import RestoreResult, restore
from rempart.flows.restore_source import Wish, detached, find, identity_of, open_point, plan, trusted_of
from rempart.stack.layout import Stack

Say = Callable[[str], None]


def command(
    stack: Stack,
    wish: Wish,
    *,
    identity: Path | None = None,
    trust: Sequence[Path] = (),
    listed: bool = False,
    explained: bool = False,
    yes: bool = False,
    say: Say = print,
) -> None:
    """Do what was asked; without `yes` nothing is changed. A wish without a site means `backup.site`.

    Raises as `restore_source.find`, `open_point`, `plan` and `restore.restore` do.
    """
    platform = detached()
    wish = wish if wish.site else replace(wish, site=platform.config.backup.site)
    found = find(platform, wish, trusted_of(trust, lambda: open_platform().trusted_keys()))
    if listed:
        for line in restore_report.listing(found.site.name, found.links, found.present, platform.clock()):
            say(line)
        return
    point = open_point(found, wish, identity_of(platform, identity))
    selection = plan(point, wish)
    for line in restore_report.explain(point.manifest, selection, platform.clock()):
        say(line)
    if explained:
        return
    if not yes:
        say("Nothing was changed. Say --yes to do it.")
        return
    for line in lines(restore(stack, point, wish, selection, say)):
        say(line)


def lines(result: RestoreResult) -> Iterator[str]:
    """What a restore did, for people."""
    yield "steps: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.steps.items())
    yield (
        f"restore point {result.point} is restored: {len(result.databases)} databases, {result.objects} objects;"
        f" it took {result.rto_seconds:.0f} s, and the point was {result.rpo_seconds:.0f} s old"
    )
