"""Every error that Rempart raises, in one tree.

RempartError(what, hint)
├── ConfigError              rempart.yaml or the environment is wrong (names the path in the file)
│   ├── PipelineError        a pipeline file is wrong (names file and path)
│   └── ConnectionMissing    a connection that the configuration names cannot be resolved
├── StackError               a process of the embedded stack could not start, answer or stop
│   └── PreflightFailed      this machine lacks something that the stack needs
├── PlacementDenied          the policy does not allow this classification at this place
│   └── EgressDenied         a connection to a host that the policy does not allow
├── SiteError                a site refused or failed an operation (names site, bucket and key)
│   ├── SiteUnavailable      transient: the site did not answer, or asked to slow down
│   ├── ClockSkewed          this machine's clock and the site's differ too much for its signatures
│   ├── BodyAltered          transient: a body was altered on its way; the site refused to store it
│   ├── RequestInvalid       the site does not accept a request in this form
│   ├── AnswerInvalid        an answer lacks what every S3 server must send, such as an ETag
│   ├── ListingRefused       a listing repeats itself, is out of order, or does not end
│   ├── CapabilityMissing    the site was not proven able to do what is asked of it
│   ├── SessionExpired       transient: the session that a job had at the site is over: it goes on with a new one
│   ├── ObjectMissing        the object is not there
│   └── IntegrityError       bytes differ from the SHA-256 on record
│       └── RepositoryDamaged    a restic repository does not give back what was stored in it
├── LedgerError              evidence could not be written or read
│   └── LedgerBroken         the chain of evidence does not verify (names the first broken record)
├── AuditError               the platform could not be audited
├── AccessError              a person's access to Airflow could not be looked at or changed
├── DatabaseUnavailable      transient: PostgreSQL did not answer
├── IngestError              a delivery or a snapshot could not be handled as a whole
│   ├── SourceUnavailable    transient: a source did not answer, or asked to wait
│   ├── CommittedMeanwhile   transient: the current snapshot changed while this ran
│   ├── ErasedMeanwhile      transient: rows were erased while this ran, and it might have brought them back
│   └── InputMissing         a pipeline whose rows are needed has no snapshot yet
├── FeatureError             the feature store would be wrong (leak, lost rows, nothing materialized)
│   ├── LabelsMissing        no row has its target yet: its own, or a label
│   └── LoadedMeanwhile      transient: the feature store was loaded while it was compared
├── TrainingError            the job failed or gave no usable result
├── SparkError               a Spark job could not be started, failed, or gave no usable result
│   └── SparkInterrupted     transient: a Spark job was ended before its result: it runs again
├── PoolUnavailable          transient: a pool's cluster did not answer, or a service that its job needs did not
├── PredictionError          rows cannot be predicted (names the column, and how many rows)
│   └── ChampionMissing      a pipeline has no champion that could predict
├── ServingError             the scorer or its log cannot do what was asked of it
├── ModelRefused             the model on storage is not the one on record, or has a format that we do not open
├── TrackingUnavailable      transient: MLflow did not answer
├── TrackingRefused          MLflow answered, and refused
├── ReplicationError         a guard stopped a replication, or its state is not what it must be
│   ├── LeaseHeld            transient: another run does the same thing now
│   └── LeaseLost            this run lost its lease to another, and wrote nothing after that
├── FailoverError            a step of failover or failback could not be taken
│   └── SiteFenced           transient: the platform is being moved to another site, or was while this ran
├── BackupError              a restore point could not be written, read or restored
│   ├── RepositoryMissing    there is no restic repository where one was expected
│   ├── RepositoryRefused    the restic repository does not open with this password
│   ├── RepositoryBusy       transient: somebody else works on the restic repository now
│   ├── KeyMissing           no copy of a scope's key is at any site that was asked
│   ├── KeyWrong             the identity given is none that it was encrypted for
│   ├── KeyRotated           the identity given opened it once, and was replaced since
│   ├── KeyDestroyed         the scope's key was destroyed on purpose: nobody can open what it sealed
│   └── LockLapses           a lock ends before what needs its object, and could not be extended
├── UpgradeError             an upgrade was refused, or what it started did not prove itself
├── DrillFailed              a restore point did not prove itself
└── WatchError               the watch could not tell somebody, or keep what it told

`transient` tells whether a retry can help: the orchestration fails a task at once when it is false. A message leads to
its class's section of docs/reference/errors.md, unless its hint names a page or the class is one of SAY_IT_ALL.
"""

from __future__ import annotations

