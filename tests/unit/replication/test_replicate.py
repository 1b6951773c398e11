"""The replication flow on sites in memory: what a reader of the target and of the ledger finds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart import config
from rempart.errors import ConfigError, IntegrityError, SiteError
from rempart.flows.platform import Platform
from rempart.flows.replicate import replicate
from rempart.ledger.memory import MemoryLedger
from rempart.replication import transfer
from rempart.sites.memory import MemorySite

ROOT = Path(__file__).parents[3]


@pytest.fixture
def platform(monkeypatch):
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    sites = {name: MemorySite(name) for name in ("primary", "haven")}
    for site in sites.values():
        for bucket in ("lake", "artifacts", "backups"):
            site.ensure_bucket(bucket, versioned=True)
    return Platform(
        config.load(ROOT / "rempart.yaml"), config.environment_connections, sites=sites, ledger_=MemoryLedger()
    )


def test_every_object_arrives_with_its_metadata_and_kind(platform):
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    primary.write("lake", "raw/a.csv", b"body", metadata={"retain-until": "2026-01-01"}, content_type="text/csv")
    primary.write("artifacts", "mlflow/model.onnx", b"model")
    result = replicate(platform, "primary", "haven")
    assert (result.objects, result.bytes, result.copied, result.verified, result.failed) == (2, 9, 2, 2, ())
    assert result.lag_seconds == 0
    arrived = haven.head("lake", "raw/a.csv")
    assert (arrived.metadata["retain-until"], arrived.content_type) == ("2026-01-01", "text/csv")
    assert haven.read("artifacts", "mlflow/model.onnx") == b"model"
    record = platform.ledger.find("replication", "primary->haven")[0].body
    assert (record["verified"], record["failures"], record["buckets"]) == (2, 0, ["lake", "artifacts"])


def test_a_second_run_copies_only_what_changed(platform):
    primary = platform.sites["primary"]
    for i in range(20):
        primary.write("lake", f"k{i}", b"%d" % i)
    replicate(platform, "primary", "haven")
    primary.write("lake", "k3", b"x")
    result = replicate(platform, "primary", "haven")
    assert (result.copied, result.verified) == (1, 20)
    assert platform.sites["haven"].read("lake", "k3") == b"x"


def test_what_the_source_deleted_stays_at_the_target_and_is_counted(platform):
    primary = platform.sites["primary"]
    primary.write("lake", "a", b"a")
    primary.write("lake", "b", b"b")
    replicate(platform, "primary", "haven")
    primary.delete("lake", "a")
    result = replicate(platform, "primary", "haven")
    assert (result.objects, result.verified, result.kept) == (1, 1, 1)
    assert platform.sites["haven"].read("lake", "a") == b"a"


def test_a_lost_catalogue_costs_verification_and_no_copy(platform):
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    primary.write("lake", "a", b"a")
    replicate(platform, "primary", "haven")
    haven.delete("backups", "replication/primary/lake.jsonl.gz")
    result = replicate(platform, "primary", "haven")
    assert (result.copied, result.verified) == (0, 1)


def test_an_unreadable_catalogue_stops_the_run_and_says_what_to_do(platform):
    platform.sites["primary"].write("lake", "a", b"a")
    platform.sites["haven"].write("backups", "replication/primary/lake.jsonl.gz", b"junk")
    with pytest.raises(IntegrityError, match="Delete it"):
        replicate(platform, "primary", "haven")


def test_large_objects_pass_through_a_file(platform, monkeypatch):
    monkeypatch.setattr(transfer, "IN_MEMORY", 10)
    platform.sites["primary"].write("lake", "large", b"0123456789abcdef")
    assert replicate(platform, "primary", "haven").verified == 1
    assert platform.sites["haven"].read("lake", "large") == b"0123456789abcdef"


def test_the_lag_of_a_failed_key_is_the_age_of_its_change(platform):
    primary = platform.sites["primary"]
    body = primary._buckets["lake"]
    primary.write("lake", "bad", b"as recorded")
    info, _ = body["bad"][0]
    body["bad"][0] = (info, b"rotten bits")  # same size, other bytes than its writer recorded
    later = Platform(
        platform.config,
        platform.connections,
        lambda: datetime.now(UTC) + timedelta(hours=1),
        platform.sites,
        platform.ledger_,
    )
    with pytest.raises(SiteError, match="lake/bad"):
        replicate(later, "primary", "haven")
    assert 3600 <= platform.ledger.find("replication")[0].body["lag_seconds"] < 3700


def test_a_pair_that_is_not_declared_is_refused(platform):
    with pytest.raises(ConfigError, match="haven -> primary is not declared"):
        replicate(platform, "haven", "primary")
