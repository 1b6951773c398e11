"""Log a job to MLflow: a run with parameters, metrics, tags and plots, and its model.

The model has a signature and an input example; the example is made from the features' declarations, never from data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.models.encoding import Feature, matrix_columns
from rempart.models.onnx_format import MODEL_FILE
from rempart.models.registry import TAG
from rempart.models.tracking import session
from rempart.settings.config import Connection
from rempart.training.job import JobSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXAMPLE_ROWS = 3


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
            _describe(client, run_id, spec, metrics)
            body = files[MODEL_FILE]
            model_id, model_files = _log_model(client, experiment_id, run_id, spec, features, metrics, body)
            with tempfile.TemporaryDirectory(prefix="rempart-run-") as folder:
                for name, content in files.items():
                    if name != MODEL_FILE:
                        Path(folder, name).write_bytes(content)
                client.log_artifacts(run_id, folder)
            client.set_terminated(run_id, "FINISHED")
            done = True
        finally:
            if not done:
                _mark_failed(client, run_id)
    return Logged(run_id, model_id, model_files)


def _mark_failed(client: MlflowClient, run_id: str) -> None:
    from contextlib import suppress

    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # the error on its way says more, and an unfinished run counts for nothing anyway
        client.set_terminated(run_id, "FAILED")


def _describe(client: MlflowClient, run_id: str, spec: JobSpec, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric, Param

    params = {"trainer": spec.trainer.use, "seed": spec.trainer.seed, **spec.trainer.params}
    now = client.get_run(run_id).info.start_time
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
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
        _save(tree, body, features, spec.task, run_id, made.model_id, made.artifact_location)
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
    tree: Path, body: bytes, features: Sequence[Feature], task: str, run_id: str, model_id: str, location: str
) -> None:
    """Save the model in MLflow's layout: MLmodel, model.onnx, requirements, signature, example."""
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    columns = matrix_columns(features)
    proto = onnx.load_from_string(body)
    output = proto.graph.output[0].type.tensor_type.shape.dim
    width = output[1].dim_value if len(output) > 1 and output[1].dim_value else -1
    result = TensorSpec(np.dtype(np.float32), (-1, width) if task == "regression" else (-1, -1))
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(columns)))]), outputs=Schema([result])
    )
    mlflow.onnx.save_model(
        proto,
        str(tree),
        mlflow_model=Model(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id),
        signature=signature,
        input_example=synthetic_example(features),
        # named, since MLflow would otherwise load the model in another process to find out
        # mlflow-skinny, of the same version, is all of mlflow that a job needs
        pip_requirements=[
            f"{name}=={importlib.metadata.version(installed)}"
            for name, installed in (("mlflow", "mlflow-skinny"), ("onnx", "onnx"), ("onnxruntime", "onnxruntime"))
        ],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"columns": columns, "task": task},
        save_as_external_data=False,
    )
    # protobuf may order a map differently: what was judged is what is stored
    (tree / MODEL_FILE).write_bytes(body)


def synthetic_example(features: Sequence[Feature]) -> Any:
    """Return a float32 matrix [EXAMPLE_ROWS, columns] from declarations: 0, 1, 2 for numbers, each category's first
    values.
    """
    import numpy as np

    rows = []
    for row in range(EXAMPLE_ROWS):
        values: list[float] = []
        for feature in features:
            if feature.type == "category":
                values += [float(i == row % len(feature.values)) for i in range(len(feature.values))]
            else:
                values.append(float(row if feature.type == "number" else row % 2))
        rows.append(values)
    return np.array(rows, np.float32)
