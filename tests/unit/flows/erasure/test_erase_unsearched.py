"""A delivery that cannot be searched for erased rows is not taken in, and no erasure counts it as clean."""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

import pyarrow as pa
import pytest

from rempart.errors import IngestError
from rempart.flows.erasure import erase as flow
from rempart.flows.erasure import erase_report
from rempart.flows.ingestion.reingest import reingest
from rempart.ingestion import deliveries, erasing
from rempart.serving import hour_files
from tests.erasable import HEADER, ROWS, Lake, in_two_memories
from tests.unit.flows.erasure.booked import WHO, erase, without_features


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Lake:
    without_features(monkeypatch)
    made = in_two_memories()
    made.take_in("one", ROWS[:10])
    made.replicate()
    return made


def unsearchable(*given: Any) -> erasing.Cut:
    return erasing.Cut(unread=1, fault="the time to read the file exceeds 300 s")


def test_entries_of_the_prediction_log_without_a_key_are_told_in_the_plan_and_in_the_result(lake: Lake) -> None:
    nothing = dict.fromkeys(("inputs", "features", "subject", "subject_key"), pa.nulls(2, pa.string()))
    entries = {"id": ["a", "b"], "at": [lake.platform.clock()] * 2, "sealed": [b"values", None]}
    body = hour_files.encode(pa.table(entries | nothing))
    key = f"{hour_files.hour_folder('hotel_bookings', lake.platform.clock())}{hashlib.sha256(body).hexdigest()}.parquet"
    for site in lake.platform.sites.values():
        site.write("lake", key, body)
    for done in (flow.erase(lake.platform, lake.pipeline, [(WHO,)], by="", reason=""), erase(lake, WHO)):
        assert done.unread == {key: 1} and not done.pending, "of the other entry nothing is left that tells of anybody"
        (told,) = (line for line in erase_report.lines(done) if "prediction log" in line)
        assert told.startswith("1 entry of the prediction log without a key of a row: not searched")


def test_an_erasure_stays_pending_while_a_delivery_cannot_be_searched(lake: Lake) -> None:
    lake.take_in("torn", gzip.compress("\n".join([HEADER, *ROWS[10:12], ""]).encode())[:-9])
    lake.replicate()
    done = erase(lake, WHO)
    assert done.pending and not done.left and not done.unread
    ((key, why),) = done.faults.items()
    assert key.endswith("torn.csv") and why == "the gzip file is truncated"
    assert any(line.startswith(f"PENDING: {key} could not be searched") for line in erase_report.lines(done))
    (ended,) = (body for body in (r.body for r in lake.platform.ledger.find("erasure")) if body["state"] == "ended")
    assert ended["pending"] == [f"{key}, not searched"]


def test_a_delivery_that_cannot_be_searched_is_neither_taken_in_nor_stored(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase(lake, WHO)
    home, inbox = lake.site("primary"), lake.platform.config.buckets.landing
    before = list(home.list(lake.bucket))
    monkeypatch.setattr(erasing, "cut_delivery", unsearchable)
    with pytest.raises(IngestError, match="cannot be searched for erased rows: the time to read"):
        lake.take_in("two", ROWS[10:12])
    assert list(home.list(lake.bucket)) == before and len(list(home.list(inbox))) == 1


def test_a_delivery_that_cannot_be_searched_is_not_taken_in_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.take_in("two", [*ROWS[10:12], "short"])
    home = lake.site("primary")
    (sha,) = (o["sha256"] for o in deliveries.outcomes(home, lake.bucket, lake.pipeline.name) if o["quarantined"])
    lake.replicate()
    erase(lake, WHO)
    monkeypatch.setattr(erasing, "cut_delivery", unsearchable)
    with pytest.raises(IngestError, match="the time to read the file exceeds"):
        reingest(lake.platform, lake.pipeline, sha)
