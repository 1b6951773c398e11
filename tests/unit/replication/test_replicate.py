"""The replication flow on sites in memory: the state of the target and of the ledger after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.coordination.active import Active
from rempart.coordination.lease import Lease
from rempart.errors import ConfigError, FailoverError, LeaseHeld, ReplicationError, SiteError
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.replication import transfer
from rempart.replication.continuity import MemoryContinuity
from rempart.settings.sections import ReplicationPair, Window
from tests.unit.replication.two_sites import fresh, later, new_platform, other_run, paired


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    return new_platform(monkeypatch)


def test_every_object_arrives_with_its_metadata_kind_and_tags(platform: Platform) -> None:
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    primary.write(
        "lake",
        "raw/a.csv",
        b"body",
        metadata={"retain-until": "2026-01-01"},
        content_type="text/csv",
        tags={"owner": "data"},
    )
    primary.write("artifacts", "mlflow/model.onnx", b"model")
    result = replicate(platform, "primary", "haven")
    assert (result.objects, result.bytes, result.copied, result.verified, result.failed) == (2, 9, 2, 2, ())
    assert (result.copied_bytes, result.pending, result.lag_seconds) == (9, 0, 0)
    assert 0 <= result.lag_p50 <= result.lag_p95 <= result.lag_max < 5
    arrived = haven.head("lake", "raw/a.csv", tags=True)
    assert (arrived.metadata["retain-until"], arrived.content_type, arrived.tags) == (
        "2026-01-01",
        "text/csv",
        {"owner": "data"},
    )
    assert haven.read("artifacts", "mlflow/model.onnx") == b"model"
    record = platform.ledger.find("replication", "primary->haven")[0].body
    assert (record["verified"], record["failures"], record["buckets"]) == (2, 0, ["lake", "artifacts"])


def test_a_second_run_copies_only_what_changed(platform: Platform) -> None:
    primary = platform.sites["primary"]
    for i in range(20):
        primary.write("lake", f"k{i}", b"%d" % i)
    replicate(platform, "primary", "haven")
    primary.write("lake", "k3", b"x")
    result = replicate(platform, "primary", "haven")
    assert (result.copied, result.verified) == (1, 20)
    assert platform.sites["haven"].read("lake", "k3") == b"x"


def test_a_delete_hides_the_replica_and_its_version_stays_readable(platform: Platform) -> None:
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    primary.write("lake", "a", b"a")
    primary.write("lake", "b", b"b")
    replicate(platform, "primary", "haven")
    primary.delete("lake", "a")
    result = replicate(platform, "primary", "haven")
    assert (result.objects, result.verified, result.hidden, result.kept) == (1, 1, 1, 0)
    assert [info.key for info in haven.list("lake")] == ["b"]
    marker, body = haven.versions("lake", "a")
    assert marker.marker and haven.read("lake", "a", version_id=body.version_id) == b"a"
    assert replicate(platform, "primary", "haven").hidden == 0


def vanish(site: Any, bucket: str, key: str) -> None:
    """Delete every version of a key: no marker says that it was wished."""
    for version in list(site.versions(bucket, key)):
        if version.key == key:
            site.delete(bucket, key, version_id=version.version_id)


def test_what_vanishes_is_hidden_after_two_sightings_and_ten_minutes_and_deleted_much_later(platform: Platform) -> None:
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    for key in "abc":
        primary.write("lake", key, key.encode())
    replicate(platform, "primary", "haven")
    vanish(primary, "lake", "a")
    assert (replicate(platform, "primary", "haven").hidden, haven.read("lake", "a")) == (0, b"a")
    assert replicate(platform, "primary", "haven").kept == 1  # twice, but within seconds
    assert replicate(later(platform, minutes=11), "primary", "haven").hidden == 1
    assert [info.key for info in haven.list("lake")] == ["b", "c"]
    assert replicate(later(platform, days=399), "primary", "haven").purged == 0
    assert replicate(later(platform, days=401), "primary", "haven").purged == 1
    assert all(version.marker for version in haven.versions("lake", "a"))
    assert replicate(later(platform, days=402), "primary", "haven").purged == 0


def test_l3_what_is_absent_from_one_listing_only_is_never_hidden(platform: Platform) -> None:
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    for key in "abc":
        primary.write("lake", key, key.encode())
    replicate(platform, "primary", "haven")

    class Blinking:
        def __getattr__(self, name: str) -> Any:
            return getattr(primary, name)

        def versions(self, *args: Any) -> Iterator[Any]:
            return (version for version in primary.versions(*args) if version.key != "b")

    blinking = dataclasses.replace(platform, sites={**platform.sites, "primary": Blinking()})  # type: ignore[dict-item]
    replicate(blinking, "primary", "haven")
    replicate(platform, "primary", "haven")  # it is there again: the count begins anew
    replicate(later(blinking, hours=1), "primary", "haven")
    assert [info.key for info in haven.list("lake")] == ["a", "b", "c"]
    # even many listings without it hide nothing that the source still gives when it is asked for it
    for hours in (2, 3, 4):
        assert replicate(later(blinking, hours=hours), "primary", "haven").hidden == 0


@pytest.mark.parametrize("gone", [vanish, lambda site, bucket, key: site.delete(bucket, key)], ids=["lost", "deleted"])
def test_l4_when_much_is_gone_it_stops_and_asks(platform: Platform, gone: Callable[[Any, str, str], object]) -> None:
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    for n in range(40):
        primary.write("lake", f"k{n:02}", b"x")
    replicate(platform, "primary", "haven")
    for n in range(30):
        gone(primary, "lake", f"k{n:02}")
    primary.write("lake", "new", b"x")
    if gone is vanish:
        replicate(platform, "primary", "haven")
    with pytest.raises(ReplicationError, match=r"30 of 4[01] keys are gone") as caught:
        replicate(later(platform, hours=1), "primary", "haven")
    assert "--accept-deletes 30" in caught.value.hint
    assert len(list(haven.list("lake"))) == 41  # what is new was copied
    with pytest.raises(ReplicationError):
        replicate(later(platform, hours=1), "primary", "haven", accept_deletes=29)
    assert replicate(later(platform, hours=1), "primary", "haven", accept_deletes=30).hidden == 30
    assert len(list(haven.list("lake"))) == 11


def test_x2_a_second_run_beside_a_live_one_does_nothing(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"a")
    with other_run(platform), pytest.raises(LeaseHeld, match="another has it"):
        replicate(platform, "primary", "haven")
    assert not list(platform.sites["haven"].list("lake"))
    assert replicate(platform, "primary", "haven").copied == 1


def test_from_a_site_that_is_not_the_active_one_nothing_is_copied(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"old")
    sites = platform.continuity.active_sites("primary")
    sites.advance(Lease("active-site", 1, "a test"), sites.active(), Active(0, "haven"))
    with pytest.raises(FailoverError, match=r"'haven' is \(generation 1"):
        replicate(platform, "primary", "haven")
    assert not list(platform.sites["haven"].list("lake"))


def test_a_lost_catalogue_costs_verification_and_no_copy(platform: Platform) -> None:
    primary = platform.sites["primary"]
    primary.write("lake", "a", b"a")
    primary.write("lake", "a", b"b")
    primary.delete("lake", "b")
    replicate(platform, "primary", "haven")
    lost = dataclasses.replace(platform, continuity_=MemoryContinuity())
    result = replicate(lost, "primary", "haven")
    assert (result.copied, result.verified) == (0, 1)


def test_large_objects_go_in_parts(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "IN_MEMORY", 10)
    monkeypatch.setattr(transfer, "PART", 5)
    platform.sites["primary"].write("lake", "large", b"0123456789abcdef", content_type="x/y", metadata={"k": "v"})
    assert replicate(platform, "primary", "haven").verified == 1
    there = platform.sites["haven"].head("lake", "large")
    assert platform.sites["haven"].read("lake", "large") == b"0123456789abcdef"
    assert (there.content_type, there.metadata["k"]) == ("x/y", "v")


def test_the_lag_of_a_failed_key_is_the_age_of_its_change(platform: Platform) -> None:
    primary = platform.sites["primary"]
    body = primary._buckets["lake"]  # type: ignore[attr-defined]
    primary.write("lake", "bad", b"as recorded")
    info, _ = body["bad"][0]
    body["bad"][0] = (info, b"rotten bits")  # same size, other bytes than its writer recorded
    with pytest.raises(SiteError, match="lake/bad"):
        replicate(later(platform, hours=1), "primary", "haven")
    record = platform.ledger.find("replication")[0].body
    assert 3600 <= record["lag_seconds"] < 3700
    assert (record["pending"], record["pending_bytes"]) == (1, 11)


def test_out_of_its_window_the_lag_is_measured_and_nothing_copied(platform: Platform) -> None:
    now = datetime.now(UTC)
    begin, end = ((now + timedelta(hours=hours)).time() for hours in (2, 3))
    platform.sites["primary"].write("lake", "a", b"a")
    narrow = paired(platform, window=Window(begin=begin, end=end))
    result = replicate(narrow, "primary", "haven")
    assert (result.copied, result.pending, result.pending_bytes) == (0, 1, 1) and result.lag_seconds > 0
    assert replicate(paired(platform, window=Window(begin=end, end=begin)), "primary", "haven").copied == 1


def test_a_pair_that_is_not_declared_is_refused(platform: Platform) -> None:
    with pytest.raises(ConfigError, match="haven -> primary is not declared"):
        replicate(platform, "haven", "primary")


def test_the_bandwidth_is_kept_to() -> None:
    slept: list[float] = []
    throttle = transfer.Throttle(100, now=lambda: sum(slept), sleep=slept.append)
    for _ in range(5):
        throttle.take(50)
    assert sum(slept) == pytest.approx(2.0)


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "erase", "foreign", "run"]), st.sampled_from("abc"), st.binary(max_size=2)
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_whatever_happens_the_replica_ends_up_with_what_the_source_has(
    platform: Platform, steps: list[tuple[str, str, bytes]]
) -> None:
    own = fresh()
    primary, haven = own.sites["primary"], own.sites["haven"]
    for action, key, body in steps:
        match action:
            case "put":
                primary.write("lake", key, body)
            case "delete":
                primary.delete("lake", key)
            case "erase":
                found = list(primary.versions("lake", key))
                if len(found) > 1:
                    primary.delete("lake", key, version_id=found[-1].version_id)
            case "foreign":
                haven.write("lake", key, body)
            case "run":
                if list(primary.list("lake")):
                    replicate(own, "primary", "haven", accept_deletes=9)
                    assert visible(primary, primary).items() <= visible(haven, primary).items()
    if not list(primary.list("lake")):
        return
    thorough = paired(own, compare=timedelta())
    replicate(thorough, "primary", "haven", accept_deletes=9)
    assert visible(haven, primary) == visible(primary, primary)
    for key in {version.key for version in primary.versions("lake")}:
        mine, there = (histories(site, key) for site in (primary, haven))
        assert is_within(mine, there)
    assert replicate(thorough, "primary", "haven").copied == 0


def visible(site: Any, source: Any) -> dict[str, bytes]:
    """What a reader finds of the keys that the source has or had."""
    keys = {version.key for version in source.versions("lake")}
    return {info.key: site.read("lake", info.key) for info in site.list("lake") if info.key in keys}


def histories(site: Any, key: str) -> list[bytes | None]:
    """The bodies of a key's versions, oldest first; None for a delete marker."""
    found = list(site.versions("lake", key))[::-1]
    return [None if info.marker else site.read("lake", key, version_id=info.version_id) for info in found]


def is_within(mine: list[bytes | None], there: list[bytes | None]) -> bool:
    """Whether one history is found in another in its order; what strangers wrote in between may stay."""
    rest = iter(there)
    return all(any(version == other for other in rest) for version in mine)


def test_rules_are_read_from_the_file() -> None:
    pair = ReplicationPair(source="a", target="b")
    assert pair.deletes.sightings == 2 and pair.deletes.share == 0.1 and pair.transfers == 32
