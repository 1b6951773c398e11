"""The sample splits into weekly deliveries that together hold every row once."""

from __future__ import annotations

import gzip
from collections import Counter

from rempart.ingestion import sample
from rempart.settings.config import project_root

FILE = project_root() / "data" / "hotel_bookings.csv.gz"


def test_every_row_once_in_order_of_weeks() -> None:
    found = list(sample.deliveries(FILE))
    header, *rows = gzip.decompress(FILE.read_bytes()).decode().splitlines()
    assert len(rows) == 15_402
    assert Counter(line for _, body in found for line in body.decode().splitlines()[1:]) == Counter(rows)
    assert all(body.decode().splitlines()[0] == header for _, body in found)
    names = [name for name, _ in found]
    assert names == sorted(names)
    assert (names[0], names[-1], len(names)) == ("hotel_bookings_2016-W26.csv", "hotel_bookings_2017-W35.csv", 62)


def test_the_same_bytes_every_time() -> None:
    assert list(sample.deliveries(FILE)) == list(sample.deliveries(FILE))
