"""Two real sites, a proxy before each that answers wrongly when it is told to, and objects to replicate."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication import transfer
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config, sections
from rempart.sites.port import Site
from tests.integration.own_servers import ROOT, own_servers
from tests.lying import LyingSite, lying_site
from tests.lying.platforms import reached_through

KEYS = [f"snapshots/{n:02d}" for n in range(6)]
LARGE = "models/large"


def two_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two real sites, and what they were proven able to do."""
    with own_servers(tmp_path_factory.mktemp("grade") / "var", ("site-primary", "site-haven")) as running:
        settings, ledger = config.load(ROOT / "rempart.yaml"), MemoryLedger()
        found = Platform(settings, running.connections, ledger_=ledger, continuity_=MemoryContinuity())
        for name in ("primary", "haven"):
            site = found.site(name, "public")
            record = site.probe(settings.buckets.doctor, found.clock())
            ledger.append("capabilities", name, record.as_json())
        yield found


def new_pair(servers: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """The two sites with empty buckets, a ledger and a catalogue of the test's own."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    monkeypatch.setattr(transfer, "IN_MEMORY", 1 << 20)
    monkeypatch.setattr(transfer, "PART", 5 << 20)
    mark = f"grade-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    ledger = MemoryLedger()
    for evidence in servers.ledger.find("capabilities"):
        ledger.append("capabilities", evidence.subject, evidence.body)
    only = servers.config.replication[0].model_copy(update={"buckets": ["lake"]})
    own = dataclasses.replace(
        servers,
        config=servers.config.model_copy(update={"buckets": buckets, "replication": [only]}),
        ledger_=ledger,
        continuity_=MemoryContinuity(),
        sites={},
    )
    for name in ("primary", "haven"):
        for bucket in (buckets.lake, buckets.backups):
            own.site(name, "personal").ensure_bucket(bucket, versioned=True)
    yield own
    for name in ("primary", "haven"):
        for bucket in (buckets.lake, buckets.backups):
            own.site(name, "personal").drop_bucket(bucket)


@contextmanager
def lying(pair: Platform, name: str, *faults: Any, **which: Any) -> Iterator[tuple[Platform, LyingSite]]:
    """The same pair, one of whose sites lies about the lake."""
    real = pair.sites[name]
    endpoint = pair.connections(pair.config.sites[name].connection).extra["endpoint_url"]
    with lying_site(endpoint, client=real._client) as site:  # type: ignore[attr-defined]
        for fault in faults:
            site.switch_on(fault, **{"bucket": pair.config.buckets.lake, **which})
        yield reached_through(pair, name, site.url), site


def bucket_of(pair: Platform) -> str:
    return pair.config.buckets.lake


def filled(pair: Platform) -> tuple[str, Site, Site]:
    bucket, primary, haven = bucket_of(pair), pair.sites["primary"], pair.sites["haven"]
    for key in KEYS:
        primary.write(bucket, key, os.urandom(1000))
    return bucket, primary, haven


def foreign(site: Site, bucket: str, key: str, body: bytes, **extra: Any) -> None:
    """An object whose writer recorded no SHA-256 of ours."""
    site._client.put_object(Bucket=bucket, Key=key, Body=body, **extra)  # type: ignore[attr-defined]


def in_parts(site: Site, bucket: str, key: str, body: bytes, part: int, **extra: Any) -> None:
    client = site._client  # type: ignore[attr-defined]
    where = {"Bucket": bucket, "Key": key}
    where["UploadId"] = client.create_multipart_upload(**where, **extra)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(body), part), start=1):
        made = client.upload_part(**where, PartNumber=number, Body=body[start : start + part], **extra)
        told = {name: made[name] for name in ("ETag", "ChecksumSHA256") if name in made}
        parts.append({"PartNumber": number, **told})
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})


def digests(site: Site, bucket: str) -> dict[str, str]:
    return {info.key: hashlib.sha256(site.read(bucket, info.key)).hexdigest() for info in site.list(bucket)}


def versions(site: Site, bucket: str) -> int:
    return sum(1 for _ in site.versions(bucket))
