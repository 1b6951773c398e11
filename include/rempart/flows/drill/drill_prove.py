"""Step `prove` of a drill: check the content of the sandbox."""

from __future__ import annotations

from contextlib import ExitStack

from rempart.backup.drill import scratch, tracking_server
from rempart.backup.drill.scratch import Scratch
from rempart.backup.points.points import Manifest
from rempart.errors import BackupError, IntegrityError
from rempart.flows.drill import drill_point, drill_sandbox, drill_steps
from rempart.flows.drill.drill_checks import Restored, Sealed
from rempart.flows.drill.drill_steps import BegunDrill, StepResult, Tally
from rempart.flows.shared.platform import Platform


def prove(platform: Platform, drill_id: str) -> StepResult:
    """Prove the restored databases, models and secrets of a drill. Write evidence of kind `drill-step`.

    The point and the sandbox are read again, and the ledger and the chain must attest the point again. Raises
    BackupError if nothing was restored, the sandbox is gone, or another drill runs; IntegrityError if the point is no
    longer attested.
    """
    ledger, backups = platform.ledger, platform.config.buckets.backups
    drill_steps.begin(ledger, drill_id, "prove")
    began, begun = platform.clock(), drill_steps.read(ledger, drill_id).begun
    if not begun.opened:
        raise BackupError(
            f"Drill {drill_id} restored nothing of restore point {begun.point}: there is nothing to prove",
            "Read the failed checks of the drill's step `restore`.",
        )
    site, tally = drill_point.open_site(platform, begun.site), Tally()
    with scratch.only_drill(platform.database("drill")):
        space = scratch.read(site, backups, drill_id)
        if space is None:
            raise BackupError(
                f"The sandbox of drill {drill_id} was removed: there is nothing to prove",
                "Clear the task `restore` of this run with its downstream tasks, or start a new drill.",
            )
        scratch.write(site, backups, scratch.name_scratch(space.id, space.held))
        with ExitStack() as stack:
            manifest = drill_point.manifest_of(ledger, site, backups, begun.point)
            before_break = begun.scenario != "routine"
            point, _ = drill_point.open_attested(platform, site, manifest, before_break=before_break)
            _same_databases(space, manifest)
            sandbox = drill_sandbox.sandbox_of(platform, site, space)
            _prove(tally, Restored(point, sandbox, drill_id), begun, stack)
            seconds = drill_sandbox.seconds(began, platform.clock())
        scratch.write(site, backups, space.waiting(platform.clock()))
    return drill_steps.record(ledger, StepResult(drill_id, "prove", begun.point, seconds, tuple(tally.checks)))


def _same_databases(space: Scratch, manifest: Manifest) -> None:
    if set(space.held) != {dump.name for dump in manifest.databases}:
        raise IntegrityError(
            f"The sandbox of drill {space.id} has other databases than restore point {manifest.id}",
            "Find out who changed the sandbox's record in the backup bucket, then start a new drill.",
        )


def _prove(tally: Tally, restored: Restored, begun: BegunDrill, stack: ExitStack) -> None:
    names = set(begun.databases)
    server: tracking_server.ScratchServer | None = None
    if begun.artifacts and "mlflow" in names:
        server = stack.enter_context(restored.tracking())  # MLflow starts while other checks run
    restored.count_rows(tally, names)
    secrets = Sealed(restored.point).check(tally)
    restored.check_models(tally, server, trusts_live=begun.scenario == "routine")
    restored.check_databases(tally, names, secrets)
