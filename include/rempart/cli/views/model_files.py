"""Look whether the files of a pipeline's champion are in MLflow, as they were when it was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.settings.config import Connection
from rempart.sites import time_limit
from rempart.web.read_models.pipeline_states import NextStep

AT_MOST = 60.0
"""Seconds for the whole look. A busy machine needs many of them to import MLflow."""
STEP = NextStep("Bring the model's files back.", "rempart restore --only bucket:artifacts")


@dataclass(frozen=True)
class ModelFiles:
    """The champion's files. `fault`: why nobody can load them. `silent`: why the look has no result."""

    fault: str | None = None
    silent: str | None = None


def look(open_platform: Callable[[], Platform], pipeline: str, version: str, seconds: float = AT_MOST) -> ModelFiles:
    """Return what is wrong with the files of a version. They are read, and compared with its evidence."""
    from rempart.errors import ModelRefused

    def verified() -> None:
        platform = open_platform()
        _verify(platform.ledger, platform.tracking(), pipeline, version)

    found = time_limit.answers({"MLflow": verified}, seconds)["MLflow"]
    if not isinstance(found, BaseException):
        return ModelFiles()
    if isinstance(found, ModelRefused):
        return ModelFiles(fault=found.what)
    return ModelFiles(silent=time_limit.reason(found))


def _verify(ledger: Ledger, tracking: Connection, pipeline: str, version: str) -> None:
    from rempart.errors import ModelRefused
    from rempart.flows.training.candidates.record import candidate_record
    from rempart.models import loading

    record = candidate_record(ledger, pipeline, version)
    if record is None:
        raise ModelRefused(f"Model {pipeline} version {version}: no evidence names its files", STEP.sentence)
    loading.verify(tracking, record)


def lines(found: ModelFiles) -> Iterator[str]:
    """Yield what is wrong with the files, and the command that brings them back. Pure."""
    if found.silent:
        yield f"  UNKNOWN: whether the champion can be loaded: {found.silent}"
    elif found.fault:
        yield f"  NOBODY CAN LOAD IT: {found.fault}. Bring its files back: {STEP.command}"


def as_json(found: ModelFiles | None) -> dict[str, str | None] | None:
    """Return the look for a JSON document; None without a champion. Pure."""
    return {"fault": found.fault, "unknown": found.silent} if found else None
