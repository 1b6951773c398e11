"""Define the contract between the component that orders a Spark job and the job: an order goes in, a result comes out,
as JSON.

An order holds everything that the job needs except secrets, which it resolves by name. Its id is derived from what
determines the outcome, so equal orders are the same job, and a finished job is reused. The job writes objects below
`output.prefix`, named by their content, and last its result, which tells which of them count.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rempart import canonical_json
from rempart.errors import SparkError
from rempart.settings.pipeline_sections import SparkResources
from rempart.settings.schema import Strict
from rempart.settings.sections import Classification
from rempart.sovereignty.job_contract import Contract
from rempart.sovereignty.job_permission import SHA256, JobSite, Permission

VERSION: Literal[1] = 1
"""Version of the contract. The orderer of a job and the environment that runs it must agree on it."""
ATTEMPTS = 2
"""A job whose driver is lost runs once more, by the same identity: it stores the same objects."""
Work = Literal["ingest", "derive", "training_set"]
CODE = (
    "canonical_json.py", "child_processes.py", "counts.py", "engine_connection.py", "engine_spill.py", "errors.py",
    "features", "flows/distributed", "ingestion", "lean_imports.py", "models/definitions.py", "process_environment.py",
    "repeating.py", "settings", "sites", "sovereignty", "spark", "training/addresses.py",
    "training/attempts/interruption.py", "training/attempts/progress_lines.py", "training/kubernetes/facts.py",
    "training/kubernetes/queue.py", "training/kubernetes/rights.py",
)  # fmt: skip
"""Folders and modules of the package that a job imports: its image must have the platform's."""


class InputObject(Strict):
    """An object that the job reads at the site of its order. `role`: its use in the job, such as `delivery`, `known` or
    `labels`, or the name of the input of a derived pipeline. `name`: of a delivery, the name of its file; of a
    manifest, that of its pipeline.
    """

    role: str
    bucket: str
    key: str
    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(default=0, ge=0)
    rows: int = Field(default=0, ge=0)
    name: str = ""


class OutputPlace(Strict):
    """Where the job writes, at the site of its order."""

    bucket: str
    prefix: str = Field(pattern=r"/$")


class SparkOrder(Strict):
    """One Spark job, version 1 of the contract. `pipelines`: the definition of the pipeline, and of those whose feature
    views it uses (`rempart.spark.definitions`). `parameters`: what else determines the outcome, as plain
    JSON: limits, moments, snapshot ids.

    `permission` is written for each attempt and is no part of the job's identity, and neither are the resources.
    """

    version: Literal[1] = VERSION
    order_id: str = ""
    do: Work
    pipeline: str
    classification: Classification
    pipelines: dict[str, str] = Field(min_length=1)
    site: JobSite
    inputs: tuple[InputObject, ...] = ()
    output: OutputPlace
    parameters: dict[str, Any] = Field(default_factory=dict)
    code_version: str
    resources: SparkResources = SparkResources()
    permission: Permission | None = None

    @model_validator(mode="after")
    def _id_is_its_own(self) -> Self:
        wanted = self.identity()
        if not self.order_id:
            object.__setattr__(self, "order_id", wanted)
        elif self.order_id != wanted:
            raise ValueError(f"order_id: the order's content has the id {wanted}, so it was altered")
        if self.pipeline not in self.pipelines:
            raise ValueError("pipelines: the definition of the pipeline itself is missing")
        return self

    def identity(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of all that determines the outcome."""
        determining = {
            "version": self.version,
            "do": self.do,
            "pipeline": self.pipeline,
            "pipelines": self.pipelines,
            "site": self.site.name,
            "inputs": [each.model_dump() for each in self.inputs],
            "output": self.output.model_dump(),
            "parameters": self.parameters,
            "code": self.code_version,
        }
        return hashlib.sha256(canonical_json.encode(determining)).hexdigest()[:16]

    def key(self, name: str) -> str:
        """Return the object key of one of the job's files."""
        return f"{self.output.prefix}{self.order_id}/{name}"

    def of_role(self, role: str) -> tuple[InputObject, ...]:
        """Return the inputs of one role, in the order's order."""
        return tuple(each for each in self.inputs if each.role == role)

    def to_json(self) -> bytes:
        return canonical_json.encode(self.model_dump(mode="json"))


class OrderedAt(Strict):
    """Where the order of an attempt is, as whoever starts a driver elsewhere tells it: an order may have thousands of
    inputs. `sha256`: of its bytes. The permission is that of the attempt, and counts instead of one in the order.
    """

    site: JobSite
    classification: Classification
    bucket: str
    key: str
    sha256: str = Field(pattern=SHA256)
    permission: Permission


class MadeObject(Strict):
    """An object that the job stored and that counts. `role`: its kind, such as `part`, `refused` or `rows`."""

    role: str
    key: str
    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)
    facts: dict[str, Any] = Field(default_factory=dict)


