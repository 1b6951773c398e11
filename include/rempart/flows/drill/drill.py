"""Run a restore drill: restore a point into scratch space, compare it with its record, remove the scratch space."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from rempart.backup.databases import postgresql
from rempart.backup.databases.not_held import is_whole
from rempart.backup.drill import scratch, tracking_server
from rempart.backup.drill.checks import RestoreCheck, equal_count, of_database, passed, within
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points import chain, points
from rempart.coordination.active import backup_site
from rempart.errors import BackupError, DrillFailed, IntegrityError, RempartError
from rempart.flows.backup.mend_links import hashes, named_links
from rempart.flows.backup.restore_points import ALL
from rempart.flows.drill import drill_attack, drill_report
from rempart.flows.drill.drill_checks import Restored, Sealed, Tally
from rempart.flows.restore.restore_source import verified
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.keys import open_keyring, warn_of_escrow
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

Scenario = Literal["routine", "cyber-attack"]
RPO = "RPO: the possible data loss is within the objective"
RTO = "RTO: restore and checks took no longer than the objective"


@dataclass(frozen=True)
class DrillResult:
    """Result of a drill. `proved`: all checks of the restore point passed; `ok`: both objectives are met as well.

    `rto_seconds` is the time from the start to the last check. `rpo_seconds` is the age of the newest complete point at
    the start (in a simulated attack: of the last clean one), or None if there is none or it failed.
    """

    ok: bool
    point_id: str
    rto_seconds: float
    rpo_seconds: float | None
    checks: tuple[RestoreCheck, ...]
    proved: bool = True
    scenario: Scenario = "routine"


def drill(
    platform: Platform,
    point_id: str | None = None,
    *,
    scenario: Scenario = "routine",
    suffix: Callable[[], str] = lambda: secrets.token_hex(3),
    seed: Callable[[], bytes] = lambda: secrets.token_bytes(32),
    tools: postgresql.Tools | None = None,
) -> DrillResult:
    """Restore a restore point (default: the newest) into scratch databases, bucket and MLflow server, and check it.

    The scenario `cyber-attack` simulates poisoned points in memory behind the stored ones, judges all, and restores the
    last clean one. Scratch space is removed at the end, also after a failure, as are leftovers of a killed drill.
    Writes evidence of kind `drill` and files its report. Raises DrillFailed with the failed checks, including a missed
    objective; BackupError if there is no point or another drill runs; DatabaseUnavailable, SiteError, PlacementDenied
    if the drill cannot start or its report cannot be filed.
    """
    if point_id is not None and scenario != "routine":
        raise BackupError(
            f"A drill of scenario {scenario} chooses its restore point itself",
            "Pass either the restore point or the scenario.",
        )
    active, holder = platform.active().site, _holder(platform, point_id)
    replica_of = active if active != holder else None
    site = platform.site(holder, classification_of(load_all()), "restore-point", replica_of=replica_of)
    began = platform.clock()
    point_id = _choose(platform, site, point_id)
    with scratch.only_drill(platform.database("drill")):
        run = _Drill(platform, site, point_id, scenario, tools or postgresql.find_tools())
        ended = run.run(began, suffix(), (seed(), seed()))
    result = run.result(began, ended)
    record = platform.ledger.append("drill", result.point_id, run.evidence(result, began))
    beat(platform, "drill", {"point": result.point_id, "ok": result.ok, "rto_seconds": result.rto_seconds})
    failed = [f"  {check.what}: {check.detail}" for check in result.checks if check.ok is False]
    try:
        drill_report.file(platform, record)
    except RempartError as error:
        if result.ok:
            raise
        failed.append(f"  the report is filed: {error.what}")
    if not result.ok:
        verdict, remedy = "failed its checks", "until a drill passes, rely only on an older point."
        if result.proved:
            verdict, remedy = "passed its checks, but its drill is red", "it explains each red check."
        told = "\n".join(failed) or "  an objective could not be measured"
        raise DrillFailed(
            f"Restore point {result.point_id} {verdict}:\n{told}",
            f"Follow docs/runbooks/restore-drill.md; {remedy}",
        )
    return result


def _holder(platform: Platform, point_id: str | None) -> str:
    """Return the site of a restore point (default: the newest on record).

    After a switchover new points go elsewhere.
    """
    for record in platform.ledger.find("restore-point", point_id, limit=1):
        return str(record.body["site"])
    return backup_site(platform.config, platform.active().site)


def _choose(platform: Platform, site: Site, point_id: str | None) -> str:
    """Return the named point, else the newest complete one, else the newest."""
    if point_id is not None:
        return points.valid_id(point_id)
    if not (found := points.list(site, platform.config.buckets.backups)):
        raise BackupError(f"Site '{site.name}' holds no restore point", "Run the DAG backup_platform first.")
    lacking = {
        record.subject for record in platform.ledger.find("restore-point", limit=ALL) if not is_whole(record.body)
    }
    return next((point for point in found if point not in lacking), found[0])


def _newest_whole(platform: Platform, site: Site) -> datetime | None:
    """Return the creation time of the newest point that exists, is in the ledger, and is complete."""
    records = {record.subject: record for record in platform.ledger.find("restore-point", limit=ALL)}
    for point in points.list(site, platform.config.buckets.backups):
        if point in records and is_whole(records[point].body):
            return points.created_at(point)
    return None


class _Drill:
    """State of one drill: checks of the restore point, checks of the attack, and locations."""

    def __init__(
        self,
        platform: Platform,
        site: Site,
        point_id: str,
        scenario: Scenario,
        tools: postgresql.Tools,
    ) -> None:
        self.platform, self.site, self.point_id, self.scenario = platform, site, point_id, scenario
        self.tools = tools
        self.backups = platform.config.buckets.backups
        self.connection = platform.database("drill")
        self.tally, self.attack = Tally(), Tally()
        self.manifest: points.Manifest | None = None
        self.recoverable = _newest_whole(platform, site)

    @cached_property
    def keyring(self) -> Keyring:
        warn_of_escrow(self.platform)
        return open_keyring(self.platform)

    def result(self, began: datetime, ended: datetime) -> DrillResult:
        """Return the verdict of the checks so far. The two objectives are added last."""
        objectives, proved = self.platform.config.backup, passed(self.tally.checks)
        took = round((ended - began).total_seconds(), 3)
        if not proved and self.recoverable == points.created_at(self.point_id):
            self.recoverable = None  # it is this point, and nobody can count on it
        lost = round((began - self.recoverable).total_seconds(), 3) if self.recoverable else None
        measured = [
            within(RPO, lost, objectives.rpo_objective),
            # a restore that did not end well took no time that could count
            within(RTO, took if proved and self.manifest else None, objectives.rto_objective),
        ]
        for check in measured:
            self.tally.add(check)
        checks = (*self.attack.checks, *self.tally.checks)
        ok = proved and passed(checks) and all(check.ok is True for check in measured)
        return DrillResult(ok, self.point_id, took, lost, checks, proved, self.scenario)

    def evidence(self, result: DrillResult, began: datetime) -> dict[str, Any]:
        """Return the body of the drill's evidence: the result and the facts of its report."""
        told = {"checks": [asdict(check) for check in result.checks], "began": began.isoformat(timespec="seconds")}
        return {**asdict(result), **told, **drill_report.facts(self.platform, self.site.name, self.manifest)}

    def run(self, began: datetime, suffix: str, seeds: tuple[bytes, bytes]) -> datetime:
        """Run all steps and remove the scratch space. Return the time of the last check before the removal."""
        for old in scratch.leftovers(self.site, self.backups):
            logger.info("removing leftovers of drill %s", old.id)
            self._remove(old)
        clean = None
        if self.scenario == "cyber-attack":
            what = "a clean restore point is found"
            trusted = self.platform.trusted_keys()
            clean = self.attack.attempt(
                what, lambda: drill_attack.find_clean(self.platform, self.site, trusted, self.attack)
            )
            if clean is None or clean.point is None:
                self.recoverable = None
                return self.platform.clock()
            self.point_id, self.recoverable = clean.point, points.created_at(clean.point)
        manifest = self._trusted()
        if manifest is None:
            return self.platform.clock()
        if clean:
            drill_attack.play(self.platform, clean, manifest, seeds, self.attack)
        space = scratch.name_scratch(began, suffix, [dump.name for dump in manifest.databases])
        restored = Restored(self.platform, self.site, self.keyring, manifest, space, self.tools)
        try:
            with ExitStack() as stack:
                self._restore_and_check(restored, stack)
                ended = self.platform.clock()
        finally:
            what = "the scratch space is removed"
            if self.tally.attempt(what, lambda: self._remove(space)):
                self.tally.add(RestoreCheck(what, True, "databases, bucket and server"))
        return ended

    def _trusted(self) -> points.Manifest | None:
        """Return the manifest if the ledger and the chain attest it."""
        what = "the manifest equals its record"
        manifest = self.tally.attempt(what, self._manifest)
        if manifest is None:
            return None
        self.tally.add(RestoreCheck(what, True, f"{len(manifest.objects)} objects"))
        what = "the chain of restore points attests it"
        if (length := self.tally.attempt(what, lambda: self._vouched(manifest))) is None:
            return None
        self.tally.add(RestoreCheck(what, True, f"{length} links, each signed"))
        lacks = "; ".join(manifest.lacking[:5]) + (" ..." if len(manifest.lacking) > 5 else "")
        what = "no referenced object is missing"
        self.tally.add(RestoreCheck(what, not manifest.lacking, lacks or "every referenced object is held"))
        self.manifest = manifest
        return manifest

    def _prepare(self, space: scratch.Scratch) -> bool:
        scratch.prepare(self.site, self.backups, self.connection, space)
        return True

    def _remove(self, space: scratch.Scratch) -> bool:
        scratch.remove(self.site, self.backups, self.connection, space)
        return True

    def _manifest(self) -> points.Manifest:
        records = self.platform.ledger.find("restore-point", self.point_id, limit=1)
        if not records:
            raise IntegrityError(
                f"The ledger has no record of restore point {self.point_id}: it may not come from a backup",
                "Choose another point. If its backup was killed at the very end, the next backup replaces it.",
            )
        return points.read(self.site, self.backups, self.point_id, str(records[0].body["manifest_sha256"]))

    def _vouched(self, manifest: points.Manifest) -> int:
        """Return the number of valid links. Raises IntegrityError if the chain is broken or names another manifest.

        In a simulated attack a broken link is reported separately, and the links before it still attest their points.
        """
        keys, attacked = self.platform.trusted_keys(), self.scenario != "routine"
        named = hashes(named_links(self.platform.ledger, self.site.name, self.platform.config.buckets.backups))
        links = verified(chain.read(self.site, self.backups, keys, named=named), keys, before_break=attacked)
        link = chain.of_point(links, manifest.id)
        if link.manifest_sha256 != hashlib.sha256(points.encode(manifest)).hexdigest():
            raise IntegrityError(
                f"Link {link.seq} of the chain attests another manifest of restore point {manifest.id}",
                "Choose another point, and find out who changed the backup bucket.",
            )
        return len(links)

    def _restore_and_check(self, restored: Restored, stack: ExitStack) -> None:
        tally, manifest = self.tally, restored.manifest
        if not tally.attempt("scratch databases and bucket are created", lambda: self._prepare(restored.space)):
            return
        rows: dict[str, dict[str, int]] = {}
        server: tracking_server.ScratchServer | None = None
        # MLflow's database first: its server starts, which takes longest, while the others are restored
        for dump in sorted(manifest.databases, key=lambda database: database.name != "mlflow"):
            what = f"database {dump.name} is restored with the rows on record"
            found = tally.attempt(what, lambda dump=dump: restored.restore(dump))  # type: ignore[misc] # bound now
            if found is None:
                continue
            rows[dump.name], content = found
            if dump.name == "mlflow":
                server = stack.enter_context(restored.tracking())
            for check in of_database(what, dump, rows[dump.name], content):
                tally.add(check)
        for name, table, label in (
            ("ledger", "public.evidence", "evidence"),
            ("airflow", "public.dag_run", "DAG runs"),
        ):
            if name in rows:
                wanted = manifest.database(name).tables
                tally.add(equal_count(f"{label}: no row is lost", table, wanted, rows[name]))
        found_secrets = Sealed(self.platform, self.site, self.keyring).check(tally, manifest)
        restored.check_models(tally, server, trusts_live=self.scenario == "routine")
        restored.check_databases(tally, set(rows), found_secrets)
