"""Compute what a job needs of its sites, as rights and as a session policy. Pure.

A job reads its training set, and reads, writes and lists below `jobs/<id>/`. It deletes only its checkpoints, and
cannot write its own record (`order.json`, `attempts/`), on which the platform relies, nor what the platform tells of
its model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.errors import TrainingError
from rempart.sovereignty.job_permission import JobSite
from rempart.training import datasets
from rempart.training.attempts.checkpoints import FOLDER, MANIFEST
from rempart.training.attempts.record import ATTEMPTS, ORDER
from rempart.training.job import JobSpec

LONGEST_POLICY = 2048
"""Characters of a session's policy. Source: AWS STS, AssumeRole, parameter Policy; SeaweedFS 4.48 holds to it too."""
_TOLD = ("explanations-", "model-card-")
"""Begin the names of what the platform writes beside a job's files."""
_WIDENS = "*?$"
"""Characters that mean a pattern or a variable in a policy's resource: in a key they would match more than the key."""


@dataclass(frozen=True)
class Rights:
    """A job's rights at one site: objects (bucket, key) to read, and bucket and prefix to write, if any."""

    site: JobSite
    reads: tuple[tuple[str, str], ...] = ()
    own: tuple[str, str] | None = None


def rights(spec: JobSpec) -> tuple[Rights, ...]:
    """Return the rights at each site of a job."""
    reads = ((spec.dataset.bucket, spec.dataset.key),)
    own = (spec.output.bucket, spec.key(""))
    if spec.dataset.site.name == spec.output.site.name:
        return (Rights(spec.output.site, reads, own),)
    return Rights(spec.dataset.site, reads), Rights(spec.output.site, own=own)


def policy(given: Rights) -> dict[str, Any]:
    """Return the rights as an IAM policy. Raises TrainingError for a name that would match more than itself."""
    statements = []
    if given.reads:
        statements.append(_allow(["s3:GetObject"], [_arn(bucket, key) for bucket, key in given.reads]))
    if given.own:
        bucket, prefix = given.own
        whole, checkpoints = _arn(bucket, prefix) + "*", _arn(bucket, prefix + FOLDER) + "*"
        record = [_arn(bucket, prefix + ORDER), *(_arn(bucket, prefix + name) + "*" for name in (ATTEMPTS, *_TOLD))]
        statements += [
            _allow(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], [whole]),
            _allow(["s3:DeleteObject", "s3:DeleteObjectVersion"], [checkpoints, _arn(bucket, prefix + MANIFEST)]),
            _allow(["s3:ListBucket"], [_arn(bucket)]) | {"Condition": {"StringLike": {"s3:prefix": [f"{prefix}*"]}}},
            {"Effect": "Deny", "Action": ["s3:PutObject"], "Resource": record},
        ]
    return {"Version": "2012-10-17", "Statement": statements}


def reader(lake: str, pipeline: str, snapshots: str) -> dict[str, Any]:
    """Return what a person needs to explore a pipeline, as an IAM policy: its snapshots and its rows to learn from.

    Held-out rows are denied: nobody looks at them without a record. `snapshots`: the folder of the snapshots in the
    bucket `lake`. Raises TrainingError for a name that would match more than itself.
    """
    learn = datasets.key(pipeline, "").removesuffix(".parquet")
    held_out = datasets.held_out_key(pipeline, "").removesuffix(".parquet")
    listed = {"Condition": {"StringLike": {"s3:prefix": [f"{snapshots}*"]}}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow(["s3:GetObject"], [_arn(lake, folder) + "*" for folder in (snapshots, learn)]),
            _allow(["s3:ListBucket"], [_arn(lake)]) | listed,
            {"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": [_arn(lake, held_out) + "*"]},
        ],
    }


def text(document: Mapping[str, Any]) -> str:
    """Return a policy in STS form. Raises TrainingError if it is too long."""
    written = json.dumps(document, separators=(",", ":"), sort_keys=True)
    if len(written) > LONGEST_POLICY:
        raise TrainingError(
            f"make the policy of the job's session: it has {len(written)} characters; the limit is {LONGEST_POLICY}",
            "Use shorter names of buckets and pipelines.",
        )
    return written


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def _arn(bucket: str, key: str | None = None) -> str:
    if not bucket or set(bucket + (key or "")) & set(_WIDENS) or key == "":
        raise TrainingError(
            f"make the policy of the job's session: it cannot be limited to '{bucket}/{key}'",
            f"Use names that are not empty and contain none of {_WIDENS}",
        )
    return f"arn:aws:s3:::{bucket}" + ("" if key is None else f"/{key}")
