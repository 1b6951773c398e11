"""Define the sections of rempart.yaml, one class each; rempart.settings.config.Config checks their references."""

from __future__ import annotations

from datetime import date, time, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rempart.settings.approval.delegation import Delegation
from rempart.settings.operators import Names
from rempart.settings.policy.rules import Place
from rempart.settings.policy.servers import External as External
from rempart.settings.policy.servers import StackService as StackService
from rempart.settings.retention_rules import Keep
from rempart.settings.schema import Duration, Strict

Classification = Literal["public", "internal", "personal", "sensitive"]

SHORTEST_SESSION = timedelta(minutes=15)
"""Minimum duration of STS AssumeRole sessions: AWS and compatible services refuse less than 900 s."""

MOST_LISTED = 10_000_000
"""Limit of entries in one listing. A site may set another limit."""


class JobCredentials(Strict):
    """Credentials with which a job in a pool reaches the site.

    `session`: a temporary session from the site's STS, limited to the job's own objects. `connection`: the key of
    another connection, whose rights you limit at the operator. `platform`: the site's own key, with all rights.
    """

    kind: Literal["session", "connection", "platform"]
    role: str | None = Field(
        default=None,
        pattern=r"^arn:[^:\s]*:iam:[^:\s]*:[^:\s]*:role/\S+$",
        description="ARN of the role that the session assumes.",
    )
    longest: Duration = Field(default="12h", validate_default=True, description="Longest session that the role allows.")
    connection: str | None = Field(default=None, description="Airflow connection that holds the key.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for key, kind in (("role", "session"), ("connection", "connection")):
            if (getattr(self, key) is None) == (self.kind == kind):
                raise ValueError(f"{key}: allowed only with kind: {kind}, and required there")
        if self.longest < SHORTEST_SESSION:
            raise ValueError("longest: must be at least 15m, because no service makes shorter sessions")
        return self


class SiteConfig(Place):
    """One S3-compatible location of an operator."""

    service: str = "object-storage"
    connection: str = Field(description="Airflow connection with key, secret and extra.endpoint_url.")
    job_credentials: JobCredentials | None = Field(
        default=None,
        description="Credentials of jobs in pools. Without them no job with data of this site runs in a pool.",
    )
    independent_of: str | None = Field(default=None, description="Site whose loss this site must survive.")
    most_listed: int = Field(
        default=MOST_LISTED,
        ge=100_000,
        description="Maximum entries of one listing. Above it work stops: the listing may never end.",
    )


class Registry(Place):
    """A container registry from which pods may pull."""

    service: str = "container-registry"
    mirror_of: Names = Field(default_factory=list, description="Registries that this registry mirrors.")


class DeclaredConnection(Place):
    """An Airflow connection that DAGs of the team's own may use."""

    hosts: Names = Field(default_factory=list, description="Hosts of the connection, as host or host:port.")


class Toleration(Strict):
    """A taint that a pool's pods tolerate, as Kubernetes writes it."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        alias="tolerationSeconds",
        description="Seconds until the pod is deleted; only with NoExecute.",
    )

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds: allowed only with effect: NoExecute")
        return self


class Pool(Place):
    """A namespace of a Kubernetes cluster in which jobs run."""

    service: str = "managed-kubernetes"
    kubernetes_connection: str
    namespace: str
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    gpu: str = Field(default="nvidia.com/gpu", description="Name of the GPU resource of the pool's nodes.")
    max_gpus: int = Field(default=1, ge=0, description="Maximum number of GPUs of one job in this pool.")
    quota: int | None = Field(default=None, ge=0, description="GPUs that the contract grants at a time.")
    elastic: bool = Field(default=False, description="True if the operator adds nodes on demand.")
    price_per_gpu_hour: float | None = Field(default=None, ge=0, description="Contract price in EUR per GPU hour.")
    price_per_executor_hour: float | None = Field(
        default=None, ge=0, description="Contract price in EUR per hour of a Spark pod: an executor, or the driver."
    )
    carbon_grams_per_kwh: float | None = Field(
        default=None, ge=0, description="Grams of CO2 per kWh by the contract. Without it no carbon is told."
    )
    priority_class: str | None = None
    queue: str | None = Field(default=None, description="Name of Kueue's LocalQueue in the namespace.")
    runtime: str | None = Field(
        default=None, description="Kubeflow's TrainingRuntime in the namespace, for jobs of several nodes."
    )
    max_pending: Duration = Field(
        default="10m", validate_default=True, description="Longest wait of a job in this pool."
    )
    node_lost_after: Duration = Field(
        default="60s",
        validate_default=True,
        description="A job whose node is not ready or silent for this time is moved to another node.",
    )
    registry: str | None = Field(default=None, description="Name under registries from which images are pulled.")


class EvidenceConfig(Strict):
    """Site where the ledger is exported under lock, and retention of evidence."""

    site: str | None = Field(default=None, description="Site of the export. Default: the active site.")
    every: Duration = timedelta(minutes=15)
    checkpoint_site: str | None = Field(default=None, description="Site of the checkpoints. Default: backup.site.")
    retention: Duration = timedelta(days=3650)


class AuditException(Strict):
    """A finding that a person accepts until a date."""

    finding: str
    owner: str
    reason: str
    expires: date


class AuditConfig(Strict):
    """Criteria of `rempart audit run`."""

    facts_max_age: Duration = timedelta(days=365)
    licences: list[str] = Field(default_factory=list, description="SPDX identifiers that are allowed.")
    advisories: str | None = Field(default=None, description="Folder or zip file of advisories in OSV format.")
    advisories_max_age: Duration = timedelta(days=30)
    exceptions: list[AuditException] = Field(default_factory=list)


class Retention(Strict):
    """Retention of the data of one classification."""

    raw: Duration
    quarantine: Duration
    snapshots: Duration
    models: Duration = Field(
        default="400d",
        validate_default=True,
        description="Time after its last use for which a version of a model is kept; then it is retired.",
    )
    newest_models: int = Field(
        default=3, ge=1, description="Number of each model's newest versions that stay whatever their age."
    )


class Buckets(Strict):
    """Bucket names, the same at every site (buckets are global at many operators: choose a prefix of your own)."""

    landing: str = "landing"
    lake: str = "lake"
    artifacts: str = "artifacts"
    backups: str = "backups"
    evidence: str = "evidence"
    checkpoints: str = "checkpoints"
    doctor: str = Field(default="doctor", description="Bucket in which `rempart site doctor` probes each site.")


class Deletes(Strict):
    """Conditions for hiding, and later deleting, objects at the target that are gone at the source.

    More than `share` or `count` in one run stops the replication until a person decides: a large loss is more often an
    accident than intended.
    """

    share: float = Field(default=0.1, gt=0, le=1, description="Maximum share of the objects in one run.")
    count: int = Field(default=10_000, ge=1, description="Maximum number of objects in one run.")
    sightings: int = Field(default=2, ge=2, description="Complete listings in a row that lack the object.")
    interval: Duration = Field(default="10m", validate_default=True, description="Minimum time between these listings.")
    keep: Duration = Field(
        default="400d",
        validate_default=True,
        description="Hidden and overwritten versions stay readable for this time.",
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
        description="All versions are compared once in this time, otherwise only current ones.",
    )
    read_back: Duration = Field(
        default="30d", validate_default=True, description="Every replica is read back and compared once in this time."
    )
    deletes: Deletes = Deletes()
    tags: bool = Field(default=True, description="Copy the objects' tags: one more request per object.")
    transfers: int = Field(default=32, ge=1, le=128, description="Objects that each task copies at a time.")
    bandwidth: int | None = Field(default=None, ge=1, description="Maximum bytes per second, in one task.")
    window: Window | None = None


class PointInTime(Strict):
    """Point-in-time recovery of a PostgreSQL that the team runs itself: base backups and all WAL since.

    The archive holds every database of the server, so an erased person can be recovered for `keep` plus `base_every`.
    """

    base_every: Duration = Field(default="1d", validate_default=True, description="Time between two base backups.")
    keep: Duration = Field(
        default="7d", validate_default=True, description="The server can be recovered to any second of this time."
    )
    wal_every: Duration = Field(
        default="60s", validate_default=True, description=("Longest time until a WAL segment is closed and archived.")
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.base_every > self.keep:
            raise ValueError("base_every: longer than keep, so the recovery window would be longer than configured")
        if not self.wal_every or not self.base_every:
            raise ValueError("wal_every: both wal_every and base_every must be above zero")
        return self


class BackupConfig(Strict):
    """Site of the restore points, their interval and their objectives."""

    site: str
    every: Duration = timedelta(minutes=30)
    keep: Keep = Keep()
    locked: Duration = Field(
        default="3d",
        validate_default=True,
        description="Minimum time until restore points can be deleted. 0s: no lock.",
    )
    recipients: list[Annotated[str, Field(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]] = Field(
        default_factory=list, description="Escrow: people besides the platform who can open the keys of backups."
    )
    escrow: Literal["required", "none"] = Field(
        default="required", description="`none` is for a trial: the platform's own key may then be the only one."
    )
    bundle: bool = Field(
        default=False, description="Store at the backup site what a bare machine needs to restore (0.5 GB)."
    )
    rpo_objective: Duration = timedelta(hours=1)
    rto_objective: Duration = timedelta(minutes=30)
    report_profiles: list[Literal["financial", "nis2"]] = Field(
        default_factory=list, description="Regulation to whose provisions a drill's report maps its evidence."
    )
    point_in_time: PointInTime | None = Field(
        default=None, description="Archive the WAL of your own PostgreSQL server. Off by default."
    )


class Resources(Strict):
    """Processor and memory of a job's pod, as Kubernetes writes them: requested, and its limit."""

    cpu: str = Field(default="1", pattern=r"^\d+m?$")
    memory: str = Field(default="2Gi", pattern=r"^\d+(Mi|Gi)$")


class Training(Strict):
    """Pools of training jobs, and how long a job waits for a place."""

    backend: Literal["local", "kubernetes"] = "local"
    image: str | None = Field(
        default=None, pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$", description="Image of the job's pod, by digest."
    )
    gpu_pools: list[str] = Field(
        default_factory=list, description="Pools in the order to try. Default: as under gpu_pools."
    )
    gpus: int = Field(default=1, ge=0, description="GPUs of a job whose pipeline gives no number.")
    resources: Resources = Resources()
    deadline: Duration = Field(
        default="24h", validate_default=True, description="Maximum time to find a place. After it the job fails."
    )
    pause: Duration = Field(
        default="1m", validate_default=True, description="Pause after a round in which all were full."
    )
    tracking_user: Literal["attempt", "platform"] = Field(
        default="attempt",
        description="MLflow user of a job in a pool: a separate user for each attempt, or the platform's user.",
    )
    offline_store: Literal["parquet", "postgresql"] = Field(
        default="parquet",
        description="What joins training sets: DuckDB, from the snapshot's Parquet files, or PostgreSQL.",
    )
    join_memory: int = Field(
        default=1024,
        ge=128,
        description="Memory of DuckDB for this in MiB; what does not fit is written to a temporary folder.",
    )
    log_every: Duration = Field(default="30s", validate_default=True, description="Interval for copying a pod's log.")


class Access(Strict):
    """Authentication of Airflow's pages and API:

    `simple` has only the platform's admin, `fab` has people with roles.
    """

    auth_manager: Literal["simple", "fab"] = "fab"
    session: Duration = Field(
        default="12h", validate_default=True, description="With fab: a login, and each token, ends after this time."
    )
    delegations: list[Delegation] = Field(
        default_factory=list, description="Who approves models in whose place, and until which day."
    )

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.session < timedelta(minutes=1):
            raise ValueError("session: must be at least one minute")
        return self


class DagDefaults(Strict):
    """Shared defaults of all DAGs."""

    owner: str = "mlops"
    retries: int = Field(default=2, ge=0)
    retry_delay: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(hours=1)