__all__ = [
    "AccessError", "AnswerInvalid", "AuditError", "BackupError", "BodyAltered", "CapabilityMissing", "ChampionMissing",
    "ClockSkewed", "CommittedMeanwhile", "ConfigError", "ConnectionMissing", "DatabaseUnavailable", "DrillFailed",
    "EgressDenied", "ErasedMeanwhile", "FailoverError", "FeatureError", "IngestError", "InputMissing", "IntegrityError",
    "KeyDestroyed", "KeyMissing", "KeyRotated", "KeyWrong", "LabelsMissing", "LeaseHeld", "LeaseLost", "LedgerBroken",
    "LedgerError", "ListingRefused", "LoadedMeanwhile", "LockLapses", "ModelRefused", "ObjectMissing", "PipelineError",
    "PlacementDenied", "PoolUnavailable", "PredictionError", "PreflightFailed", "RempartError", "ReplicationError",
    "RepositoryBusy", "RepositoryDamaged", "RepositoryMissing", "RepositoryRefused", "RequestInvalid", "ServingError",
    "SessionExpired", "SiteError", "SiteFenced", "SiteUnavailable", "SourceUnavailable", "SparkError",
    "SparkInterrupted", "StackError", "TrackingRefused", "TrackingUnavailable", "TrainingError", "UpgradeError",
    "WatchError",
]  # fmt: skip

# fmt: off
SAY_IT_ALL = frozenset((
    "RempartError", "ConfigError", "PipelineError", "ConnectionMissing", "StackError", "PreflightFailed",
    "SiteError", "LedgerError", "AuditError", "AccessError", "DatabaseUnavailable", "IngestError",
    "FeatureError", "TrainingError", "SparkError", "PredictionError", "ServingError", "TrackingUnavailable",
    "TrackingRefused", "ReplicationError", "FailoverError", "BackupError", "UpgradeError", "WatchError",
))
# fmt: on
"""Classes whose messages have many causes: each message says more than the section of its class."""


class RempartError(Exception):
    """An error in two parts: `what` names the failed operation, its object and the cause; `hint` is an instruction."""

    transient = False

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    @property
    def page(self) -> str:
        """Return the page and anchor that explain this class of error, or its base for a class of another module."""
        return f"docs/reference/errors.md#{self._explained.lower()}"

    @property
    def _explained(self) -> str:
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)

    def __str__(self) -> str:
        # a hint that names a page leads to the exact place
        told = self._explained in SAY_IT_ALL or "docs/" in self.hint
        more = "" if told else f"\n  More: {self.page}"
        return f"{self.what}\n  What to do: {self.hint}{more}"


class ConfigError(RempartError):
    """rempart.yaml or the environment is wrong."""


class PipelineError(ConfigError):
    """A pipeline file is wrong."""


class ConnectionMissing(ConfigError):
    """A connection that the configuration names cannot be resolved."""


class StackError(RempartError):
    """A process of the embedded stack could not start, answer or stop."""


class PreflightFailed(StackError):
    """This machine lacks something that the stack needs."""


class PlacementDenied(RempartError):
    """The policy does not allow this classification at this place."""


class EgressDenied(PlacementDenied):
    """A connection to a host that the policy does not allow."""


class SiteError(RempartError):
    """A site refused or failed an operation."""


class SiteUnavailable(SiteError):
    """The site did not answer, or asked to slow down."""

    transient = True


class ClockSkewed(SiteError):
    """Raised when the clocks of this machine and of the site differ too much for the site to accept a signature."""


class BodyAltered(SiteError):
    """Raised when the site received other bytes than were sent. The site did not store them."""

    transient = True


class RequestInvalid(SiteError):
    """The site does not accept a request in this form."""


class AnswerInvalid(SiteError):
    """Raised when a successful answer lacks a field that every S3 server must send."""


class ListingRefused(SiteError):
    """Raised when a listing repeats keys, breaks its proven order, or does not end."""


class CapabilityMissing(SiteError):
    """Raised when a site was not proven to support the requested operation."""


class SessionExpired(SiteError):
    """Raised when a job's session at the site has expired.

    A retry gets a new session and continues from the checkpoint.
    """

    transient = True


class ObjectMissing(SiteError):
    """The object is not there."""


class IntegrityError(SiteError):
    """Bytes differ from the SHA-256 on record."""


class LedgerError(RempartError):
    """Evidence could not be written or read."""


class LedgerBroken(LedgerError):
    """The chain of evidence does not verify."""


class AuditError(RempartError):
    """The platform could not be audited."""


class AccessError(RempartError):
    """A person's access to Airflow could not be looked at or changed."""


