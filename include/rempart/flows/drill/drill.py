"""Run all steps of a restore drill in one process: restore into a sandbox, prove, clean up, report."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from rempart.backup.databases import postgresql
from rempart.backup.drill import scratch
from rempart.errors import RempartError
from rempart.flows.drill.drill_prove import prove
from rempart.flows.drill.drill_restore import Seed, random_seed, restore
from rempart.flows.drill.drill_sandbox import clean_up
from rempart.flows.drill.drill_steps import Scenario
from rempart.flows.drill.drill_verdict import DrillResult, report
from rempart.flows.shared.platform import Platform

logger = logging.getLogger(__name__)


def drill(
    platform: Platform,
    point_id: str | None = None,
    *,
    scenario: Scenario = "routine",
    suffix: Callable[[], str] = lambda: secrets.token_hex(3),
    seed: Seed = random_seed,
    tools: postgresql.Tools | None = None,
) -> DrillResult:
    """Restore a restore point (default: the newest) into a sandbox, prove it, remove the sandbox, and file the report.

    A failed step does not keep the sandbox from being removed, nor the leftovers of killed drills. Raises DrillFailed
    with the failed checks, and the errors of the steps `restore` and `report`.
    """
    drill_id = scratch.new_id(platform.clock(), suffix())
    try:
        restored = restore(platform, drill_id, point_id, scenario=scenario, seed=seed, tools=tools)
        if restored.begun and restored.begun.opened:
            _logged(lambda: prove(platform, drill_id))
    finally:
        _logged(lambda: clean_up(platform, drill_id, point_id))
    return report(platform, drill_id)


def _logged(step: Callable[[], object]) -> None:
    """Run a step and log its error. The report names each step that did not end."""
    try:
        step()
    except RempartError as error:
        logger.error("%s", error.what)  # noqa: TRY400 - the message says it all
