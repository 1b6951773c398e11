"""What `make prove-world-moves` delivers: the sample in two files, with moved prices from its date on alone."""

from __future__ import annotations

import csv
import gzip

from bench.moving_world import FACTORS, MOVED_FROM, deliveries
from tests.pods import ROOT

SAMPLE = ROOT / "data" / "hotel_bookings.csv.gz"


def test_prices_are_multiplied_from_the_day_on_and_nothing_else_changes() -> None:
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as lines:
        before = {row["booking_id"]: row for row in csv.DictReader(lines)}
    files = deliveries(SAMPLE)
    after = {stage: list(csv.DictReader(body.decode().splitlines())) for stage, body in files.items()}
    assert sum(map(len, after.values())) == len(before)
    assert max(row["arrival_date"] for row in after["before"]) < MOVED_FROM
    assert min(row["arrival_date"] for row in after["moved"]) >= MOVED_FROM
    for stage, rows in after.items():
        for row in rows:
            was = before[row["booking_id"]]
            price, moved = (float(found["avg_price_per_room"]) for found in (was, row))
            assert abs(moved - price * FACTORS[stage]) < 0.01
            assert row | {"avg_price_per_room": ""} == was | {"avg_price_per_room": ""}
