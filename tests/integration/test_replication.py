"""Replication between the stack's two real sites."""

import dataclasses
import hashlib
import os
import secrets

import pytest

from rempart.flows.replication.replicate import replicate
from rempart.settings import sections

pytestmark = pytest.mark.stores


@pytest.fixture
def pair(platform, proven_ledger, own_continuity):
    mark = f"replicate-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    names = (buckets.lake, buckets.artifacts, buckets.backups)
    for site in sites:
        for bucket in names:
            site.ensure_bucket(bucket, versioned=True)
    settings = platform.config.model_copy(update={"buckets": buckets})
    yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)
    for site in sites:
        for bucket in names:
            site.drop_bucket(bucket)


def test_objects_of_every_kind_arrive_whole(pair):
    primary, haven, buckets = pair.site("primary", "personal"), pair.site("haven", "personal"), pair.config.buckets
    bodies = {
        "empty": b"",
        "small.csv": b"a,b\n1,2\n",
        "large.parquet": os.urandom(20 << 20),
        "odd keys/with space+plus%25 é.json": b"{}",
    }
    for key, body in bodies.items():
        primary.write(buckets.lake, key, body, metadata={"retain-until": "2027-01-01"}, content_type="text/x-test")
    primary.write(buckets.artifacts, "mlflow/1/model.onnx", b"model")
    result = replicate(pair, "primary", "haven")
    assert (result.objects, result.verified, result.copied, result.lag_seconds) == (5, 5, 5, 0)
    assert result.bytes == sum(map(len, bodies.values())) + len(b"model")
    for key, body in bodies.items():
        head = haven.head(buckets.lake, key)
        assert haven.read(buckets.lake, key, sha256=hashlib.sha256(body).hexdigest()) == body
        assert (head.metadata["retain-until"], head.content_type) == ("2027-01-01", "text/x-test")
    again = replicate(pair, "primary", "haven")
    assert (again.copied, again.verified) == (0, 5)


def test_a_changed_object_gets_a_new_version_and_keeps_the_old(pair):
    primary, haven, bucket = pair.site("primary", "personal"), pair.site("haven", "personal"), pair.config.buckets.lake
    primary.write(bucket, "current.json", b"one")
    replicate(pair, "primary", "haven")
    old = haven.head(bucket, "current.json").version_id
    primary.write(bucket, "current.json", b"two")
    assert replicate(pair, "primary", "haven").copied == 1
    assert haven.read(bucket, "current.json") == b"two"
    assert haven.read(bucket, "current.json", version_id=old) == b"one"
