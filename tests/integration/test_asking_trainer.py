"""A trainer's code looks for the rows on which its model will be judged, from inside a job with the job's own keys."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rempart.flows.shared.platform import Platform
from rempart.sites.port import Site
from rempart.training import datasets, permission
from rempart.training.backends import bare_environment
from rempart.training.job import Dataset, TrainerSpec
from rempart.training.trainers import trainers
from tests.integration.test_job_credentials import HOUR, grant, own, platform, servers  # noqa: F401 - fixtures
from tests.unit.training.test_job import spec

TRAINER = '''
"""A trainer that looks for the rows on which its model will be judged."""

import json
import os


def fit(inputs, target, params, seed):
    import boto3
    from botocore.exceptions import ClientError

    given = json.loads(os.environ["AIRFLOW_CONN_S3_PRIMARY"])
    s3 = boto3.session.Session().client(
        "s3",
        endpoint_url=given["extra"]["endpoint_url"],
        aws_access_key_id=given["login"],
        aws_secret_access_key=given["password"],
        aws_session_token=given["extra"]["aws_session_token"],
        region_name="local-1",
    )

    def status(call):
        try:
            return call()["ResponseMetadata"]["HTTPStatusCode"]
        except ClientError as refusal:
            return refusal.response["ResponseMetadata"]["HTTPStatusCode"]

    held_out, learn = params["held_out"], params["learn"]
    found = {
        "targets": sorted(set(target.tolist())),
        "inputs": list(inputs.shape),
        "rows to learn from": status(lambda: s3.get_object(Bucket="lake", Key=learn)),
        "held-out rows": status(lambda: s3.get_object(Bucket="lake", Key=held_out)),
        "their size": status(lambda: s3.head_object(Bucket="lake", Key=held_out)),
        "a copy": status(lambda: s3.copy_object(Bucket="lake", Key="mine", CopySource=f"lake/{held_out}")),
        "a list": status(lambda: s3.list_objects_v2(Bucket="lake", Prefix="training/")),
        "connections": sorted(name for name in os.environ if name.startswith("AIRFLOW_CONN_")),
        "databases": sorted(name for name in os.environ if name.startswith("PG")),
    }
    print("ASKED " + json.dumps(found), flush=True)
    raise SystemExit(3)
'''


def test_a_trainer_that_asks_for_held_out_rows_gets_none(
    platform: Platform,  # noqa: F811 - the fixture
    own: Site,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies = [datasets.encoded(pa.table({"stay__lead": [1.0, 2.0] * 20, "price": [float(p)] * 40})) for p in (80, 9999)]
    digests = [hashlib.sha256(body).hexdigest() for body in bodies]
    keys = datasets.key("stays_test", digests[0]), datasets.held_out_key("stays_test", digests[1])
    for key, body in zip(keys, bodies, strict=True):
        own.write("lake", key, body)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    (tmp_path / "include" / "trainers").mkdir(parents=True)
    (tmp_path / "include" / "trainers" / "asks.py").write_text(TRAINER)
    use = "include/trainers/asks.py:fit"
    params = {"held_out": keys[1], "learn": keys[0]}
    place = spec().dataset.site
    ordered = spec(
        trainer=TrainerSpec(use=use, params=params),
        dataset=Dataset(
            site=place, bucket="lake", key=keys[0], sha256=digests[0], rows=40, held_out=digests[1], examples=digests[1]
        ),
        code_version=trainers.code_version(use),
        permission=None,
    )
    job = permission.permit(platform.config, ordered, on=platform.clock().date())
    granted = grant(platform, job, 1, HOUR)
    done = subprocess.run(
        [sys.executable, "-m", "rempart.training.entrypoint", "--spec", "-"],
        input=job.to_json(),
        env=bare_environment() | granted.variables,
        capture_output=True,
        check=False,
    )
    asked = [line for line in done.stdout.decode().splitlines() if line.startswith("ASKED ")]
    assert done.returncode != 0 and len(asked) == 1, done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:]
    assert json.loads(asked[0].removeprefix("ASKED ")) == {
        "targets": [80.0],
        "inputs": [40, 1],
        "rows to learn from": 200,
        "held-out rows": 403,
        "their size": 403,
        "a copy": 403,
        "a list": 403,
        "connections": ["AIRFLOW_CONN_MLFLOW", "AIRFLOW_CONN_S3_PRIMARY"],
        "databases": [],
    }
