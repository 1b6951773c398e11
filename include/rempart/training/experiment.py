"""Log a job to MLflow: a run with parameters, metrics, tags and plots, and its model.

The model has a signature and an input example in the columns of the source, made from their declarations, never from
data. MLflow cannot compute the features of these columns, so no flavor claims that it predicts from them: a prediction
goes through `flows.prediction.champion`, which verifies the model first.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.models import predictions
from rempart.models.encoding import Feature, matrix_columns
from rempart.models.inputs import examples
from rempart.models.onnx_format import MODEL_FILE
from rempart.models.registry import TAG
from rempart.models.tracking import session
from rempart.settings.config import Connection
from rempart.training.job import BACKTEST_FILE, BACKTESTED, JobSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

EXAMPLE_ROWS = 3
_TYPES = {
    "integer": "long",
    "number": "double",
    "decimal": "double",
    "boolean": "boolean",
    "date": "datetime",
    "timestamp": "datetime",
}
"""MLflow's names of types of columns; others are strings."""


@dataclass(frozen=True)
class Logged:
    """A finished run. `model_files`: every file of its model, by path, with its SHA-256 as uploaded."""

    run_id: str
    model_id: str
    model_files: dict[str, str]


def log(
    tracking: Connection,
    spec: JobSpec,
    features: Sequence[Feature],
    metrics: Mapping[str, float],
    files: Mapping[str, bytes],
) -> Logged:
    """Log one job as a new run. `files`: model.onnx, and further artifacts of the run.

    An incomplete run is marked FAILED, if MLflow still answers, and does not count. Raises TrackingUnavailable,
    TrackingRefused.
    """
    with session(tracking, f"log job {spec.job_id}") as client:
        experiment = client.get_experiment_by_name(spec.tracking.experiment)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(spec.tracking.experiment)
        tags = {
            **spec.tracking.tags,
            f"{TAG}job_id": spec.job_id,
            f"{TAG}pipeline": spec.pipeline,
            f"{TAG}classification": spec.classification,
            f"{TAG}snapshot": spec.snapshot,
            **({f"{TAG}labels": f"{spec.labels.pipeline}/{spec.labels.snapshot}"} if spec.labels else {}),
            **{f"{TAG}used.{name}": snapshot for name, snapshot in spec.used.items()},
            f"{TAG}dataset_sha256": spec.dataset.sha256,
            f"{TAG}code_version": spec.code_version,
            "mlflow.source.name": "rempart.training.entrypoint",
            "mlflow.source.type": "JOB",
            "mlflow.user": "rempart",
        }
        run_id = client.create_run(experiment_id, tags=tags, run_name=f"{spec.pipeline}-{spec.job_id}").info.run_id
        done = False
        try:
            _describe(client, run_id, spec, metrics, json.loads(files.get(BACKTEST_FILE, b"[]")))
            body = files[MODEL_FILE]
            model_id, model_files = _log_model(client, experiment_id, run_id, spec, features, metrics, body)
            _log_files(client, run_id, {name: content for name, content in files.items() if name != MODEL_FILE})
            client.set_terminated(run_id, "FINISHED")
            done = True
        finally:
            if not done:
                _mark_failed(client, run_id)
    return Logged(run_id, model_id, model_files)


def log_held_out(
    tracking: Connection, run_id: str, model_id: str, metrics: Mapping[str, float], files: Mapping[str, bytes]
) -> None:
    """Add what the platform measured on the held-out rows to a job's run and model. Safe to repeat.

    Raises TrackingUnavailable, TrackingRefused.
    """
    with session(tracking, f"log the held-out figures of run {run_id}") as client:
        for name, value in metrics.items():
            client.log_metric(run_id, name, value, step=0, model_id=model_id)
        _log_files(client, run_id, files)


def log_files(tracking: Connection, run_id: str, files: Mapping[str, bytes]) -> None:
    """Add files to a run, in place of those with the same names. Raises TrackingUnavailable, TrackingRefused."""
    with session(tracking, f"log {len(files)} files of run {run_id}") as client:
        _log_files(client, run_id, files)


def _log_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="rempart-run-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        client.log_artifacts(run_id, folder)


def _mark_failed(client: MlflowClient, run_id: str) -> None:
    from contextlib import suppress

    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # the error on its way says more, and an unfinished run counts for nothing anyway
        client.set_terminated(run_id, "FAILED")


