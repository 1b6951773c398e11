"""An erasure reaches all versions of a row: in old deliveries, parts and manifests, at both sites."""

from __future__ import annotations

import pytest

from rempart.errors import SiteError
from rempart.flows.erasure import erase as flow
from rempart.flows.ingestion.rejudge import rejudge
from rempart.ingestion import snapshots
from rempart.ingestion.snapshots import Snapshot
from rempart.sites.port import Site
from tests.erasable import HEADER, ROWS, Lake, id_of, in_two_memories
from tests.unit.flows.erasure.booked import VICTIM, WHO, erase, without_features


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    return without_features(monkeypatch)


def test_replaced_rows_are_erased_also_where_an_earlier_state_of_the_data_came_back() -> None:
    made = in_two_memories()
    lake = Lake(made.platform, made.pipeline.model_copy(update={"on_conflict": "newest"}))
    changed = VICTIM.split(",")
    changed[1] = "99.5"
    first = lake.take_in("one", ROWS[:6])
    second = lake.take_in("two", [",".join(changed)])
    assert (second.replaced, second.quarantined) == (1, 0)
    lake.replicate()
    assert lake.take_in("three", [VICTIM, ROWS[6]]).replaced == 1
    lake.take_in("four", [",".join(changed)])
    lake.replicate()
    assert lake.holders(WHO, "primary") and lake.holders(WHO, "haven")
    done = erase(lake, WHO)
    assert not done.pending and done.subjects == 1
    assert lake.holders(WHO) == []
    now = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    assert now and now.id != first.snapshot
    table = snapshots.load_table(lake.site("primary"), lake.bucket, now)
    assert set(table["booking_id"].to_pylist()) == {id_of(row) for row in ROWS[:7]} - {WHO}
    assert lake.take_in("five", [VICTIM]).accepted == 0


def test_all_kept_versions_of_a_row_are_erased() -> None:
    made = in_two_memories()
    changes = {"on_conflict": "history", "version_by": "arrival_date"}
    lake = Lake(made.platform, made.pipeline.model_copy(update=changes))
    later = VICTIM.split(",")
    later[HEADER.split(",").index("arrival_date")] = "2017-08-30"
    lake.take_in("one", ROWS[:6])
    assert lake.take_in("two", [",".join(later), VICTIM]).total_rows == 7
    lake.replicate()
    done = erase(lake, WHO)
    assert not done.pending and done.subjects == 1
    assert lake.holders(WHO) == []
    now = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    assert now and now.rows == 5


def test_an_erased_row_does_not_come_back_when_all_deliveries_are_judged_anew() -> None:
    made = in_two_memories()
    lake = Lake(made.platform, made.pipeline.model_copy(update={"on_conflict": "newest"}))
    lake.take_in("one", ROWS[:6])
    erase(lake, WHO)
    lake.take_in("two", ROWS[6:8])
    before = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    done = rejudge(lake.platform, lake.pipeline)
    assert before and (done.changed, done.snapshot, done.total_rows) == (False, before.id, 7)
    stricter = lake.pipeline.expectations[0].model_copy(update={"reason": "another reason"})
    changed = lake.pipeline.model_copy(update={"expectations": [stricter, *lake.pipeline.expectations[1:]]})
    assert rejudge(lake.platform, changed).total_rows == 7
    assert lake.holders(WHO, "primary") == []


def test_an_erasure_that_gives_an_earlier_snapshot_is_finished_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    made = in_two_memories()
    lake = Lake(made.platform, made.pipeline)
    first = lake.take_in("one", [row for row in ROWS[:6] if row != VICTIM])
    lake.take_in("two", [VICTIM])
    lake.replicate()
    point_at = snapshots.point_at

    def killed(site: Site, bucket: str, snapshot: Snapshot) -> None:
        point_at(site, bucket, snapshot)
        raise SiteError("killed", "Run again.")

    with monkeypatch.context() as during, pytest.raises(SiteError, match="killed"):
        during.setattr(snapshots, "point_at", killed)
        erase(lake, WHO)
    now = snapshots.current(lake.site("primary"), lake.bucket, "hotel_bookings")
    assert now and now.id == first.snapshot and lake.holders(WHO)
    (done,) = flow.again(lake.platform)
    assert not done.pending and lake.holders(WHO) == []
    assert lake.take_in("three", [ROWS[6]]).total_rows == now.rows + 1