class SparkUsage(Strict):
    """Resources that a job used. `executor_seconds`: time of tasks, summed over executors. `spilled`, `shuffled`: bytes
    written to disk because memory did not suffice, and moved between executors. `failed_tasks`: tasks that ran again.
    """

    executors: int = Field(default=0, ge=0)
    cores: int = Field(default=0, ge=0)
    memory: int = Field(default=0, ge=0)
    driver_memory: int = Field(default=0, ge=0)
    tasks: int = Field(default=0, ge=0)
    failed_tasks: int = Field(default=0, ge=0)
    executor_seconds: float = Field(default=0, ge=0)
    spilled: int = Field(default=0, ge=0)
    shuffled: int = Field(default=0, ge=0)


class SparkResult(Strict):
    """Result of a job. `made`: the objects that count, which the orderer reads back and checks. `facts`: what this kind
    of work tells beside them, as plain JSON without values of rows. `decision`: digest of the policy's decision in the
    job's order.
    """

    version: Literal[1] = VERSION
    order_id: str
    status: Literal["succeeded"]
    made: tuple[MadeObject, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    usage: SparkUsage = SparkUsage()
    decision: str = Field(pattern=SHA256)

    def of_role(self, role: str) -> tuple[MadeObject, ...]:
        """Return the objects of one role, in the job's order."""
        return tuple(each for each in self.made if each.role == role)

    def to_json(self) -> bytes:
        return canonical_json.encode(self.model_dump(mode="json"))


class Made(Strict):
    """Return value of the work of a job: the objects that count, and facts as plain JSON."""

    made: tuple[MadeObject, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the package's version, and a hash of the code with which a job runs."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for name in CODE:
        place = package / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return f"{importlib.metadata.version('rempart')}+{digest.hexdigest()[:12]}"


_CONTRACT = Contract(
    VERSION,
    SparkError,
    "Install the Spark environment of the version of Rempart that orders the jobs: `make setup-spark`.",
)


def parse_order(body: bytes | str) -> SparkOrder:
    """Return an order from JSON. Raises SparkError with each fault."""
    return _CONTRACT.read("the order", SparkOrder, body, "Make the order with rempart.spark.order.SparkOrder.")


def parse_place(body: bytes | str) -> OrderedAt:
    """Return where an order is from JSON. Raises SparkError."""
    try:
        return OrderedAt.model_validate_json(body)
    except ValidationError as cause:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or '(whole)'}: {e['msg']}" for e in cause.errors()[:5])
        what = f"read where the order is: {faults}"
        raise SparkError(what, "Make it with rempart.spark.order.OrderedAt.") from None  # the cause quotes values


def parse_result(body: bytes | str, order_id: str) -> SparkResult:
    """Return a result from JSON. Raises SparkError if it is malformed, not finite or another job's."""
    hint = "Delete the job's result.json and run it again."
    result = _CONTRACT.read(f"the result of job {order_id}", SparkResult, body, hint)
    if result.order_id != order_id:
        raise SparkError(f"read the result of job {order_id}: it belongs to job {result.order_id[:40]}", hint)
    return result
