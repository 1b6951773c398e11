"""The rights of a job's session, by a small model of IAM's rules: deny wins, then allow, otherwise no."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.training import data_rights, datasets
from rempart.training.job import JobSpec
from tests.unit.training.test_job import spec

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=20)
ACTIONS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectAcl"]


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text, re.DOTALL) is not None


def may(policy: Mapping[str, Any], action: str, resource: str, prefix: str | None = None) -> bool:
    hit = set()
    for statement in policy["Statement"]:
        wanted = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if (
            action in statement["Action"]
            and any(matches(pattern, resource) for pattern in statement["Resource"])
            and (wanted is None or (prefix is not None and any(matches(pattern, prefix) for pattern in wanted)))
        ):
            hit.add(statement["Effect"])
    return hit == {"Allow"}


def only(given_spec: JobSpec) -> dict[str, Any]:
    (rights,) = data_rights.rights(given_spec)
    return data_rights.policy(rights)


def arn(bucket: str, key: str) -> str:
    return f"arn:aws:s3:::{bucket}/{key}"


def test_a_job_may_not_read_the_held_out_rows() -> None:
    job = spec()
    held_out = datasets.held_out_key(job.pipeline, job.dataset.held_out)
    assert not may(only(job), "s3:GetObject", arn(job.dataset.bucket, held_out))


def test_a_job_may_do_what_it_needs() -> None:
    job = spec()
    policy, bucket = only(job), job.output.bucket
    assert may(policy, "s3:GetObject", arn(job.dataset.bucket, job.dataset.key))
    for name in ("result.json", "metrics.json", "spec.json", "model.onnx", "checkpoint.json", "checkpoint/5-ab.npz"):
        assert may(policy, "s3:GetObject", arn(bucket, job.key(name)))
        assert may(policy, "s3:PutObject", arn(bucket, job.key(name)))
    for name in ("checkpoint.json", "checkpoint/5-ab.npz"):
        assert may(policy, "s3:DeleteObject", arn(bucket, job.key(name)))
        assert may(policy, "s3:DeleteObjectVersion", arn(bucket, job.key(name)))
    assert may(policy, "s3:AbortMultipartUpload", arn(bucket, job.key("model.onnx")))
    assert may(policy, "s3:ListBucket", f"arn:aws:s3:::{bucket}", job.key("checkpoint/"))


def test_it_cannot_write_its_own_record_nor_delete_what_it_left() -> None:
    job = spec()
    policy, bucket = only(job), job.output.bucket
    told = ("explanations-0123456789abcdef.json", "model-card-0123456789abcdef.html")
    attempts = ("attempts/000001.json", "attempts/000001.node.json", "attempts/000001.end.json")
    for name in ("order.json", *attempts, *told):
        assert not may(policy, "s3:PutObject", arn(bucket, job.key(name)))
        assert not may(policy, "s3:DeleteObject", arn(bucket, job.key(name)))
    for name in ("result.json", "metrics.json", "model.onnx"):
        assert not may(policy, "s3:DeleteObject", arn(bucket, job.key(name)))


def test_it_cannot_list_the_bucket_nor_above_its_prefix() -> None:
    job = spec()
    policy, bucket = only(job), f"arn:aws:s3:::{job.output.bucket}"
    for prefix in (None, "", "jobs", "jobs/", job.key("").rstrip("/"), job.key("").replace(job.job_id, "0" * 16)):
        assert not may(policy, "s3:ListBucket", bucket, prefix), prefix


@given(bucket=NAMES, key=NAMES, folder=NAMES, action=st.sampled_from(ACTIONS))
def test_every_other_object_is_out_of_reach(bucket: str, key: str, folder: str, action: str) -> None:
    job = spec()
    policy = only(job)
    for other in (key, f"{folder}/{key}", f"jobs/{folder}/{key}", f"training/{folder}/{key}"):
        mine = bucket == job.output.bucket and other.startswith(job.key(""))
        if not mine and (bucket, other) != (job.dataset.bucket, job.dataset.key):
            assert not may(policy, action, arn(bucket, other))
    for other in (f"{job.dataset.key}{key}", f"{job.dataset.key}/{key}"):
        assert not may(policy, action, arn(job.dataset.bucket, other))
    assert action == "s3:GetObject" or not may(policy, action, arn(job.dataset.bucket, job.dataset.key))


@pytest.mark.parametrize("key", ["training/*", "training/a?.parquet", "training/${aws:username}", ""])
def test_a_key_that_stands_for_more_than_itself_is_refused(key: str) -> None:
    job = spec()
    dataset = job.dataset.model_copy(update={"key": key})
    with pytest.raises(TrainingError, match="it cannot be limited"):
        only(job.model_copy(update={"dataset": dataset}))


def test_two_sites_are_two_policies_each_without_the_others_rights() -> None:
    job = spec()
    elsewhere = job.dataset.site.model_copy(update={"name": "haven"})
    job = job.model_copy(update={"dataset": job.dataset.model_copy(update={"site": elsewhere})})
    data, own = (data_rights.policy(right) for right in data_rights.rights(job))
    assert may(data, "s3:GetObject", arn(job.dataset.bucket, job.dataset.key))
    assert not may(own, "s3:GetObject", arn(job.dataset.bucket, job.dataset.key))
    assert not may(data, "s3:PutObject", arn(job.output.bucket, job.key("result.json")))


def test_a_policy_is_short_enough_for_sts_even_with_long_names() -> None:
    job = spec()
    dataset = job.dataset.model_copy(update={"bucket": "b" * 63, "key": f"training/{'p' * 60}/{'0' * 64}.parquet"})
    job = job.model_copy(
        update={"dataset": dataset, "output": job.output.model_copy(update={"bucket": "c" * 63, "prefix": "jobs/"})}
    )
    assert json.loads(data_rights.text(only(job))) == only(job)
    with pytest.raises(TrainingError, match="the limit is 2048"):
        data_rights.text({"Sid": "x" * 2048})


def test_a_person_who_explores_reads_snapshots_and_rows_to_learn_from_of_one_pipeline_and_nothing_else() -> None:
    policy = data_rights.reader("lake", "stays", "snapshots/stays/")
    readable = ("snapshots/stays/parts/ab.parquet", "snapshots/stays/_delta_log/0.json", datasets.key("stays", "ab"))
    hidden = (datasets.held_out_key("stays", "ab"), datasets.key("stays_two", "ab"), "quarantine/stays/x", "snapshots/")
    assert all(may(policy, "s3:GetObject", arn("lake", key)) for key in readable)
    assert not any(
        may(policy, "s3:GetObject", arn("lake", key)) for key in (*hidden, "snapshots/stays_two/current.json")
    )
    assert not any(may(policy, action, arn("lake", key)) for action in ACTIONS[1:] for key in (*readable, *hidden))
    assert not may(policy, "s3:GetObject", arn("artifacts", readable[0]))
    assert may(policy, "s3:ListBucket", "arn:aws:s3:::lake", "snapshots/stays/_delta_log/")
    for prefix in ("", "training/stays/", "snapshots/", None):
        assert not may(policy, "s3:ListBucket", "arn:aws:s3:::lake", prefix)
    assert len(data_rights.text(data_rights.reader("lake", "p" * 40, f"snapshots/{'p' * 40}/"))) < 1000
    with pytest.raises(TrainingError, match="cannot be limited"):
        data_rights.reader("lake", "st*", "snapshots/st*/")
