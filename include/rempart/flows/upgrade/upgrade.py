"""Run `rempart stack upgrade`: the running release writes and drills a restore point, then this release replaces it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.backup.databases import postgresql
from rempart.backup.drill.checks import RestoreCheck
from rempart.coordination.active import backup_site
from rempart.counts import counted
from rempart.deployment.embedded import lifecycle, release
from rempart.deployment.setup.paths import Stack
from rempart.errors import UpgradeError
from rempart.flows.restore import restore_checks
from rempart.flows.shared.platform import Platform, classification_of, open_platform
from rempart.flows.training.champions import registered
from rempart.flows.upgrade import upgrade_facts, upgrade_journal
from rempart.flows.upgrade.upgrade_journal import BegunUpgrade
from rempart.flows.upgrade.upgrade_plan import UpgradeFacts, UpgradeLine, decide, migrating, refusals
from rempart.settings import config as configuration
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)

PARSE_SECONDS = 180.0
"""Seconds within which the new release must read the DAG files."""
PATIENCE = 4 * 3600.0
"""Seconds within which the restore point and its drill must finish."""


def unfinished(stack: Stack) -> BegunUpgrade | None:
    """Return an upgrade that was begun and did not end. Raises UpgradeError if there is no platform."""
    if stack.services and not stack.secrets.is_file():
        raise UpgradeError(
            f"No platform exists in {stack.var}", "Set REMPART_VAR to the state folder of the running platform."
        )
    begun = upgrade_journal.read(stack)
    return begun if begun and not begun.outcome and not _runs(stack, begun) else None


def look(stack: Stack) -> tuple[UpgradeFacts, tuple[UpgradeLine, ...]]:
    """Return the plan of an upgrade. Nothing is changed."""
    facts = upgrade_facts.gather(stack, open_platform())
    return facts, decide(facts)


def check(lines: Sequence[UpgradeLine]) -> None:
    """Raises UpgradeError if a line refuses the upgrade."""
    if refused := refusals(lines):
        lines_above = counted(len(refused), "line above refuses", "lines above refuse")
        raise UpgradeError(
            f"This release cannot take over: {lines_above} it ({refused[0].what})",
            "Follow the instruction of each such line, then run `rempart stack upgrade --check` again.",
        )


def is_current(facts: UpgradeFacts) -> bool:
    """Return whether this release already runs here."""
    before = facts.before
    return before is not None and before.same_code(facts.ours) and before.root == facts.ours.root


def steps(databases: Sequence[str]) -> list[str]:
    """Yield the steps of an upgrade. Pure."""
    migrated = f"migrate {' and '.join(databases)}; " if databases else ""
    return [
        "It would: take a restore point and drill it, both with the running release; stop the platform;",
        f"{migrated}start it with this release; check it. Running tasks are ended, and retried after the start.",
        "Nothing was changed. Pass --yes to upgrade.",
    ]


def _runs(stack: Stack, begun: BegunUpgrade) -> bool:
    """Return whether the previous release runs again, so that the restore point is outdated."""
    recorded = release.recorded(stack)
    return bool(lifecycle.works(stack)) and recorded is not None and recorded.root == begun.before.root


def prepare(stack: Stack, facts: UpgradeFacts) -> BegunUpgrade:
    """Return the restore point, written and drilled by the running release, which can read it. Raises UpgradeError."""
    platform = open_platform()
    api, began = AirflowApi(platform.connections("airflow_api")), platform.clock()
    with _step("restore point"):
        point = api.result("backup_platform", _run(api, "backup_platform", {}), "back_up")
    if point["dangling"]:
        raise UpgradeError(
            f"Restore point {point['id']} lacks objects, so the way back would not be safe",
            f"Run `rempart backup explain {point['id']}` to list them; then run `rempart stack upgrade` again.",
        )
    with _step("drill"):
        drill(api, str(point["id"]))
    with postgresql.session(platform.database("mlflow"), "read the versions of models") as opened:
        models = [(name, version) for name, version, _ in postgresql.model_locations(opened)]
    with postgresql.session(platform.database("ledger"), "read the decisions on models") as opened:
        champions = registered(postgresql.decided_champions(opened), models)
    chain = upgrade_facts.verified(platform.ledger)
    if facts.before is None:
        raise UpgradeError("The release that last ran here is unknown", "Run `rempart stack upgrade --check`.")
    begun = BegunUpgrade(
        str(point["id"]),
        backup_site(platform.config, platform.active().site),
        facts.before,
        migrating(facts),
        champions,
        (chain.records, chain.hash),
        tuple(sorted(facts.dags or ())),
        began.isoformat(),
    )
    upgrade_journal.write(stack, begun)
    return begun


def drill(api: AirflowApi, point: str) -> None:
    """Run a drill of a restore point with the running release, whatever names its tasks have. Raises UpgradeError.

    A drill with a failed check fails its run.
    """
    try:
        _run(api, "restore_drill", {"point": point})
    except AirflowApiError as cause:
        raise UpgradeError(
            f"Restore point {point} was not proved by a drill: {cause.what}",
            "Follow docs/runbooks/restore-drill.md. Nothing was changed.",
        ) from cause


def _run(api: AirflowApi, dag_id: str, conf: Mapping[str, object]) -> str:
    """Run a DAG on the running platform to its end. Return the id of the run. Raises AirflowApiError."""
    run = api.trigger(dag_id, conf)
    api.follow(dag_id, run, lambda line: logger.info("%s: %s", dag_id, line), PATIENCE)
    return run


@contextmanager
def _step(name: str) -> Iterator[None]:
    began = time.monotonic()
    logger.info("--- %s", name)
    yield
    logger.info("%s: done in %.1f s", name, time.monotonic() - began)


def exchange(stack: Stack, begun: BegunUpgrade) -> list[str]:
    """Stop, migrate, start and prove the platform.

    Return notes for people. A repeated call continues. Raises UpgradeError.
    """
    logger.info("the way back, at any time from here on: %s", way_back(stack))
    with _step("stop"):
        lifecycle.down(stack)
    started = time.time()
    with _step("migrate and start"):
        lifecycle.up(stack, migrate=True)
    with _step("proof"):
        platform = open_platform()
        checks = [
            dags_are_read(AirflowApi(platform.connections("airflow_api")), frozenset(begun.dags), started),
            *proof(platform, begun),
        ]
    restore_checks.log(checks)
    ours, now = release.of_checkout(stack.root, stack.python), platform.clock()
    failed = [check for check in checks if check.ok is False]
    body = {
        "outcome": "red" if failed else "upgraded",
        "from": _told(begun.before),
        "to": _told(ours),
        "point": begun.point,
        "migrated": list(begun.migrates),
        "checks": [asdict(check) for check in checks],
        "seconds": round((now - datetime.fromisoformat(begun.began)).total_seconds(), 1),
    }
    platform.ledger.append("upgrade", ours.version, body)
    if failed:
        raise UpgradeError(
            f"This release runs, but checks failed: {failed[0].what} ({failed[0].detail})",
            f"Correct the cause and run `rempart stack upgrade --yes` again, or go back: {way_back(stack)}",
        )
    upgrade_journal.write(stack, replace(begun, outcome="upgraded"))
    lost = f"databases {' and '.join(begun.migrates)} return to restore point {begun.point}" if begun.migrates else ""
    return [
        f"upgraded in {body['seconds']:.0f} s. Keep {begun.before.root} until you are sure. Way back:",
        f"  {way_back(stack)}",
        f"  ({lost or 'no schema was migrated: only the previous release is started'})",
    ]


def _told(installed: release.Release) -> dict[str, object]:
    return {"version": installed.version, **{name: installed.packages.get(name) for name in release.MIGRATES}}


def way_back(stack: Stack) -> str:
    """Return the command that goes back."""
    where = f"REMPART_VAR={stack.var} " + (f"REMPART_PORT_OFFSET={stack.offset} " if stack.offset else "")
    return f"cd {stack.root} && {where}.venv/bin/rempart stack upgrade --back --yes"


def proof(platform: Platform, begun: BegunUpgrade) -> Iterator[RestoreCheck]:
    """Check for everything that existed before, the way users ask for it."""
    site = platform.active_site(classification_of(load_all()))
    head, environment = begun.ledger_head, configuration.environment()
    yield from restore_checks.of_service(platform, begun.champions, head, environment, site)


@dataclass
class _Read:
    """DAGs that Airflow has read since a moment, and its import errors."""

    ids: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


def dags_are_read(api: AirflowApi, wanted: frozenset[str], since: float) -> RestoreCheck:
    """Check that every DAG was read again without an error. `since` is in seconds since the epoch."""
    what = "every DAG is read without error"
    deadline, found = time.monotonic() + PARSE_SECONDS, _Read()
    while time.monotonic() < deadline:
        found.ids = {dag["dag_id"] for dag in api.dags() if _time(dag["last_parsed_time"]) >= since}
        found.errors = api.import_errors()
        if wanted <= found.ids and not found.errors:
            return RestoreCheck(what, True, f"{len(wanted)} DAGs")
        time.sleep(1)
    missing = sorted(wanted - found.ids)
    return RestoreCheck(what, False, found.errors[0] if found.errors else f"not read: {', '.join(missing[:5])}")


def _time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
