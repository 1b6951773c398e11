"""Carry the policy's permission in a job's spec: a job in a pool has no rempart.yaml. Pure.

Whoever starts an attempt asks the policy and writes the answer into the spec (`permit`). The job opens a site only if
that answer allows it (`decide`).
"""

from __future__ import annotations

from datetime import date

from rempart.errors import TrainingError
from rempart.settings.config import Config
from rempart.sovereignty import job_permission
from rempart.sovereignty.job_permission import ASK_AGAIN, Permission
from rempart.sovereignty.policy import Decision
from rempart.training.job import JobSpec


def decisions(config: Config, spec: JobSpec, *, on: date) -> tuple[Decision, ...]:
    """Return the policy's answer about each site of a job, on a day."""
    return job_permission.decisions(config, spec.classification, _sites(spec), on=on)


def permit(config: Config, spec: JobSpec, *, on: date) -> JobSpec:
    """Return the spec with the policy's permission of that day, for one attempt. Raises PlacementDenied."""
    permission = job_permission.permitted(config, spec.classification, _sites(spec), on=on)
    return spec.model_copy(update={"permission": permission})


def permission_of(spec: JobSpec) -> Permission:
    """Return the permission in a spec. Raises TrainingError without one."""
    if spec.permission is None:
        raise TrainingError(f"run job {spec.job_id}: its spec has no permission of the policy", ASK_AGAIN)
    return spec.permission


def decide(spec: JobSpec, site: str, endpoint: str | None, *, on: date) -> Decision:
    """Check whether the spec allows a job's data at this endpoint (a URL) of a site. Raises TrainingError."""
    return job_permission.decide(permission_of(spec), spec.classification, site, endpoint, on=on)


def _sites(spec: JobSpec) -> set[str]:
    return {spec.dataset.site.name, spec.output.site.name}
