"""An erasure reaches what lies beside the lake's own objects: waiting deliveries, states of sources, copies aside."""

from __future__ import annotations

from typing import Any

import pytest

from rempart.flows.ingestion import source_state
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.source_state import Pending, Stand
from rempart.flows.shared.leases import pair_lease
from rempart.ingestion import landing, snapshots
from rempart.replication.catalogue import MemoryCatalogue
from rempart.replication.plan import Replica
from tests.erasable import HEADER, NOW, ROWS, Lake, holds, id_of
from tests.unit.flows.erasure.booked import OTHER, VICTIM, WHO, copied, erase, without_features

NAME = "hotel_bookings"
SOURCE = {"prefix": "hotel_bookings/", "kind": "sql", "connection": "shop", "table": "orders"}


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    without_features(monkeypatch)


@pytest.fixture
def lake(first: Lake) -> Lake:
    return copied(first)


def waiting(lake: Lake, booking: int = WHO) -> list[str]:
    """Every version of a waiting file, at both sites, that holds a booking."""
    (row,) = (line for line in ROWS if id_of(line) == booking)
    found = []
    for name in ("primary", "haven"):
        for info in lake.site(name).versions("landing"):
            body = b"" if info.marker else lake.site(name).read("landing", info.key, version_id=info.version_id)
            found += [f"{name}/{info.key}"] if holds(body, row, booking) else []
    return found


def put_back(lake: Lake) -> dict[str, bytes]:
    """Let the deliveries wait again, as a reset does, at both sites, in a bucket that keeps versions."""
    home, made = lake.site("primary"), {}
    for name in ("primary", "haven"):
        lake.site(name).ensure_bucket("landing", versioned=True)
        for info in home.list(lake.bucket, f"raw/{NAME}/"):
            _, _, digest, file = info.key.split("/")
            key, body = landing.put_back_key(f"{NAME}/", NOW, digest, file), home.read(lake.bucket, info.key)
            for text in ("\n".join([HEADER, VICTIM, ""]).encode(), body):
                lake.site(name).write("landing", key, text, metadata={"from": "a supplier"})
            made[key] = body
    home.write("landing", f"conflicts/3/{NAME}/late.csv", next(iter(made.values())))
    return made


def test_put_back_deliveries_wait_without_the_rows_in_every_version(lake: Lake) -> None:
    made = put_back(lake)
    assert len(waiting(lake)) == 9
    plan = erase(lake, WHO, dry_run=True)
    assert plan.found["waiting deliveries at site 'primary'"] == 5 and len(waiting(lake)) == 9
    done = erase(lake, WHO)
    assert not done.pending and waiting(lake) == [] and lake.holders(WHO) == []
    home = lake.site("primary")
    assert {info.key for info in home.list("landing", f"{NAME}/")} == set(made), "they still wait"
    assert waiting(lake, id_of(OTHER)) and home.head("landing", next(iter(made))).metadata["from"] == "a supplier"
    again = erase(lake, WHO)
    assert (again.deleted, again.pending) == (0, False)
    ingest(lake.platform, lake.pipeline)
    assert lake.holders(WHO) == [] and waiting(lake) == []