def _describe(
    client: MlflowClient,
    run_id: str,
    spec: JobSpec,
    metrics: Mapping[str, float],
    origins: Sequence[Mapping[str, Any]],
) -> None:
    """Log parameters and metrics; of a back-test each origin is a step, oldest first."""
    from mlflow.entities import Metric, Param

    params = {"trainer": spec.trainer.use, "seed": spec.trainer.seed, **spec.trainer.params}
    if spec.validation is not None:
        how = spec.validation.model_dump(exclude_defaults=True)
        params |= {f"validation.{name}": value for name, value in how.items()}
    now = client.get_run(run_id).info.start_time
    each = [
        Metric(f"{BACKTESTED}{name}", value, now, step)
        for step, origin in enumerate(origins)
        for name, value in origin["metrics"].items()
    ]
    client.log_batch(
        run_id,
        metrics=[*(Metric(name, value, now, 0) for name, value in metrics.items()), *each],
        params=[Param(name, str(value)) for name, value in params.items()],
    )


def _log_model(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    spec: JobSpec,
    features: Sequence[Feature],
    metrics: Mapping[str, float],
    body: bytes,
) -> tuple[str, dict[str, str]]:
    """Return the logged model's id, and its files with their SHA-256, computed before the upload."""
    from mlflow.entities import LoggedModelOutput

    made = client.create_logged_model(
        experiment_id,
        name=spec.pipeline,
        source_run_id=run_id,
        tags={f"{TAG}job_id": spec.job_id},
        params={name: str(value) for name, value in spec.trainer.params.items()},
    )
    with tempfile.TemporaryDirectory(prefix="rempart-model-") as folder:
        tree = Path(folder, "model")
        _save(tree, body, features, spec, run_id, made.model_id, made.artifact_location)
        hashes = {
            str(file.relative_to(tree)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(tree.rglob("*"))
            if file.is_file()
        }
        client.log_model_artifacts(made.model_id, str(tree))
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
    for name, value in metrics.items():
        client.log_metric(run_id, name, value, step=0, model_id=made.model_id)
    return made.model_id, hashes


def _save(
    tree: Path, body: bytes, features: Sequence[Feature], spec: JobSpec, run_id: str, model_id: str, location: str
) -> None:
    """Save the model in MLflow's layout: MLmodel, model.onnx, requirements, signature, example."""
    import mlflow.onnx
    import onnx
    from mlflow import pyfunc
    from mlflow.models import Model

    logged = Model(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    mlflow.onnx.save_model(
        onnx.load_from_string(body),
        str(tree),
        mlflow_model=logged,
        signature=_signature(spec),
        input_example=_example(spec) or None,
        # named, since MLflow would otherwise load the model in another process to find out
        # mlflow-skinny, of the same version, is all of mlflow that a job needs
        pip_requirements=[
            f"{name}=={importlib.metadata.version(installed)}"
            for name, installed in (("mlflow", "mlflow-skinny"), ("onnx", "onnx"), ("onnxruntime", "onnxruntime"))
        ],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"columns": matrix_columns(features), "task": spec.task},
        save_as_external_data=False,
    )
    # this flavor would take the columns of the signature, and fail on them: the graph reads the encoded matrix
    del logged.flavors[pyfunc.FLAVOR_NAME]
    logged.save(str(tree / "MLmodel"))
    # protobuf may order a map differently: what was judged is what is stored
    (tree / MODEL_FILE).write_bytes(body)


def _signature(spec: JobSpec) -> ModelSignature:
    """Return the columns that a user gives, and those that a prediction has."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    given: list[ColSpec | TensorSpec] = [
        ColSpec(_TYPES.get(each.type, "string"), each.name, required=not each.nullable) for each in spec.inputs
    ]
    told = predictions.columns(spec.task, spec.target.feature(), intervals=spec.trainer.intervals is not None)
    made: list[ColSpec | TensorSpec] = [ColSpec(kind, name) for name, kind in told.items()]
    return ModelSignature(inputs=Schema(given) if given else None, outputs=Schema(made))


def _example(spec: JobSpec) -> list[dict[str, Any]]:
    """Return example rows, with dates as text."""
    columns = examples([each.input() for each in spec.inputs], EXAMPLE_ROWS)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()} for row in rows
    ]
