"""Deliveries of rows: bounded, and read back as they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import IngestError
from rempart.ingestion import reading
from rempart.ingestion.sources import csv_deliveries
from rempart.ingestion.sources.key_comparison import compare
from rempart.ingestion.sources.port import Delivery
from rempart.ingestion.sources.postgresql import _rows
from rempart.settings.sources import FilesSource

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
rows = st.lists(st.tuples(st.integers(0, 9).map(str), st.none() | texts), max_size=12)


class Sink:
    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        self.stored[name] = b"".join(blocks)
        return Delivery(name, len(self.stored[name]), hashlib.sha256(self.stored[name]).hexdigest())


@given(rows=rows, most=st.integers(1, 5))
def test_the_reader_gets_each_row_as_it_was(rows: list[tuple[str, str | None]], most: int) -> None:
    before, csv_deliveries.MOST_ROWS = csv_deliveries.MOST_ROWS, most
    try:
        sink = Sink()
        made = csv_deliveries.deliver(sink, "rows", b"a,b", map(csv_deliveries.line, rows))
    finally:
        csv_deliveries.MOST_ROWS = before
    assert [delivery.key for delivery in made] == sorted(sink.stored)
    assert len(made) == -(-len(rows) // most)
    found = []
    for name in sorted(sink.stored):
        read = reading.read(name, sink.stored[name], FilesSource(prefix="x/"), ["a", "b"])
        assert (read.fault, read.refused) == (None, ())
        found += read.cells
    assert found == [[a, b or ""] for a, b in rows]


@pytest.mark.parametrize("cell", ["x" * (1 << 20), "\n" * 1000, "\r" * 1000])
def test_a_row_whose_lines_could_pass_as_rows_is_refused(cell: str) -> None:
    with pytest.raises(IngestError, match="a row has more than"):
        csv_deliveries.deliver(Sink(), "rows", b"a,b", [csv_deliveries.line(["1", cell])])


@given(rows=rows, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_rows_are_whole_wherever_a_block_ends(rows: list[tuple[str, str | None]], cuts: list[int]) -> None:
    lines = [csv_deliveries.line(row) for row in rows]
    body = b"".join(line + b"\n" for line in lines)
    places = sorted({0, *(cut for cut in cuts if cut < len(body)), len(body)})
    blocks = [body[a:b] for a, b in pairwise(places)]
    assert list(_rows(blocks)) == lines
    assert [csv_deliveries.cells(line) for line in lines] == [[a, b or ""] for a, b in rows]


def test_a_row_without_an_end_is_refused_before_all_of_it_came() -> None:
    came = 0

    def blocks() -> Iterator[bytes]:
        nonlocal came
        for _ in range(100):
            came += 1
            yield b'"' + b"x" * (1 << 16) + b'"'

    with pytest.raises(IngestError, match="a row has more than 1 MiB"):
        list(_rows(blocks()))
    assert came < 20


keys = st.sets(st.tuples(st.integers(0, 9), texts), max_size=15)


@given(known=keys, there=keys, old=st.booleans())
def test_keys_are_compared_as_sets(known: set[tuple[int, str]], there: set[tuple[int, str]], old: bool) -> None:
    gone: list[tuple[object, ...]] = []
    late = list(compare(sorted(known), [(key, old) for key in sorted(there)], gone.append))
    assert late == (sorted(there - known) if old else [])
    assert gone == sorted(known - there)


@pytest.mark.parametrize(("known", "there"), [([(2,), (1,)], []), ([], [(2,), (1,)]), ([], [(1,), (1,)])])
def test_keys_out_of_order_tell_nothing(known: list[tuple[int]], there: list[tuple[int]]) -> None:
    with pytest.raises(IngestError, match="ascending"):
        list(compare(known, [(key, True) for key in there], print))
