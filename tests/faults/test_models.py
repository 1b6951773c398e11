"""S4: hostile models in MLflow. Nothing executes, and each model is refused by name."""

import io
import os
import pickle
import secrets
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from rempart.errors import ModelRefused
from rempart.flows.training.train import train_on
from rempart.flows.training.validate import roll_back, validate
from rempart.models import loading, registry
from rempart.models.tracking import session
from rempart.settings import sections
from tests.unit.training import stage

pytestmark = pytest.mark.tracking


@pytest.fixture(scope="module")
def trained(platform):
    """A registered candidate in the stack's MLflow; site and ledger in memory. (platform, pipeline, record)"""
    own = stage.platform_in_memory(
        platform.config.model_copy(update={"buckets": sections.Buckets()}), platform.connections
    )
    pipeline = stage.pipeline(f"hostile_{secrets.token_hex(4)}")
    backend = stage.InProcess(own.sites["primary"], platform.connections)
    train_on(own, pipeline, stage.table(), "s1", backend=backend)
    yield own, pipeline, own.ledger.find("candidate", pipeline.name)[0].body
    with session(platform.tracking()) as client:
        client.delete_registered_model(pipeline.name)
        client.delete_experiment(client.get_experiment_by_name(pipeline.name).experiment_id)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "executed"


@pytest.fixture
def altered(trained):
    """Reads and writes files of the model's artifacts in MLflow, and puts the tree back at the end."""
    platform, _, record = trained
    kept: dict[str, bytes] = {}
    added: list[str] = []

    def repository(client):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(client.get_logged_model(record["model_id"]).artifact_location)

    def read(path):
        with session(platform.tracking()) as client:
            return Path(repository(client).download_artifacts(path)).read_bytes()

    def put(path, body):
        with session(platform.tracking()) as client, tempfile.TemporaryDirectory() as folder:
            local = Path(folder, PurePosixPath(path).name)
            local.write_bytes(body)
            parent = str(PurePosixPath(path).parent)
            repository(client).log_artifact(str(local), None if parent == "." else parent)

    def write(path, body):
        if path in record["files"]:
            kept.setdefault(path, read(path))
        else:
            added.append(path)
        put(path, body)

    yield SimpleNamespace(write=write, read=read)
    for path, body in kept.items():
        put(path, body)
    with session(platform.tracking()) as client:
        for path in added:
            repository(client).delete_artifacts(path)


def refused(trained, canary, match):
    """Neither the loader, nor the gate, nor a rollback opens it; and nothing ran."""
    platform, pipeline, record = trained
    with pytest.raises(ModelRefused, match=match):
        loading.load(platform.tracking(), record)
    with pytest.raises(ModelRefused, match=match):
        validate(platform, pipeline)
    assert registry.champion(platform.tracking(), pipeline.name) is None
    assert platform.ledger.find("promotion") == [] == platform.ledger.find("refusal")
    assert not canary.exists()


def test_untouched_it_loads(trained):
    platform, _, record = trained
    assert loading.load(platform.tracking(), record).predict(stage.table(20)).num_rows == 20


def test_s4_an_mlmodel_switched_to_cloudpickle(trained, altered, canary):
    altered.write("model.pkl", pickle.dumps(Payload(canary)))
    altered.write(
        "MLmodel",
        b"flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    model_path: model.pkl\n"
        b"  sklearn:\n    pickled_model: model.pkl\n    serialization_format: cloudpickle\n",
    )
    refused(trained, canary, "file 'MLmodel' differs from the recorded file")


def test_an_mlmodel_that_names_another_loader(trained, altered, canary):
    altered.write("MLmodel", b"flavors:\n  python_function:\n    loader_module: os\n    code: code\n")
    refused(trained, canary, "file 'MLmodel' differs from the recorded file")


def test_a_skops_file_with_a_widened_list_of_trusted_types(trained, altered, canary):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("schema.json", '{"__class__": "system", "__module__": "posix", "__loader__": "FunctionNode"}')
    altered.write("model.skops", archive.getvalue())
    altered.write(
        "MLmodel",
        b"flavors:\n  sklearn:\n    pickled_model: model.skops\n    serialization_format: skops\n"
        b"    skops_trusted_types: [posix.system]\n",
    )
    refused(trained, canary, "file 'MLmodel' differs from the recorded file")


def test_s4_a_pickle_in_the_place_of_the_model(trained, altered, canary):
    altered.write("model.onnx", pickle.dumps(Payload(canary)))
    refused(trained, canary, r"file 'model\.onnx' differs from the recorded file")


@pytest.mark.parametrize("path", ["extra.txt", "code/sitecustomize.py", "model.onnx.data"])
def test_a_file_beside_the_model_is_told_and_neither_read_nor_a_reason_to_refuse(
    trained, altered, canary, path, caplog
):
    """S6: whoever could add a file to a champion's folder switched the champion off."""
    platform, _, record = trained
    altered.write(path, f"open({str(canary)!r}, 'w')".encode())
    model = loading.load(platform.tracking(), record)
    assert model.predict(stage.table(20)).num_rows == 20
    assert len(model.ignored) == 1 and model.ignored[0].split("/")[0] == path.split("/")[0]
    assert "does not record" in model.ignored_line and model.ignored[0] in caplog.text
    assert not canary.exists()


def test_one_bit_of_a_file_that_nobody_reads(trained, altered, canary):
    body = bytearray(altered.read("requirements.txt"))
    body[0] ^= 1
    altered.write("requirements.txt", bytes(body))
    refused(trained, canary, r"file 'requirements\.txt' differs from the recorded file")


def test_a_file_that_is_gone(trained, altered, canary):
    platform, _, record = trained
    missing = {**record, "files": {**record["files"], "gone.json": "0" * 64}}
    with pytest.raises(ModelRefused, match=r"file 'gone\.json' is missing"):
        loading.load(platform.tracking(), missing)
    assert not canary.exists()


def test_a_record_cannot_be_used_for_another_model(trained, altered, canary):
    platform, _, record = trained
    with pytest.raises(ModelRefused, match="not at the recorded model"):
        loading.load(platform.tracking(), {**record, "model_id": "m-" + "0" * 32})


def test_a_rollback_checks_before_it_moves_the_alias(trained, altered):
    platform, pipeline, record = trained
    for version in (record["version"], "999"):
        body = {"version": version, "previous": None, "reasons": [], "metrics": {}, "baselines": {}}
        platform.ledger.append("promotion", pipeline.name, body)
    altered.write("model.onnx", b"another")
    try:
        with pytest.raises(ModelRefused, match=r"model\.onnx"):
            roll_back(platform, pipeline, dry_run=False)
        assert registry.champion(platform.tracking(), pipeline.name) is None
        assert platform.ledger.find("rollback") == []
    finally:
        del platform.ledger.records[-2:]
