"""Grant a job in a pool its credentials for sites and MLflow, as `job_credentials` of each site declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from rempart.errors import PlacementDenied
from rempart.models import tracking_users
from rempart.settings.config import Config, Connection, Connections, connection_text
from rempart.sites.s3 import sessions
from rempart.sovereignty.places import decide_site
from rempart.sovereignty.policy import Decision
from rempart.training import data_rights
from rempart.training.attempts.record import ORDER
from rempart.training.data_rights import Rights
from rempart.training.job import JobSpec

MARGIN = timedelta(minutes=15)
"""Time by which a session outlasts trainer.timeout: images are pulled after it begins, and clocks differ."""


@dataclass(frozen=True)
class Granted:
    """Environment variables of the job's containers (secret), and a description of them that may be shown."""

    variables: dict[str, str]
    description: str


def missing(config: Config, spec: JobSpec) -> list[str]:
    """Return why a job may run in no pool: sites without declared job credentials."""
    return [
        f"sites.{right.site.name}.job_credentials is not declared"
        for right in data_rights.rights(spec)
        if config.sites[right.site.name].job_credentials is None
    ]


def shortened(config: Config, spec: JobSpec, timeout: timedelta) -> Iterator[str]:
    """Return warnings about sessions that may end before the job."""
    for right in data_rights.rights(spec):
        offered = config.sites[right.site.name].job_credentials
        if offered and offered.kind == "session" and offered.longest < timeout:
            yield (
                f"site {right.site.name} limits sessions to {offered.longest}, but trainer.timeout is {timeout}: a "
                "longer job continues from its checkpoint in another attempt"
            )


def grant(
    config: Config,
    connections: Connections,
    record: Callable[[Decision], None],
    spec: JobSpec,
    attempt: int,
    timeout: timedelta,
    today: date,
) -> Granted:
    """Return the credentials of one attempt that may run for `timeout`. `record` writes evidence of each placement.

    Raises PlacementDenied if a site's are not declared; SiteError and its kinds; TrackingUnavailable and
    TrackingRefused.
    """
    if lacking := missing(config, spec):
        raise refusal(spec, lacking)
    variables, described = {}, []
    for right in data_rights.rights(spec):
        name = right.site.name
        given, what = _at_site(config, connections, record, spec, right, attempt, timeout, today)
        variables[_variable(config.sites[name].connection)] = connection_text(given)
        described.append(f"{name}: {what}")
    user, what = _at_tracking(config, connections, spec, attempt)
    variables[_variable(spec.tracking.connection)] = connection_text(user)
    return Granted(variables, "; ".join((*described, f"MLflow: {what}")))


def release(config: Config, connections: Connections, spec: JobSpec, attempt: int | None = None) -> None:
    """Revoke what does not expire: the attempt's MLflow user, or those of all attempts of a job.

    Raises TrackingUnavailable, TrackingRefused.
    """
    if config.training.tracking_user == "attempt":
        tracking_users.remove(connections(spec.tracking.connection), _user(spec, attempt))


def refusal(spec: JobSpec, reasons: list[str]) -> PlacementDenied:
    return PlacementDenied(
        f"Job {spec.job_id} may not run in a pool: {'; '.join(reasons)}",
        "Declare there what jobs get: kind: session (with a role), connection or platform (docs/how-to/gpu-pools.md).",
    )


def _at_site(
    config: Config,
    connections: Connections,
    record: Callable[[Decision], None],
    spec: JobSpec,
    rights: Rights,
    attempt: int,
    timeout: timedelta,
    today: date,
) -> tuple[Connection, str]:
    declared = config.sites[rights.site.name]
    offered, own = declared.job_credentials, connections(declared.connection)
    if offered is None or offered.kind == "platform":
        return own, f"the site's own key (connection {declared.connection}), which the owner chose to give"
    if offered.connection:
        return connections(offered.connection), f"the key of connection {offered.connection}"
    decision = decide_site(
        config,
        spec.classification,
        "data",
        rights.site.name,
        on=today,
        endpoint=own.extra.get("endpoint_url"),
    )
    record(decision)
    bucket = rights.own[0] if rights.own else rights.reads[0][0]
    request = sessions.Request(
        name=f"job-{spec.job_id}-{attempt}",
        policy=data_rights.text(data_rights.policy(rights)),
        seconds=int((timeout + MARGIN).total_seconds()),
        must=rights.reads[0] if rights.reads else (bucket, spec.key(ORDER)),
        must_not=bucket,
    )
    session, until = sessions.assume(rights.site.name, own, rights.site.region, offered, request, decision)
    return session, f"a session until {until.isoformat(timespec='seconds')}, limited to the job's objects"


def _at_tracking(config: Config, connections: Connections, spec: JobSpec, attempt: int) -> tuple[Connection, str]:
    own = connections(spec.tracking.connection)
    if config.training.tracking_user == "platform":
        return own, "the platform's user, which the owner chose to give"
    user = tracking_users.create(own, _user(spec, attempt), spec.tracking.experiment)
    return user, f"user {user.login}, of experiment {spec.tracking.experiment} alone, until the attempt ends"


def _user(spec: JobSpec, attempt: int | None) -> str:
    """Return the prefix of the names of an attempt's users, or of all attempts'."""
    return f"{tracking_users.JOB}{spec.job_id}-" + ("" if attempt is None else f"{attempt}-")


def _variable(connection: str) -> str:
    return f"AIRFLOW_CONN_{connection.upper()}"
