"""What `make prove-world-moves` delivers: the sample by month, with moved prices from its date on alone."""

from __future__ import annotations

import csv
import gzip

from bench.moving_world import FACTOR, MOVED_FROM, months
from tests.pods import ROOT

SAMPLE = ROOT / "data" / "hotel_bookings.csv.gz"


def test_prices_are_multiplied_from_the_month_on_and_nothing_else_changes() -> None:
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as lines:
        before = {row["booking_id"]: row for row in csv.DictReader(lines)}
    files = months(SAMPLE)
    after = [row for body in files.values() for row in csv.DictReader(body.decode().splitlines())]
    assert len(after) == len(before) and min(files) < MOVED_FROM < max(files)
    for row in after:
        was = before[row["booking_id"]]
        factor = FACTOR if was["arrival_date"] >= MOVED_FROM else 1
        assert abs(float(row["avg_price_per_room"]) - float(was["avg_price_per_room"]) * factor) < 0.01
        assert row | {"avg_price_per_room": ""} == was | {"avg_price_per_room": ""}
