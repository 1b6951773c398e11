"""Step `restore` of a drill: restore a point into a sandbox with the code that restores the platform."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace

from rempart.backup.databases import postgresql
from rempart.backup.drill import scratch
from rempart.backup.drill.checks import RestoreCheck, restored_as_recorded
from rempart.backup.points import points
from rempart.backup.points.points import Dump
from rempart.backup.points.restore_plan import Part, Selection, select
from rempart.counts import counted
from rempart.errors import BackupError
from rempart.flows.drill import drill_attack, drill_point, drill_report, drill_sandbox, drill_steps
from rempart.flows.drill.drill_steps import BegunDrill, Scenario, StepResult, Tally
from rempart.flows.restore.fill import empty, fill_databases, fill_objects
from rempart.flows.restore.restore_objects import IN_PLACE
from rempart.flows.restore.restore_source import OpenPoint
from rempart.flows.restore.targets import Sandbox
from rempart.flows.shared.keys import warn_of_escrow
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

Seed = Callable[[], bytes]


def random_seed() -> bytes:
    return secrets.token_bytes(32)


def restore(
    platform: Platform,
    drill_id: str,
    point_id: str | None = None,
    *,
    scenario: Scenario = "routine",
    seed: Seed = random_seed,
    tools: postgresql.Tools | None = None,
) -> StepResult:
    """Restore a restore point (default: the newest) into the sandbox of a drill. A repeated call restores again.

    All databases and MLflow's artifacts are restored from the site of the point alone. The scenario `cyber-attack`
    finds the last clean point and simulates poisoned ones. Write evidence of kind `drill-step`, also for a restore with
    failed checks. Raises BackupError if there is no point or another drill runs; DatabaseUnavailable, SiteError,
    PlacementDenied if the drill cannot start.
    """
    scratch.valid_id(drill_id)
    if point_id is not None and scenario != "routine":
        raise BackupError(
            f"The scenario {scenario} chooses the restore point itself, and a point was passed",
            "Pass either the restore point or the scenario.",
        )
    drill_steps.begin(platform.ledger, drill_id, "restore")
    site = drill_point.site_of_point(platform, point_id)
    began = platform.clock()
    ledger, backups = platform.ledger, platform.config.buckets.backups
    point_id = drill_point.choose(ledger, site, backups, point_id)
    with scratch.only_drill(platform.database("drill")):
        drill_sandbox.remove_leftovers(platform, site, drill_id)
        drill_steps.begin(ledger, drill_id, "restore", site.name)  # a killed restore leaves its sandbox there
        warn_of_escrow(platform.config)
        recoverable = drill_point.newest_whole(ledger, site, backups)
        facts = drill_report.facts(platform.config, site.name, None)
        begun = BegunDrill(point_id, scenario, site.name, began, recoverable, facts=facts)
        run = _Restore(platform, site, drill_id, tools or postgresql.find_tools())
        begun = run.run(begun, (seed(), seed()))
        result = StepResult(
            drill_id,
            "restore",
            begun.point,
            drill_sandbox.seconds(began, platform.clock()),
            tuple(run.tally.checks),
            tuple(run.attack.checks),
            begun,
        )
        return drill_steps.record(ledger, result)


class _Restore:
    """State of the restore: checks of the restore point, and checks of the attack."""

    def __init__(self, platform: Platform, site: Site, drill_id: str, tools: postgresql.Tools) -> None:
        self.platform, self.site, self.drill_id, self.tools = platform, site, drill_id, tools
        self.tally, self.attack = Tally(), Tally()

    def run(self, begun: BegunDrill, seeds: tuple[bytes, bytes]) -> BegunDrill:
        """Run the restore. Return the content of the sandbox."""
        clean = None
        if begun.scenario == "cyber-attack":
            trusted = self.platform.trusted_keys()
            clean = self.attack.attempt(
                "a clean restore point is found",
                lambda: drill_attack.find_clean(self.platform, self.site, trusted, self.attack),
            )
            if clean is None or clean.point is None:
                return replace(begun, recoverable=None)
            begun = replace(begun, point=clean.point, recoverable=points.created_at(clean.point))
        opened = self._attested(begun)
        if opened is None:
            return begun
        manifest = opened.manifest
        if clean:
            drill_attack.play(self.platform.ledger, self.platform.clock(), clean, manifest, seeds, self.attack)
        space = scratch.name_scratch(self.drill_id, [dump.name for dump in manifest.databases])
        sandbox = drill_sandbox.sandbox_of(self.platform, self.site, space)
        scratch.write(self.site, self.platform.config.buckets.backups, space)
        # a restore leaves equal data in place: a leftover whose record a site hides would count as restored
        empty(sandbox)
        selection = _selection(opened, self.platform.ledger)
        databases = self._databases(sandbox, opened, selection)
        artifacts = self._artifacts(sandbox, opened, selection)
        scratch.write(self.site, self.platform.config.buckets.backups, space.waiting(self.platform.clock()))
        facts = drill_report.facts(self.platform.config, self.site.name, manifest)
        return replace(begun, opened=True, databases=databases, artifacts=artifacts, facts=facts)

    def _attested(self, begun: BegunDrill) -> OpenPoint | None:
        """Return the point if the ledger and the chain attest it."""
        tally, what = self.tally, "the manifest equals its record"
        ledger, backups = self.platform.ledger, self.platform.config.buckets.backups
        manifest = tally.attempt(what, lambda: drill_point.manifest_of(ledger, self.site, backups, begun.point))
        if manifest is None:
            return None
        tally.add(RestoreCheck(what, True, counted(len(manifest.objects), "object")))
        what, attacked = "the chain of restore points attests it", begun.scenario != "routine"
        attested = tally.attempt(
            what, lambda: drill_point.open_attested(self.platform, self.site, manifest, before_break=attacked)
        )
        if attested is None:
            return None
        opened, links = attested
        tally.add(RestoreCheck(what, True, f"{counted(links, 'link')}, each signed"))
        lacks = "; ".join(manifest.lacking[:5]) + (" ..." if len(manifest.lacking) > 5 else "")
        what = "no referenced object is missing"
        tally.add(RestoreCheck(what, not manifest.lacking, lacks or "every referenced object is held"))
        return opened

    def _databases(self, sandbox: Sandbox, point: OpenPoint, selection: Selection) -> tuple[str, ...]:
        """Restore the databases. Return those that exist now, whether or not they equal their record."""
        there = list[str]()

        def add(dump: Dump, checks: list[RestoreCheck]) -> None:
            there.append(dump.name)
            for check in checks:
                self.tally.add(check)

        failures = self.tally.attempt(
            "scratch databases are created", lambda: fill_databases(sandbox, point, selection, self.tools, add)
        )
        for name, error in (failures or {}).items():
            self.tally.add(RestoreCheck(restored_as_recorded(name), False, error.what))
        return tuple(sorted(there))

    def _artifacts(self, sandbox: Sandbox, point: OpenPoint, selection: Selection) -> bool:
        """Restore MLflow's artifacts.

        A damaged replica fails the check, even if the sealed form of the object is intact.
        """
        what, count = "MLflow's artifacts equal their record", len(selection.objects)
        brought = self.tally.attempt(what, lambda: fill_objects(sandbox, point, selection))
        if brought is None:
            return False
        if lost := count - brought.served.get("replica", 0) - brought.served.get(IN_PLACE, 0):
            why = f"{lost} of {count} objects were restored from their sealed form: {brought.passed_over[0]}"
            self.tally.add(RestoreCheck(what, False, why))
        else:
            self.tally.add(RestoreCheck(what, True, f"{counted(count, 'object')}, {brought.bytes} bytes"))
        return True


def _selection(point: OpenPoint, ledger: Ledger) -> Selection:
    """Return all databases, and the bucket of artifacts if the point has artifacts.

    Objects of a destroyed key are left out if the ledger has a record of the destruction. A mark at the site is not
    enough: anyone with the site's key can write it.
    """
    manifest = point.manifest
    parts = [Part("database", dump.name) for dump in manifest.databases]
    if any(obj.bucket == "artifacts" for obj in manifest.objects):
        parts.append(Part("bucket", "artifacts"))
    on_record = {
        (record.subject, serial)
        for record in ledger.find("backup-key")
        if record.body["event"] == "destroyed"
        for serial in record.body["serials"]
    }
    return select(manifest, parts, destroyed=point.keys.destroyed() & on_record)
