"""Run `rempart stack upgrade --back`: restore the previous release, with its own restore point where needed."""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from rempart.airflow_api import AirflowApi
from rempart.backup.drill.checks import RestoreCheck
from rempart.deployment.embedded import lifecycle, release
from rempart.deployment.setup.paths import Stack
from rempart.errors import RempartError, UpgradeError
from rempart.flows.restore import restore_checks
from rempart.flows.shared.platform import open_platform
from rempart.flows.upgrade import upgrade_journal
from rempart.flows.upgrade.upgrade_journal import BegunUpgrade

logger = logging.getLogger(__name__)

_LOSES = {
    "airflow": "DAG runs, and connections and variables that were entered",
    "mlflow": "training runs, model versions and aliases",
}


def newest(stack: Stack) -> BegunUpgrade:
    """Return the upgrade that can be reversed. Raises UpgradeError if there is none."""
    begun = upgrade_journal.read(stack)
    if begun is None or begun.outcome == "back":
        raise UpgradeError(
            "No upgrade of this platform is on record" if begun is None else "The platform already went back",
            "Run `rempart status` to see what runs.",
        )
    _check(begun.before)
    return begun


def go_back(stack: Stack, begun: BegunUpgrade) -> None:
    """Stop, restore the migrated databases, start the previous release, prove it. Raises UpgradeError, StackError.

    The programs of the previous release restore and start, because only they are sure to read their restore point. A
    repeated call continues.
    """
    lifecycle.down(stack)
    if begun.migrates:
        lifecycle.start_stores(stack)
        _record(stack, begun)
        only = [word for name in begun.migrates for word in ("--only", f"database:{name}")]
        _before(stack, begun, ["restore", "--site", begun.site, "--point", begun.point, *only, "--force", "--yes"])
        lifecycle.down(stack)  # the supervisor was this release's
    release.forget(stack)
    _before(stack, begun, ["up"])
    release.record(stack, begun.before)
    if not begun.migrates:
        _record(stack, begun)
    checks = list(_proof(begun))
    restore_checks.log(checks)
    if failed := [check for check in checks if check.ok is False]:
        raise UpgradeError(
            f"The previous release runs again, but checks failed: {failed[0].what} ({failed[0].detail})",
            "Follow docs/runbooks/upgrade-failed.md, 'A check is red'.",
        )
    upgrade_journal.write(stack, replace(begun, outcome="back"))


def plan(begun: BegunUpgrade) -> list[str]:
    """Yield the steps and the cost of going back. Pure."""
    lines = [f"The previous release, {begun.before.version} in {begun.before.root}, would work here again."]
    if begun.migrates:
        lines += [
            f"databases  {', '.join(begun.migrates)}: restored from {begun.point} at '{begun.site}'",
            f"lost       their later changes: {', and '.join(_LOSES[name] for name in begun.migrates)}",
            "stays      everything else, as it is now: ledger, features, objects at every site",
        ]
    else:
        lines.append("stays      everything: no schema was migrated, so nothing is restored")
    return lines


def _check(before: release.Release) -> None:
    if not Path(before.python).is_file() or not (before.root / "rempart.yaml").is_file():
        raise UpgradeError(
            f"The previous release is missing in {before.root}, or its environment is",
            "Check it out there again and run `make setup` in it; then repeat the command.",
        )


def _before(stack: Stack, begun: BegunUpgrade, words: list[str]) -> None:
    """Run the CLI of the previous release on this stack's state. Raises UpgradeError."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "REMPART_HOME": str(begun.before.root),
        "REMPART_VAR": str(stack.var),
        "REMPART_PORT_OFFSET": str(stack.offset),
    }
    done = subprocess.run(
        [begun.before.python, "-m", "rempart.cli", *words],
        env=variables,
        cwd=begun.before.root,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise UpgradeError(
            f"`rempart {words[0]}` of the previous release, in {begun.before.root}, ended with {done.returncode}",
            "Follow its message above, then repeat the command: docs/runbooks/upgrade-failed.md.",
        )


def _record(stack: Stack, begun: BegunUpgrade) -> None:
    """Record evidence of the return. If the ledger does not answer, log a warning and continue."""
    try:
        body = {"outcome": "back", "point": begun.point if begun.migrates else None, "restored": list(begun.migrates)}
        open_platform().ledger.append("upgrade", begun.before.version, body)
    except RempartError as error:
        logger.warning("the return is not recorded as evidence: %s", error.what)


def _proof(begun: BegunUpgrade) -> list[RestoreCheck]:
    """Check the platform under the previous release, from this checkout."""
    from rempart.models import registry

    platform = open_platform()
    found = {name: registry.champion(platform.tracking(), name) for name in begun.champions}
    ids = AirflowApi(platform.connections("airflow_api")).dag_ids()
    told = ", ".join(f"{name} version {version}" for name, version in found.items())
    return [
        RestoreCheck("Airflow shows its DAGs", bool(ids), f"{len(ids)} DAGs"),
        RestoreCheck("the champions are the previous ones", found == dict(begun.champions), told or "there were none"),
        restore_checks.ledger_verifies(platform.ledger, begun.ledger_head),
    ]
