"""Refused rows are read and written some at a time, however many they are, and none is lost or moved."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.flows.ingestion.reingest import _verdicts
from rempart.ingestion import landing, refused
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.engine.deliveries import HeldRows, StagedDelivery
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.engine.versions.moved import Moved, moved
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.reading import LINE, RAW, RefusedRow
from rempart.ingestion.refused import RefusedFile, RefusedRows

REASONS = st.lists(st.sampled_from(["a", "b; c", "é"]), min_size=1, max_size=3).map(tuple)
LINES = st.dictionaries(st.integers(1, 40), st.tuples(REASONS, st.sampled_from(["", "x", "x,y", "é\n"])), max_size=20)


def rows(lines: dict[int, tuple[tuple[str, ...], str]]) -> list[RefusedRow]:
    return [RefusedRow(line, why, raw) for line, (why, raw) in sorted(lines.items())]


def held(delivery: StagedDelivery, good: Sequence[RefusedRow], size: int) -> HeldRows:
    """A held-back delivery whose good rows come in batches of some rows."""

    def read() -> Iterator[pa.RecordBatch]:
        columns = {LINE: pa.array([row.line for row in good], pa.int64()), RAW: [row.raw for row in good]}
        yield from pa.table(columns, schema=pa.schema([(LINE, pa.int64()), (RAW, pa.string())])).to_batches(size)

    return HeldRows(delivery, read)


@given(bad=LINES, good=LINES, size=st.integers(1, 5))
def test_all_rows_of_a_held_delivery_come_in_order_of_lines_however_few_are_read_at_once(
    bad: dict[int, tuple[tuple[str, ...], str]], good: dict[int, tuple[tuple[str, ...], str]], size: int
) -> None:
    delivery = StagedDelivery(Path(), refused=RefusedRows.of(rows(bad)))
    found = held(delivery, rows(good), size)
    wanted = {row.line: RefusedRow(row.line, (HELD,), row.raw) for row in rows(good)}
    wanted |= {row.line: row for row in rows(bad)}  # a row whose key is repeated is refused, and not good
    assert list(found) == [wanted[line] for line in sorted(wanted)]
    assert refused.by_reason(found) == dict(sorted(Counter(why for row in found for why in row.reasons).items()))


@settings(max_examples=25)
@given(lines=LINES, size=st.integers(1, 5))
def test_a_quarantine_gives_back_the_rows_that_were_stored(
    lines: dict[int, tuple[tuple[str, ...], str]], size: int
) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        for module in (landing, refused):
            patch.setattr(module, "AT_A_TIME", size)
        stored, folder = Path(place) / "stored", Path(place)
        landing._write_refused(RefusedRows.of(rows(lines)), stored)
        assert pq.ParquetFile(stored).num_row_groups == -(-len(lines) // size)
        found = landing.read_refused(stored, folder / "rows")
        assert len(found) == len(lines)
        joined = [RefusedRow(row.line, ("; ".join(row.reasons),), row.raw) for row in rows(lines)]
        assert list(found) == joined and _verdicts(found) == _verdicts(RefusedRows.of(rows(lines)))
        same = moved(found, RefusedRows.of(rows(lines)), folder, Resources(100 << 20, 1, folder / "spill"))
        assert same == Moved(0, 0, changed=False)


def test_rows_with_other_lines_or_reasons_have_other_verdicts() -> None:
    first = [RefusedRow(2, ("ab",), "x"), RefusedRow(3, ("c",), "x")]
    others = [
        [RefusedRow(2, ("a",), "x"), RefusedRow(3, ("bc",), "x")],
        [RefusedRow(2, ("ab",), "x"), RefusedRow(4, ("c",), "x")],
        first[:1],
    ]
    found = {_verdicts(RefusedRows.of(each)) for each in (first, *others)}
    assert len(found) == 4 and _verdicts(RefusedRows.of(first)) in found


def test_refused_rows_in_a_file_are_counted_without_reading_them(tmp_path: Path) -> None:
    refused.write((), tmp_path / "none")
    assert list(RefusedFile(tmp_path / "none", 0)) == [] and refused.by_reason(RefusedFile(tmp_path / "none", 0)) == {}


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=4), st.integers(1, 7), st.booleans())
def test_many_refused_rows_of_many_deliveries_wait_on_disk(
    deliveries: list[list[bool]], size: int, on_disk: bool
) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        folder = Path(place)
        patch.setattr(refused, "_SMALL", 0 if on_disk else 1 << 20)
        patch.setattr(typed_rows, "_ROWS", size)
        staged = []
        for i, bad in enumerate(deliveries):
            lines = pa.array(range(2, len(bad) + 2), pa.int64())
            raw = pa.array([f"{i},{row}" for row in range(len(bad))], pa.string())
            pq.write_table(pa.table({"bad": pa.array(bad, pa.bool_()), LINE: lines, RAW: raw}), folder / f"{i}")
            before = RefusedRows.of([RefusedRow(1, ("header",), "x")])
            staged.append(StagedDelivery(folder / f"{i}", len(bad), refused=before))
        found = typed_rows.judged(staged, _refuse_bad, Limits(), folder / "judged")
        for i, (bad, delivery) in enumerate(zip(deliveries, found, strict=True)):
            wrong = [RefusedRow(row + 2, ("bad",), f"{i},{row}") for row, is_bad in enumerate(bad) if is_bad]
            assert list(delivery.refused) == [RefusedRow(1, ("header",), "x"), *wrong]
            assert (delivery.good, delivery.judged) == (len(bad) - len(wrong), len(bad))
            assert (folder / f"judged/{i:06d}.refused").exists() == bool(on_disk and wrong)


def _refuse_bad(table: pa.Table) -> dict[int, tuple[str]]:
    return {place: ("bad",) for place, bad in enumerate(table["bad"].to_pylist()) if bad}


def test_rows_from_an_older_file_of_the_same_name_stay(tmp_path: Path) -> None:
    first, second = ([RefusedRow(line, ("why",), "x" * line)] for line in (1, 2))
    RefusedRows.of(first).save(tmp_path / "rows")
    had = refused.mapped(tmp_path / "rows")
    RefusedRows.of(second).save(tmp_path / "rows")
    assert (list(had), list(refused.mapped(tmp_path / "rows"))) == (first, second)