class DatabaseUnavailable(RempartError):
    """PostgreSQL did not answer."""

    transient = True

    @classmethod
    def during(cls, where: str, told: str) -> DatabaseUnavailable:
        """Return the error for an operation at which the driver `told` why there was no connection."""
        if "not yet accepting connections" in told or "starting up" in told:
            return cls(
                f"{where}: PostgreSQL starts or recovers, and accepts no connection yet",
                "Wait a minute and run again. If it lasts: `rempart stack logs postgresql`.",
            )
        return cls(f"{where}: no answer", "`rempart status` shows whether PostgreSQL runs; `rempart up` starts it.")


class IngestError(RempartError):
    """Raised when a whole delivery or snapshot could not be processed."""


class SourceUnavailable(IngestError):
    """Raised when a source of data did not answer, broke off, or asked to wait. What it gave is not ingested twice."""

    transient = True


class CommittedMeanwhile(IngestError):
    """Raised when the current snapshot changed during the run. Nothing was committed."""

    transient = True


class ErasedMeanwhile(IngestError):
    """Raised when rows were erased during the run and the run could have restored them. Nothing was committed."""

    transient = True


class InputMissing(IngestError):
    """Raised when a pipeline whose rows are needed has no snapshot yet."""


class FeatureError(RempartError):
    """Raised when the feature store would become wrong: a leak, lost rows, or no materialized rows."""


class LabelsMissing(FeatureError):
    """Raised when no row of a pipeline has its target yet: its own, or a label that another pipeline delivers."""


class LoadedMeanwhile(FeatureError):
    """Raised when a feature store changed while it was compared, or its two stores hold different loads."""

    transient = True


class TrainingError(RempartError):
    """The job failed or gave no usable result."""


class SparkError(RempartError):
    """Raised when a Spark job could not be started, failed, or gave no usable result."""


class SparkInterrupted(SparkError):
    """Raised when a Spark job was ended before its result. What it stored is used again."""

    transient = True


class PoolUnavailable(RempartError):
    """Raised when a GPU pool's cluster, or a service that the job needs, did not answer."""

    transient = True


class PredictionError(RempartError):
    """Raised when rows cannot be predicted: it names the column and how many rows, never a value."""


class ChampionMissing(PredictionError):
    """Raised when a pipeline has no champion that could predict."""


class ServingError(RempartError):
    """Raised when the scorer or the prediction log cannot do what was asked of it."""


class ModelRefused(RempartError):
    """Raised when the stored model differs from its record, was retired, or has a format that Rempart does not open."""


class TrackingUnavailable(RempartError):
    """MLflow did not answer."""

    transient = True


class TrackingRefused(RempartError):
    """Raised when MLflow answered with a refusal."""


class ReplicationError(RempartError):
    """Raised when a replication limit stopped the run, or the replication state is invalid."""


class LeaseHeld(ReplicationError):
    """Raised when another run holds the lease."""

    transient = True


class LeaseLost(ReplicationError):
    """Raised when this run lost its lease to another run. It wrote nothing afterwards."""


class FailoverError(RempartError):
    """Raised when a step of a failover or failback failed."""


class SiteFenced(FailoverError):
    """Raised when the platform moves to another site, or moved during the run. Nothing was committed."""

    transient = True


class BackupError(RempartError):
    """A restore point could not be written, read or restored."""


class RepositoryDamaged(IntegrityError):
    """Raised when a restic repository does not return the data that was stored in it."""


class RepositoryMissing(BackupError):
    """Raised when there is no restic repository at the expected place."""


class RepositoryRefused(BackupError):
    """The restic repository does not open with this password."""


class RepositoryBusy(BackupError):
    """Raised when another process works on the restic repository."""

    transient = True


class KeyMissing(BackupError):
    """Raised when none of the sites has a copy of the encryption scope's key."""


class KeyWrong(BackupError):
    """Raised when the key was not encrypted for the given identity."""


class KeyRotated(BackupError):
    """Raised when the given identity opened the key once and was replaced since."""


class KeyDestroyed(BackupError):
    """Raised when the key of the encryption scope was destroyed on purpose. Data encrypted with it is unreadable."""


class LockLapses(BackupError):
    """Raised when an object lock ends before the retention of a restore point and could not be extended."""


class UpgradeError(RempartError):
    """Raised when an upgrade was refused, or the upgraded services failed their checks."""


class DrillFailed(RempartError):
    """Raised when a check of a restore drill failed."""


class WatchError(RempartError):
    """Raised when the watch could not send a notification or save its state."""
