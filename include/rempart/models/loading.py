"""Load models. No other module loads models.

MLflow's own loaders execute what the artifact says: a loader module, a pickle, a list of trusted types. None of that is
read here. The training evidence names a version's files and their SHA-256. A missing or altered file refuses the whole
model, and only `model.onnx` is opened. Unrecorded files are reported and never read.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.errors import ModelRefused
from rempart.models import onnx_format, predictions
from rempart.models.encoding import Feature, encode, matrix_columns
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.inputs import Input
from rempart.models.isolated_model import IsolatedModel
from rempart.models.tracking import session
from rempart.settings.config import Connection

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
_SHOWN = 5
_BATCH = 32 << 20
"""Bytes of a matrix that are predicted at once."""
_HINT = "Do not use this version. Validate another candidate, or roll back. Then find out who changed the artifacts."
GONE = "Bring the files back: `rempart restore --only bucket:artifacts`. Then find out who deleted them."


@dataclass(frozen=True)
class LoadedModel:
    """A model whose files match the record.

    `inputs`: columns of the source that its features are made of. `sha256` and `size` (bytes): of its model.onnx.
    `ignored`: unrecorded files in MLflow, which were not read. `coverage`: what its intervals shall cover; None if it
    gives none. `operating`: how it answers with one of two classes; None: with the most probable one.
    """

    name: str
    version: str
    task: str
    target: Feature | None
    features: tuple[Feature, ...]
    inputs: tuple[Input, ...]
    sha256: str
    _model: IsolatedModel = field(repr=False)
    ignored: tuple[str, ...] = ()
    size: int | None = None
    coverage: float | None = None
    operating: OperatingPoint | None = None

    @property
    def ignored_line(self) -> str:
        """Return one line about ignored files; empty if no file was ignored."""
        if not self.ignored:
            return ""
        shown = ", ".join(repr(name[:80]) for name in self.ignored[:_SHOWN])
        files = counted(len(self.ignored), "file")
        return f"version {self.version}: ignored {files} that the evidence does not record: {shown}"

    def predict(self, features: pa.Table) -> pa.Table:
        """Return a prediction for each row of a table with the features' columns, in order.

        The columns of the result are those of `models.predictions`. The rows are encoded and predicted in batches of
        bounded size. Raises TrainingError with the feature at fault, ModelRefused.
        """
        import pyarrow as pa

        size = max(1, _BATCH // (4 * max(1, len(matrix_columns(self.features)))))
        starts = range(0, max(1, features.num_rows), size)
        return pa.concat_tables([self._predict(features.slice(start, size)) for start in starts])

    def _predict(self, features: pa.Table) -> pa.Table:
        answers = self.answers(encode(self.features, features))
        return predictions.named(self.task, self.target, answers, self.operating)

    def figures(self, matrix: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return what the model predicts for an encoded matrix: [n], or [n, classes]. Raises ModelRefused."""
        return self._run(matrix, bounds=False)

    def answers(self, matrix: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return what the model answers for an encoded matrix, as `predictions.named` takes it. Raises ModelRefused."""
        return self._run(matrix, bounds=self.coverage is not None)

    def _run(
        self, matrix: np.ndarray[Any, np.dtype[np.float32]], *, bounds: bool
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        import numpy as np

        classes = len(self.target.values) if self.target else 0
        if not len(matrix):
            width = 1 + len(onnx_format.BOUNDS) if bounds else classes
            return np.zeros((0, width) if width else 0)
        return self._model.run(matrix, self.task, classes, bounds=bounds)

    def close(self) -> None:
        """End the model's process."""
        self._model.close()


def load(tracking: Connection, record: Mapping[str, Any]) -> LoadedModel:
    """Load the version of a `candidate` evidence body from MLflow.

    Raises ModelRefused naming the file that differs from the record, or what a record of an earlier release lacks;
    TrackingUnavailable, TrackingRefused.
    """
    name, version = str(record["name"]), str(record["version"])
    _check_complete(record)
    with session(tracking, f"load model {name} version {version}") as client:
        body, ignored = _verified_model(client, name, version, record)
    model = open_verified(record, body, ignored)
    if model.ignored_line:
        logger.warning("model %s, %s", name, model.ignored_line)
    return model


def lacks(record: Mapping[str, Any]) -> str:
    """Return what a prediction needs and a `candidate` evidence body lacks; empty for a complete one."""
    if "inputs" not in record:
        return "`inputs`, the columns that its features are made of"
    if any("definition" not in feature for feature in record["features"]):
        return "`definition` of a feature"
    return ""


def _check_complete(record: Mapping[str, Any]) -> None:
    if missing := lacks(record):
        name, version = str(record["name"]), str(record["version"])
        raise ModelRefused(
            f"Model {name} version {version}: its evidence has no {missing}, since an earlier release trained it",
            f"Train it again: run train_{name}, then validate the new version.",
        )


def open_verified(record: Mapping[str, Any], body: bytes, ignored: tuple[str, ...] = ()) -> LoadedModel:
    """Open the model.onnx of a `candidate` evidence body, wherever its bytes come from.

    Raises ModelRefused if they are not those on record, or naming what a record of an earlier release lacks.
    """
    name, version = str(record["name"]), str(record["version"])
    _check_complete(record)
    digest = str(record["files"][onnx_format.MODEL_FILE])
    _check(f"Model {name} version {version}", onnx_format.MODEL_FILE, body, digest)
    return LoadedModel(
        name,
        version,
        str(record["task"]),
        Feature.from_json(record["target"]) if record["task"] == "classification" else None,
        tuple(Feature.from_json(feature) for feature in record["features"]),
        tuple(Input.from_json(column) for column in record["inputs"]),
        digest,
        IsolatedModel(body),
        ignored,
        len(body),
        coverage_of(record),
        operating_of(record),
    )


def coverage_of(record: Mapping[str, Any]) -> float | None:
    """Return what the intervals of a `candidate` evidence body shall cover; None if its model gives none."""
    asked = (record.get("trainer") or {}).get("intervals")
    return None if asked is None else float(asked["coverage"])


def operating_of(record: Mapping[str, Any]) -> OperatingPoint | None:
    """Return how the model of a `candidate` evidence body answers with one of two classes; None: the most probable."""
    found = (record.get("validation") or {}).get("operating")
    return None if found is None else OperatingPoint.model_validate(found)


def verify(tracking: Connection, record: Mapping[str, Any]) -> None:
    """Compare the files of a version with its `candidate` evidence body. Raises the errors of `load`."""
    name, version = str(record["name"]), str(record["version"])
    with session(tracking, f"look at model {name} version {version}") as client:
        _verified_model(client, name, version, record)


def _verified_model(
    client: MlflowClient, name: str, version: str, record: Mapping[str, Any]
) -> tuple[bytes, tuple[str, ...]]:
    """Return model.onnx after comparing every recorded file, and the names of unrecorded files."""
    where, files = f"Model {name} version {version}", dict(record["files"])
    model_id = str(record["model_id"])
    if (source := client.get_model_version(name, version).source) != f"models:/{model_id}":
        raise ModelRefused(f"{where}: the registry points at {str(source)[:80]}, not at the recorded model", _HINT)
    found = _list(client, model_id, files)
    if names := files.keys() - found:
        raise ModelRefused(f"{where}: file '{sorted(names)[0][:200]}' is missing", GONE)
    if onnx_format.MODEL_FILE not in files:
        raise ModelRefused(f"{where}: {onnx_format.MODEL_FILE} is missing, and no other format is opened", _HINT)
    location = client.get_logged_model(model_id).artifact_location.rstrip("/")
    model = b""
    with tempfile.TemporaryDirectory(prefix="rempart-model-") as folder:
        # only paths on record are fetched, so a server cannot make us write elsewhere
        for path, digest in sorted(files.items()):
            body = _download(location, path, Path(folder, "file"))
            _check(where, path, body, digest)
            if path == onnx_format.MODEL_FILE:
                model = body
    return model, tuple(sorted(found - files.keys()))


def _check(where: str, path: str, body: bytes, digest: str) -> None:
    if hashlib.sha256(body).hexdigest() != digest:
        raise ModelRefused(f"{where}: file '{path}' differs from the recorded file (SHA-256)", _HINT)


def _list(client: MlflowClient, model_id: str, files: Mapping[str, str]) -> set[str]:
    """Return every unrecorded file of a logged model by path; a folder without recorded files with a slash."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    found: set[str] = set()
    for folder in [None, *sorted(folders)]:
        for entry in client.list_logged_model_artifacts(model_id, folder):
            if not entry.is_dir:
                found.add(entry.path)
            elif entry.path not in folders:
                found.add(f"{entry.path}/")
    return found


def _download(location: str, path: str, to: Path) -> bytes:
    """Download one file. MLflow's own call takes a file name for a folder once another file was added below it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(location)._download_file(path, str(to))  # type: ignore[no-untyped-call] # it has no types
    return to.read_bytes()
