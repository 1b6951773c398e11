"""The only way to load a model.

MLflow's own loaders execute what the artifact says: a loader module, a pickle, a list of trusted types. None of that is
read here. The evidence written at training says which files a version has and their SHA-256; one that is missing, extra
or altered refuses the whole model, and only `model.onnx` is opened.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.config import Connection
from rempart.errors import ModelRefused
from rempart.models import onnx_format
from rempart.models.encoding import Feature, encode
from rempart.models.tracking import session

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from mlflow import MlflowClient

_HINT = "Do not use this version. Validate another candidate, or roll back; then find out who changed the artifacts."


@dataclass(frozen=True)
class LoadedModel:
    """A model whose files are the ones on record."""

    name: str
    version: str
    task: str
    target: Feature | None
    features: tuple[Feature, ...]
    _session: Any = field(repr=False)

    def predict(self, table: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Predictions for a table that holds the features' columns.

        Regression: [rows]; classification: [rows, classes], probabilities in the order of the target's values.
        Raises TrainingError naming the feature that the table lacks, ModelRefused.
        """
        classes = len(self.target.values) if self.target else 0
        result: np.ndarray[Any, np.dtype[np.float64]] = onnx_format.run(
            self._session, encode(self.features, table), self.task, classes
        )
        return result


def load(tracking: Connection, record: Mapping[str, Any]) -> LoadedModel:
    """Load the version of a `candidate` evidence body from MLflow.

    Raises ModelRefused naming the file that differs from the record, TrackingUnavailable, TrackingRefused.
    """
    name, version = str(record["name"]), str(record["version"])
    with session(tracking, f"load model {name} version {version}") as client:
        body = _verified_model(client, name, version, record)
    features = tuple(Feature.from_json(one) for one in record["features"])
    target = Feature.from_json(record["target"]) if record["task"] == "classification" else None
    return LoadedModel(name, version, str(record["task"]), target, features, onnx_format.open_session(body))


def _verified_model(client: MlflowClient, name: str, version: str, record: Mapping[str, Any]) -> bytes:
    """model.onnx, after every file of the version was compared with the record."""
    where, files = f"Model {name} version {version}", dict(record["files"])
    model_id = str(record["model_id"])
    if (source := client.get_model_version(name, version).source) != f"models:/{model_id}":
        raise ModelRefused(f"{where}: the registry points at {str(source)[:80]}, not at the model on record", _HINT)
    found = _list(client, model_id)
    for kind, names in (("is missing", files.keys() - found), ("is not on record", found - files.keys())):
        if names:
            raise ModelRefused(f"{where}: file '{sorted(names)[0][:200]}' {kind}", _HINT)
    if onnx_format.MODEL_FILE not in files:
        raise ModelRefused(f"{where}: it has no {onnx_format.MODEL_FILE}, the only format that is opened", _HINT)
    location = client.get_logged_model(model_id).artifact_location.rstrip("/")
    model = b""
    with tempfile.TemporaryDirectory(prefix="rempart-model-") as folder:
        # only paths on record are fetched, so a server cannot make us write elsewhere
        for path, digest in sorted(files.items()):
            body = Path(_download(f"{location}/{path}", folder)).read_bytes()
            if hashlib.sha256(body).hexdigest() != digest:
                raise ModelRefused(f"{where}: file '{path}' is not the one on record (SHA-256 differs)", _HINT)
            if path == onnx_format.MODEL_FILE:
                model = body
    return model


def _list(client: MlflowClient, model_id: str) -> set[str]:
    """Every file of a logged model, by path."""
    files: set[str] = set()
    waiting: list[str | None] = [None]
    while waiting:
        for entry in client.list_logged_model_artifacts(model_id, waiting.pop()):
            if entry.is_dir:
                waiting.append(entry.path)
            else:
                files.add(entry.path)
    return files


def _download(uri: str, folder: str) -> str:
    from mlflow.artifacts import download_artifacts

    return str(download_artifacts(artifact_uri=uri, dst_path=folder))
