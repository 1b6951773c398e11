"""The job of the proof of the queue writes what the contract of a job has."""

import json
import runpy
from datetime import date
from pathlib import Path

import pytest

from bench.prove_queue import JOB
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.job_permission import Permission
from rempart.training.job import parse_result
from tests.unit.training.test_job import spec

PERMISSION = Permission(hosts={"primary": ("127.0.0.1",)}, until=date.max, decision="d" * 64)
CONNECTION = {"conn_type": "aws", "login": "k", "password": "s", "extra": {"endpoint_url": "http://127.0.0.1:1"}}


def test_the_result_that_the_job_writes_is_one_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered, written = spec(permission=PERMISSION), dict[tuple[str, str], bytes]()
    monkeypatch.setenv("REMPART_JOB_SPEC", ordered.to_json().decode())
    monkeypatch.setenv("AIRFLOW_CONN_S3_PRIMARY", json.dumps(CONNECTION))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(
        S3Site, "write", lambda site, bucket, key, body, **options: written.update({(bucket, key): body})
    )
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    runpy.run_path(str(tmp_path / "job.py"))
    (body,) = written.values()
    assert [*written] == [("artifacts", ordered.key("result.json"))]
    assert parse_result(body, ordered.job_id).decision == PERMISSION.decision
