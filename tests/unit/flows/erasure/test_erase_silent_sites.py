"""A site that is away or hides objects: an erasure there is pending or refused, and never counts as done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rempart.errors import RequestInvalid, SiteError, SiteUnavailable
from rempart.flows.erasure import erase as flow
from rempart.flows.shared.leases import pair_lease
from rempart.replication.plan import Replica
from rempart.sites.port import ObjectInfo, Site
from tests.erasable import NOW, ROWS, Lake
from tests.unit.flows.erasure.booked import WHO, copied, erase, second, without_features


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    return without_features(monkeypatch)


@pytest.fixture
def lake(first: Lake) -> Lake:
    return copied(first)


def test_a_site_that_is_away_is_pending_and_is_cleaned_when_it_is_back(lake: Lake) -> None:
    # a third site would be the everyday case: here it is the other one's lake that does not answer
    haven = lake.site("haven")
    real = haven.versions

    def away(bucket: str, prefix: str = "") -> object:
        if bucket == lake.bucket:
            raise SiteUnavailable(f"list {bucket} at site 'haven': no answer", "Wait.")
        return real(bucket, prefix)

    haven.versions = away  # type: ignore[method-assign, assignment]
    done = erase(lake, WHO)
    assert set(done.silent) == {"haven"} and lake.holders(WHO, "primary") == []
    haven.versions = real  # type: ignore[method-assign]
    assert lake.holders(WHO, "haven")
    assert not flow.again(lake.platform)[0].pending
    assert lake.holders(WHO) == []


@pytest.mark.parametrize("name", ["primary", "haven"])
@pytest.mark.parametrize("hidden", ["raw/", "snapshots/hotel_bookings/parts/"])
def test_l1_a_listing_that_hides_what_the_snapshot_names_is_no_erasure(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, name: str, hidden: str
) -> None:
    site = lake.site(name)
    true = site.versions
    with monkeypatch.context() as lie:
        lie.setattr(
            site,
            "versions",
            lambda bucket, prefix="": (info for info in true(bucket, prefix) if not info.key.startswith(hidden)),
        )
        if name == "primary":
            with pytest.raises(SiteError, match=r"listing lacks \d existing version"):
                erase(lake, WHO)
        else:
            assert set(erase(lake, WHO).silent) == {"haven"}  # pending, and told
    assert not erase(lake, WHO).pending and lake.holders(WHO) == []


@pytest.mark.parametrize(
    ("way", "side", "state"),
    [
        (("primary", "haven"), "source", {"missing_since": NOW, "sightings": 1}),
        (("primary", "haven"), "target", {"hidden": NOW}),
        (("haven", "primary"), "source", {}),
        (("haven", "primary"), "target", {}),
    ],
    ids=["missed at the source", "hidden at the target", "back, source", "back, target"],
)
def test_l1_a_listing_that_hides_what_replication_knows_of_is_no_erasure(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, way: tuple[str, str], side: str, state: dict[str, Any]
) -> None:
    name, pair = way[side == "target"], lake.platform.continuity.catalogue(*way)
    site = lake.site(name)
    true = site.versions
    (old,) = (
        info for info in true(lake.bucket, "raw/") if second(lake) not in info.key
    )  # the snapshot names the newer
    mine, theirs = (old.version_id, "v1") if side == "source" else ("v1", old.version_id)
    row = Replica(
        old.key, str(mine), 0, False, old.size, "", old.etag, NOW, str(theirs), "", "read back", NOW, NOW, **state
    )
    with lake.platform.continuity.hold_lease(pair_lease(*way), "test") as lease:
        pair.record(lake.bucket, [row], lease)
    with monkeypatch.context() as lie:
        lie.setattr(
            site, "versions", lambda bucket, prefix="": (info for info in true(bucket, prefix) if info.key != old.key)
        )
        if name == "primary":
            with pytest.raises(SiteError, match="listing lacks 1 existing version"):
                erase(lake, WHO)
        else:
            assert set(erase(lake, WHO).silent) == {"haven"}  # pending, and told
    assert not erase(lake, WHO).pending and lake.holders(WHO) == []


def test_a_version_of_the_site_that_was_there_before_stops_no_erasure(lake: Lake) -> None:
    way = ("haven", "primary")
    key = f"raw/hotel_bookings/{second(lake)}/two.csv"
    row = Replica(key, "of/another", 0, False, 1, "", "", NOW, "of/another", "", "read back", NOW, NOW)
    with lake.platform.continuity.hold_lease(pair_lease(*way), "test") as lease:
        lake.platform.continuity.catalogue(*way).record(lake.bucket, [row], lease)
    for name in way:
        refuse(lake.site(name))
    assert not erase(lake, WHO).pending and lake.holders(WHO) == []


def refuse(site: Site) -> None:
    """Have a site refuse a version id of another form, as S3 does, instead of finding nothing."""
    head = site.head

    def refusing(bucket: str, key: str, *, version_id: str | None = None, **more: Any) -> ObjectInfo:
        if version_id == "of/another":
            raise RequestInvalid(f"head {bucket}/{key}: 400", "Correct the request.")
        return head(bucket, key, version_id=version_id, **more)

    site.head = refusing  # type: ignore[method-assign]


def test_what_is_ingested_while_a_site_is_listed_does_not_count_as_hidden(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = lake.site("primary")
    true = site.versions

    def versions(bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        yield from true(bucket, prefix)
        if prefix == "conflicts/":
            monkeypatch.setattr(site, "versions", true)
            lake.take_in("three", ROWS[14:16])

    monkeypatch.setattr(site, "versions", versions)
    assert erase(lake, WHO, dry_run=True).subjects == 1
