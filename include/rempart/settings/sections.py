"""Define the sections of rempart.yaml, one class each; rempart.settings.config.Config checks their references."""

from __future__ import annotations

from datetime import date, time, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rempart.settings.operators import Names
from rempart.settings.retention_rules import Keep
from rempart.settings.schema import Duration, Strict

Classification = Literal["public", "internal", "personal", "sensitive"]

SHORTEST_SESSION = timedelta(minutes=15)
"""Minimum duration of STS AssumeRole sessions: AWS and compatible services refuse less than 900 s."""

MOST_LISTED = 10_000_000
"""Limit of entries in one listing, unless a site sets another."""

Countries = list[Annotated[str, Field(pattern=r"^([A-Z]{2}|EEA|ADEQUACY)$")]]
"""Countries by their ISO 3166 code, and groups of countries."""


class Place(Strict):
    """A service of an operator in a region."""

    operator: str
    service: str
    region: str


class JobCredentials(Strict):
    """Credentials with which a job in a pool reaches the site.

    `session`: a temporary session from the site's STS, limited to the job's own objects. `connection`: the key of
    another connection, whose rights you limit at the operator. `platform`: the site's own key, with all rights.
    """

    kind: Literal["session", "connection", "platform"]
    role: str | None = Field(
        default=None,
        pattern=r"^arn:[^:\s]*:iam:[^:\s]*:[^:\s]*:role/\S+$",
        description="Of a session: ARN of the role to assume.",
    )
    longest: Duration = Field(
        default="12h", validate_default=True, description="Of a session: the longest that the role allows."
    )
    connection: str | None = Field(default=None, description="Airflow connection of that key.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for key, kind in (("role", "session"), ("connection", "connection")):
            if (getattr(self, key) is None) == (self.kind == kind):
                raise ValueError(f"{key}: give it with kind: {kind}, and with no other")
        if self.longest < SHORTEST_SESSION:
            raise ValueError("longest: no service makes sessions of less than 15m")
        return self


class SiteConfig(Place):
    """One S3-compatible location of an operator."""

    service: str = "object-storage"
    connection: str = Field(description="Airflow connection with key, secret and extra.endpoint_url.")
    job_credentials: JobCredentials | None = Field(
        default=None, description="Of jobs in pools. Without it no job that reads or writes here runs in a pool."
    )
    independent_of: str | None = Field(default=None, description="Site whose loss this one must survive.")
    most_listed: int = Field(
        default=MOST_LISTED,
        ge=100_000,
        description="Objects or versions in one listing; above it, work stops and asks whether the listing ever ends.",
    )


class PolicyRule(Strict):
    """Countries or groups (EU, EEA, ADEQUACY) where one classification may be placed. An empty list allows none."""

    jurisdictions: Countries = Field(description="Of the place itself, its operator and the infrastructure below it.")
    owner_jurisdictions: Countries = Field(description="Of the ultimate owners of both: laws that reach abroad.")
    qualifications: list[str] = Field(default_factory=list, description="That the service must hold, such as HDS.")
    technology_origins: Countries | None = Field(default=None, description="Of what the service is built on.")
    subprocessor_jurisdictions: Countries | None = Field(default=None, description="Of the operator's sub-processors.")
    independent: list[Literal["replica", "restore-point"]] = Field(
        default_factory=list, description="What must not share infrastructure with the place that it is a copy of."
    )


class Registry(Place):
    """A container registry from which pods may pull."""

    service: str = "container-registry"
    mirror_of: Names = Field(default_factory=list, description="Registries whose images are pulled from here instead.")


class DeclaredConnection(Place):
    """An Airflow connection that DAGs of the team's own may use."""

    hosts: Names = Field(default_factory=list, description="Where it leads: host or host:port.")


class Toleration(Strict):
    """A taint that a pool's pods tolerate, as Kubernetes writes it."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(
        default=None, ge=0, alias="tolerationSeconds", description="Then the pod is deleted; with NoExecute only."
    )

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds: give it with effect: NoExecute, and with no other")
        return self


class Pool(Place):
    """A namespace of a Kubernetes cluster in which jobs run."""

    service: str = "managed-kubernetes"
    kubernetes_connection: str
    namespace: str
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    gpu: str = Field(default="nvidia.com/gpu", description="Name of the GPU resource of its nodes.")
    max_gpus: int = Field(default=1, ge=0, description="Most GPUs that one job may ask for here.")
    quota: int | None = Field(default=None, ge=0, description="GPUs that the contract grants at a time.")
    elastic: bool = Field(default=False, description="Its operator adds nodes on demand: full ones say nothing.")
    price_per_gpu_hour: float | None = Field(default=None, ge=0, description="Contract price in EUR.")
    priority_class: str | None = None
    queue: str | None = Field(default=None, description="Kueue's LocalQueue in the namespace.")
    runtime: str | None = Field(
        default=None, description="Kubeflow's TrainingRuntime in the namespace: jobs of several nodes run by it."
    )
    max_pending: Duration = Field(default="10m", validate_default=True, description="Then the next pool is tried.")
    node_lost_after: Duration = Field(
        default="60s",
        validate_default=True,
        description="A job whose node is not ready, or does not answer, for so long is deleted and goes on elsewhere.",
    )
    registry: str | None = Field(default=None, description="Of registries: where this pool pulls the job's image.")


class EvidenceConfig(Strict):
    """Where the ledger is exported under lock, and how long evidence is kept."""

    site: str | None = Field(default=None, description="The site of the export; by default the active site.")
    every: Duration = timedelta(minutes=15)
    checkpoint_site: str | None = Field(default=None, description="Of the checkpoints; by default backup.site.")
    retention: Duration = timedelta(days=3650)


class AuditException(Strict):
    """A finding that somebody accepts until a date."""

    finding: str
    owner: str
    reason: str
    expires: date


class AuditConfig(Strict):
    """Criteria of `rempart audit`."""

    facts_max_age: Duration = timedelta(days=365)
    licences: list[str] = Field(default_factory=list, description="SPDX identifiers that dependencies may have.")
    advisories: str | None = Field(default=None, description="Folder or zip of advisories in OSV format.")
    advisories_max_age: Duration = timedelta(days=30)
    exceptions: list[AuditException] = Field(default_factory=list)


class Retention(Strict):
    """Retention of the data of one classification."""

    raw: Duration
    quarantine: Duration
    snapshots: Duration


class Buckets(Strict):
    """Bucket names, the same at every site (buckets are global at many operators: choose a prefix of your own)."""

    landing: str = "landing"
    lake: str = "lake"
    artifacts: str = "artifacts"
    backups: str = "backups"
    evidence: str = "evidence"
    checkpoints: str = "checkpoints"
    doctor: str = Field(default="doctor", description="Where the doctor of sites tries what each of them can do.")


class Deletes(Strict):
    """Conditions for hiding, and later deleting, objects at the target that are gone at the source.

    More than `share` or `count` in one run stops the replication and asks: a large loss is more often an accident than
    intended.
    """

    share: float = Field(default=0.1, gt=0, le=1, description="Of the objects, at most this part in one run.")
    count: int = Field(default=10_000, ge=1, description="And no more than this.")
    sightings: int = Field(default=2, ge=2, description="Complete listings, one after another, that lack the object.")
    interval: Duration = Field(default="10m", validate_default=True, description="Between the first of them and now.")
    keep: Duration = Field(
        default="400d",
        validate_default=True,
        description="What was hidden or overwritten can be read by its version so long, as restore points may need it.",
    )


class Window(Strict):
    """Hours of the day, UTC, in which objects are copied; out of them the lag is measured and nothing is copied."""

    begin: time
    end: time

    def open_at(self, moment: time) -> bool:
        """Return whether a time of day is inside the window, which may cross midnight."""
        if self.begin <= self.end:
            return self.begin <= moment < self.end
        return moment >= self.begin or moment < self.end


class ReplicationPair(Strict):
    """A source and a target site."""

    source: str
    target: str
    buckets: list[Literal["lake", "artifacts"]] = Field(default=["lake", "artifacts"])
    every: Duration = timedelta(minutes=5)
    lag_objective: Duration = timedelta(minutes=15)
    compare: Duration = Field(
        default="1d",
        validate_default=True,
        description="All versions of all keys are compared once in this time; in between what a reader finds of each.",
    )
    read_back: Duration = Field(
        default="30d", validate_default=True, description="Every replica is read back and compared once in this time."
    )
    deletes: Deletes = Deletes()
    tags: bool = Field(default=True, description="Copy the objects' tags: one request more for each object.")
    transfers: int = Field(default=32, ge=1, le=128, description="Objects under way at a time, in each task.")
    bandwidth: int | None = Field(default=None, ge=1, description="Bytes per second, at most: one task copies then.")
    window: Window | None = None


class PointInTime(Strict):
    """Point-in-time recovery of a PostgreSQL that the team runs itself: base backups and all WAL since.

    The archive holds every database of the server, so an erased person can be recovered for `keep` plus `base_every`.
    """

    base_every: Duration = Field(default="1d", validate_default=True, description="A base backup is taken so often.")
    keep: Duration = Field(
        default="7d", validate_default=True, description="The server can be recovered to any second of this time."
    )
    wal_every: Duration = Field(
        default="60s", validate_default=True, description="A WAL segment is closed and archived at least so often."
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.base_every > self.keep:
            raise ValueError("base_every: longer than keep, so the window would be longer than you asked for")
        if not self.wal_every or not self.base_every:
            raise ValueError("wal_every: give it and base_every a time above zero")
        return self


class BackupConfig(Strict):
    """Where restore points go, how often, and their objectives."""

    site: str
    every: Duration = timedelta(minutes=30)
    keep: Keep = Keep()
    locked: Duration = Field(
        default="3d",
        validate_default=True,
        description="So long at least nobody can delete what a kept point needs; 0s: dumps and manifests have no lock.",
    )
    recipients: list[Annotated[str, Field(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]] = Field(
        default_factory=list, description="Escrow: who can open the keys of backups besides the platform."
    )
    escrow: Literal["required", "none"] = Field(
        default="required", description="`none`: a trial, in which the platform's own key may be the only one."
    )
    bundle: bool = Field(
        default=False,
        description="Each backup keeps at its site what a bare machine needs to restore (0.5 GB at first).",
    )
    rpo_objective: Duration = timedelta(hours=1)
    rto_objective: Duration = timedelta(minutes=30)
    report_profiles: list[Literal["financial", "nis2"]] = Field(
        default_factory=list, description="Whose provisions a drill's report maps its evidence to."
    )
    point_in_time: PointInTime | None = Field(
        default=None, description="Archive the WAL of a self-run PostgreSQL as well. Off unless it stands here."
    )


class Resources(Strict):
    """Processor and memory of a job's pod, as Kubernetes writes them: requested, and its limit."""

    cpu: str = Field(default="1", pattern=r"^\d+m?$")
    memory: str = Field(default="2Gi", pattern=r"^\d+(Mi|Gi)$")


class Training(Strict):
    """Where training jobs run, and how long they wait for a place."""

    backend: Literal["local", "kubernetes"] = "local"
    image: str | None = Field(
        default=None, pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$", description="Of the job's pod, by digest."
    )
    gpu_pools: list[str] = Field(
        default_factory=list, description="In the order to try; by default as under gpu_pools."
    )
    gpus: int = Field(default=1, ge=0, description="GPUs of a job whose pipeline does not say.")
    resources: Resources = Resources()
    deadline: Duration = Field(
        default="24h", validate_default=True, description="To find a place, after which it fails."
    )
    pause: Duration = Field(default="1m", validate_default=True, description="Between two rounds when all are full.")
    tracking_user: Literal["attempt", "platform"] = Field(
        default="attempt",
        description="Whom a job in a pool logs to MLflow as: a user for each attempt, or the platform's.",
    )
    log_every: Duration = Field(default="30s", validate_default=True, description="A pod's log reaches the task's log.")


class External(Strict):
    """A service that the team runs itself: `rempart up` checks it and never starts it.

    PostgreSQL, MLflow and Airflow need `operator`, `service` and `region` for the policy. A site's place is under
    `sites`.
    """

    url: str
    connection: str
    operator: str | None = Field(default=None, description="Who runs the infrastructure that it is on.")
    service: str | None = Field(default=None, description="Of that operator, such as managed-postgresql.")
    region: str | None = Field(default=None, description="Of that operator.")

    @property
    def place(self) -> Place | None:
        """Return the service's place, or None unless operator, service and region are all declared."""
        if self.operator is None or self.service is None or self.region is None:
            return None
        return Place(operator=self.operator, service=self.service, region=self.region)


class Access(Strict):
    """Who may use Airflow's pages and API: `simple` has only the platform's admin, `fab` has people with roles."""

    auth_manager: Literal["simple", "fab"] = "fab"
    session: Duration = Field(
        default="12h", validate_default=True, description="With fab: a login, and each token, ends after this time."
    )

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.session < timedelta(minutes=1):
            raise ValueError("session: give people a minute at least")
        return self


class StackService(Strict):
    """A service of the stack: started here, or external."""

    port: int | None = Field(default=None, ge=1024, le=65535, description="Listen here instead of the default port.")
    external: External | None = None


class DagDefaults(Strict):
    """Shared defaults of all DAGs."""

    owner: str = "mlops"
    retries: int = Field(default=2, ge=0)
    retry_delay: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(hours=1)
