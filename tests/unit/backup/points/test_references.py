"""The objects that dumps refer to, and the objects that a restore point lacks."""

from datetime import UTC, datetime

from rempart.backup.points.points import HeldObject
from rempart.backup.points.references import Reference, dangling, of_candidates, of_models
from rempart.backup.points.sealing import SealedObject

SEALED = SealedObject("platform-platform-1d", "0001", "sealed/x", "v", "0" * 64, 1, datetime(2026, 1, 1, tzinfo=UTC))
LOGICAL = {"acme-artifacts": "artifacts", "acme-lake": "lake"}


def held(bucket, key, sha256="0" * 64):
    return HeldObject(bucket, key, 1, sha256, "v1", SEALED)


def test_a_model_version_needs_what_its_uri_names():
    found = list(
        of_models(
            [
                ("hotel", "1", "mlflow-artifacts:/1/models/m-1/artifacts"),
                ("hotel", "2", "s3://acme-artifacts/mlflow/1/models/m-2/artifacts"),
                ("hotel", "3", "s3://elsewhere/m-3"),
            ],
            LOGICAL,
        )
    )
    assert [(reference.bucket, reference.key) for reference in found] == [
        ("artifacts", "mlflow/1/models/m-1/artifacts/"),
        ("artifacts", "mlflow/1/models/m-2/artifacts/"),
        (None, "s3://elsewhere/m-3"),
    ]
    objects = [
        held("artifacts", "mlflow/1/models/m-1/artifacts/MLmodel"),
        held("lake", "mlflow/1/models/m-2/artifacts/x"),
    ]
    assert dangling(found, objects) == (
        "model hotel version 2: artifacts/mlflow/1/models/m-2/artifacts/",
        "model hotel version 3: s3://elsewhere/m-3",
    )


def test_live_versions_need_their_training_set_and_what_their_job_left():
    def body(version, digest):
        held_out = {"bucket": "acme-lake", "key": f"frozen/{version}-h", "sha256": digest}
        dataset = {"bucket": "acme-lake", "key": f"frozen/{version}", "sha256": digest, "held_out": held_out}
        return {"version": version, "dataset": dataset, "outputs": {f"jobs/{version}/model.onnx": digest}}

    records = [("hotel", body("1", "a")), ("hotel", body("2", "b")), ("hotel", body("1", "c"))]
    found = list(of_candidates(records, [("hotel", "1"), ("other", "1")], LOGICAL))
    assert found == [
        Reference("training set of model hotel version 1", "lake", "frozen/1", "c"),
        Reference("training set of model hotel version 1", "lake", "frozen/1-h", "c"),
        Reference("job of model hotel version 1", "artifacts", "jobs/1/model.onnx", "c"),
    ]
    assert dangling(
        found,
        [
            held("lake", "frozen/1", "c"),
            held("lake", "frozen/1-h", "c"),
            held("artifacts", "jobs/1/model.onnx", "other"),
        ],
    ) == ("job of model hotel version 1: artifacts/jobs/1/model.onnx",)
    assert (
        dangling(
            found,
            [
                held("lake", "frozen/1", "c"),
                held("lake", "frozen/1-h", "c"),
                held("artifacts", "jobs/1/model.onnx", "c"),
            ],
        )
        == ()
    )
