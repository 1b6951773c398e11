"""Plan and execute the return of a model to an earlier champion, one recorded rollback after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rempart.errors import ModelRefused, TrainingError
from rempart.flows.shared.platform import Platform
from rempart.flows.training import validate
from rempart.flows.training.champions import decisions_on, succession
from rempart.flows.training.validate import RollbackResult
from rempart.ledger.port import Evidence
from rempart.models import registry
from rempart.settings.pipeline import ModelPipeline


@dataclass(frozen=True)
class RollbackStep:
    """One rollback: `returns` takes the place of `replaces`."""

    returns: str
    replaces: str


def steps_to(decisions: Sequence[Evidence], model: str, version: str | None) -> tuple[RollbackStep, ...]:
    """Return the rollbacks that make a version champion again; without one, that of the champion before. Pure.

    `decisions`: promotions and rollbacks, oldest first. Raises TrainingError if there is no way back to it.
    """
    versions = succession(decisions)
    if len(versions) < 2:
        raise TrainingError(
            f"Model {model} has no earlier champion",
            f"Promote a better candidate: `rempart pipeline run {model} --follow` trains on new deliveries.",
        )
    wanted = version or versions[-2]
    if wanted == versions[-1]:
        raise TrainingError(
            f"Model {model}: version {wanted} is the champion already", f"See `rempart model show {model}`."
        )
    earlier = versions[:-1]
    if wanted not in earlier:
        raise TrainingError(
            f"Model {model} cannot return to version {wanted}: it can return to {', '.join(dict.fromkeys(earlier))}",
            f"Pass one of these. To promote another version, trigger validate_model_{model} with its `version`.",
        )
    at = len(earlier) - 1 - earlier[::-1].index(wanted)
    return tuple(RollbackStep(versions[i - 1], versions[i]) for i in range(len(versions) - 1, at, -1))


def unfinished(decisions: Sequence[Evidence], alias: str | None) -> RollbackStep | None:
    """Return the recorded rollback after which MLflow's alias `alias` did not move; None if there is none. Pure."""
    versions = succession(decisions)
    if not versions or alias == versions[-1] or decisions[-1].kind != "rollback":
        return None
    return RollbackStep(versions[-1], str(decisions[-1].body["replaces"]))


def plan(platform: Platform, pipeline: ModelPipeline, version: str | None = None) -> tuple[RollbackStep, ...]:
    """Return the rollbacks to a version; the files of each that returns are compared with its record.

    An interrupted rollback is finished first, not repeated. Nothing changes. Raises TrainingError, ModelRefused,
    TrackingUnavailable, LedgerError, DatabaseUnavailable.
    """
    decisions = decisions_on(platform.ledger, pipeline.name)
    left = unfinished(decisions, registry.champion(platform.tracking(), pipeline.name))
    steps = (left,) if left and version in (None, left.returns) else steps_to(decisions, pipeline.name, version)
    validate.roll_back(platform, pipeline, dry_run=True, replaces=steps[0].replaces)
    for step in steps[1:]:
        validate.check_files(platform.tracking(), platform.ledger, pipeline.name, step.returns)
    return steps


def execute(platform: Platform, pipeline: ModelPipeline, steps: Sequence[RollbackStep]) -> RollbackResult:
    """Execute a plan, by the flow of the DAG `roll_back_model_*`. Each step is evidence.

    If another version became champion meanwhile, nothing more moves. Raises the errors of `plan`.
    """
    done = None
    for step in steps:
        done = validate.roll_back(platform, pipeline, dry_run=False, replaces=step.replaces)
        if done.champion != step.returns:
            raise ModelRefused(
                f"Model {pipeline.name}: version {done.champion} came back instead of version {step.returns}",
                f"Another decision was made meanwhile: see `rempart model show {pipeline.name}`.",
            )
    if done is None:
        raise TrainingError(f"Model {pipeline.name}: the plan has no step", "Show the plan again.")
    return done
