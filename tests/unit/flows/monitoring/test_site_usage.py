"""Measuring a site in memory: its record, locks that end soon, and values that stay unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from rempart.errors import ConfigError, SiteError, SiteUnavailable
from rempart.flows.backup import locks
from rempart.flows.backup.point_store import store_at
from rempart.flows.monitoring.site_usage import measure_site
from rempart.flows.shared.platform import utc_now
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite
from tests.restorable import NOW, House, house


@pytest.fixture
def made() -> House:
    return house()


def at(made: House, later: timedelta) -> None:
    made.platform = dataclasses.replace(made.platform, clock=lambda: NOW + later)
    made.haven.clock = made.platform.clock


def on_record(made: House) -> dict[str, Any]:
    return dict(made.platform.ledger.find("usage", "haven", limit=1)[0].body)


def test_a_record_has_counts_of_every_bucket_that_is_there_and_no_key_of_data(made: House) -> None:
    made.haven.ensure_bucket("lake", versioned=True)
    made.haven.write("lake", "raw/p/marie.csv", b"12345")
    made.haven.write("lake", "raw/p/marie.csv", b"123")
    made.haven.write("lake", "gone", b"1234")
    made.haven.delete("lake", "gone")
    measure_site(made.platform, "haven")
    told = on_record(made)
    assert told["buckets"]["lake"]["objects"] >= 1
    assert told["buckets"]["lake"]["old_versions"] == 2 and told["buckets"]["lake"]["old_bytes"] == 9
    assert told["buckets"]["lake"]["markers"] == 1
    assert "landing" not in told["buckets"] and "marie" not in str(told)


def test_k4_a_lock_of_a_kept_point_that_nobody_extends_is_told_before_it_lapses(made: House) -> None:
    at(made, timedelta(days=1))
    point = made.point()
    locks.extend(store_at(made.platform, made.haven), [point])
    measure_site(made.platform, "haven")
    assert on_record(made)["locks"]["backups"]["lapsing"] == 0
    at(made, timedelta(days=1) + made.platform.config.backup.locked)
    measure_site(made.platform, "haven")
    told = on_record(made)["locks"]["backups"]
    assert told["protects"] == "restore-points" and told["lapsing"] >= 1
    assert f"backups/points/{point}/manifest.json" in [lock["name"] for lock in told["named"]]


def test_points_of_which_nobody_knows_the_locks_are_unknown_and_none_is_nothing(made: House) -> None:
    made.haven.write("backups", "keys/one", b"x")
    assert "backups" not in measure_site(made.platform, "haven")["locks"]
    made.point()
    assert "nothing was pruned yet" in measure_site(made.platform, "haven")["locks"]["backups"]["why"]


def test_evidence_whose_lock_ends_before_its_retention_or_that_has_none_is_told(made: House) -> None:
    made.platform = dataclasses.replace(made.platform, clock=utc_now)  # the site's own is the real one
    made.haven.ensure_bucket("evidence", versioned=True, locked=True)
    days = {"ledger/long": 3650, "ledger/short": 3}
    for key, length in days.items():
        made.haven.write_new("evidence", key, b"x", retain_until=made.platform.clock() + timedelta(days=length))
    made.haven.write("evidence", "ledger/open", b"x")
    measure_site(made.platform, "haven")
    told = on_record(made)["locks"]["evidence"]
    assert (told["protects"], told["looked_at"], told["lapsing"]) == ("evidence", 3, 2)
    assert [lock["name"] for lock in told["named"]] == ["evidence/ledger/open", "evidence/ledger/short"]
    assert told["named"][0]["until"] is None


class Refusing(MemorySite):
    """Lists one bucket not at all."""

    error: type[SiteError] = SiteError

    def versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        if bucket == "artifacts":
            raise self.error("list artifacts: refused (AccessDenied)", "Give the right to list.")
        return super().versions(bucket, prefix)


def refusing(made: House, error: type[SiteError]) -> None:
    site = Refusing("haven")
    site.error = error
    site.ensure_bucket("lake", versioned=True)
    made.platform.sites["haven"] = site


def test_a_bucket_that_could_not_be_listed_is_unknown_with_its_reason_and_the_task_is_red(made: House) -> None:
    refusing(made, SiteError)
    with pytest.raises(SiteError, match="AccessDenied"):
        measure_site(made.platform, "haven")
    told = on_record(made)["buckets"]
    assert told["artifacts"] == {"why": "list artifacts: refused (AccessDenied)"} and told["lake"]["objects"] == 0


def test_locks_that_a_site_does_not_tell_are_unknown_with_the_reason(made: House) -> None:
    class Silent(MemorySite):
        def retained_until(self, bucket: str, key: str, version_id: str) -> datetime | None:
            raise SiteError("retention of evidence/x: refused (AccessDenied)", "Give the right to read it.")

    made.platform = dataclasses.replace(made.platform, clock=utc_now)
    site = made.platform.sites["haven"] = Silent("haven")
    site.ensure_bucket("evidence", versioned=True, locked=True)
    site.write_new("evidence", "x", b"x", retain_until=utc_now() + timedelta(days=9))
    with pytest.raises(SiteError, match="retention of"):
        measure_site(made.platform, "haven")
    assert on_record(made)["locks"]["evidence"]["why"] == "retention of evidence/x: refused (AccessDenied)"
    assert on_record(made)["buckets"]["evidence"]["objects"] == 1


def test_a_site_that_does_not_answer_leaves_no_record(made: House) -> None:
    refusing(made, SiteUnavailable)
    with pytest.raises(SiteUnavailable):
        measure_site(made.platform, "haven")
    assert not made.platform.ledger.find("usage")


def test_a_site_that_is_not_declared(made: House) -> None:
    with pytest.raises(ConfigError, match="no site 'nowhere'"):
        measure_site(made.platform, "nowhere")