def test_a_waiting_file_that_its_supplier_replaced_meanwhile_is_not_overwritten(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, key = lake.site("primary"), f"{NAME}/late.csv"
    old = home.read(lake.bucket, next(info.key for info in home.list(lake.bucket, "raw/") if "one.csv" in info.key))
    home.write("landing", key, old)
    real = landing.fetch

    def fetch(*given: Any, **named: Any) -> str:
        digest = real(*given, **named)
        if given[2] == key:
            monkeypatch.setattr(landing, "fetch", real)
            home.write("landing", key, b"newer")
        return digest

    monkeypatch.setattr(landing, "fetch", fetch)
    erase(lake, WHO)
    assert home.read("landing", key) == b"newer"


@pytest.mark.parametrize("rule", ["newest", "refuse"])
def test_no_version_of_the_states_of_a_source_tells_of_the_rows(lake: Lake, rule: str) -> None:
    fields = lake.pipeline.model_dump(by_alias=True, exclude_unset=True)
    pipeline = type(lake.pipeline).model_validate({**fields, "source": SOURCE, "on_conflict": rule})
    home, now = lake.site("primary"), snapshots.current(lake.site("primary"), lake.bucket, NAME)
    assert now and now.previous
    older = snapshots.read(home, lake.bucket, NAME, now.previous)
    state = {"cursor": "17", "rows": "DIGESTS", "next": "https://shop/?after=Erika"}
    for name in ("primary", "haven"):
        site = lake.site(name)
        for number, at in enumerate((None, older, now)):
            source_state.write_stand(site, lake.bucket, NAME, at, Stand(number, state))
        source_state.write_pending(site, lake.bucket, NAME, Pending("x", True, (), Stand(9, state)))
        site.write(lake.bucket, "conflicts/3/sources/hotel_bookings/pending.json", b"DIGESTS")
        site.write(lake.bucket, "sources/other/pending.json", b"DIGESTS")
    booked = Lake(lake.platform, pipeline)
    done = erase(booked, WHO)
    assert not done.pending and done.derived["states of the source"] > 4
    told = [
        (name, info.key)
        for name in ("primary", "haven")
        for info in lake.site(name).versions(lake.bucket)
        if not info.marker
        and f"sources/{NAME}" in info.key
        and b"DIGESTS" in lake.site(name).read(lake.bucket, info.key, version_id=info.version_id)
    ]
    kept = source_state.read_stand(home, lake.bucket, NAME, snapshots.current(home, lake.bucket, NAME))
    pending = source_state.read_pending(home, lake.bucket, NAME)
    assert pending and (kept.number, pending.after.number) == (2, 9) and kept.state["cursor"] == "17"
    if rule == "newest":
        assert told == [] and set(kept.state) == {"cursor"}
    else:  # rows that are delivered again would all be refused
        assert len(told) == 2 and {name for name, _ in told} == {"primary"} and kept.state == state
    assert source_state.read_pending(lake.site("haven"), lake.bucket, NAME) is None, "replication brings it"
    assert lake.site("haven").read(lake.bucket, "sources/other/pending.json")
    assert erase(booked, WHO).deleted == 0


def test_copies_that_a_reconciliation_kept_aside_go_in_every_version(lake: Lake) -> None:
    home = lake.site("primary")
    for info in list(home.list(lake.bucket)):
        if info.key.startswith(("raw/", "quarantine/", f"snapshots/{NAME}/parts/")):
            body = home.read(lake.bucket, info.key)
            for name in ("primary", "haven"):
                lake.site(name).write(lake.bucket, f"conflicts/3/{info.key}", body, metadata={"delivery": "x"})
                lake.site(name).write(lake.bucket, f"conflicts/4/conflicts/3/{info.key}", body)
                lake.site(name).write(lake.bucket, f"conflicts/3/{info.key}", body)
    assert any("conflicts/4" in holder for holder in lake.holders(WHO))
    assert not erase(lake, WHO).pending and lake.holders(WHO) == []


def test_an_erasure_that_was_killed_before_the_catalogues_forgot_is_completed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, pair = lake.site("primary"), ("primary", "haven")
    known = lake.platform.continuity.catalogue(*pair)
    rows = [
        Replica(i.key, i.version_id or "", 0, False, i.size, "", i.etag, NOW, "", "", "read back", NOW, NOW)
        for i in home.versions(lake.bucket)
    ]
    with lake.platform.continuity.hold_lease(pair_lease(*pair), "a test") as lease:
        known.record(lake.bucket, rows, lease)
    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(MemoryCatalogue, "forget", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        erase(lake, WHO)
    assert not erase(lake, WHO).pending
    there = {(info.key, info.version_id) for info in home.versions(lake.bucket)}
    left = [row.key for row in known.rows(lake.bucket)]
    assert left and all((row.key, row.version) in there for row in known.rows(lake.bucket))
