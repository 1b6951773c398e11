"""Deliveries, quarantine and snapshots without some rows: all other rows stay unchanged."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion import erasing, landing, reading, snapshots, unpacking
from rempart.ingestion.engine import identity, staging
from rempart.ingestion.engine.database import opened
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.deliveries import rows_of as rows_of_file
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.erasing import Cut, IsErased
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.reading import RefusedRow
from rempart.ingestion.refused import RefusedRows
from rempart.settings.pipeline import Pipeline
from rempart.sites.spool import spool_folder
from tests.snapshots_of_tables import Drawing
from tests.unit.features.stays import stays

STAYS = stays()
COLUMNS = list(STAYS.columns)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=6)
LINES = st.lists(st.tuples(st.integers(0, 6), TEXT, TEXT), max_size=8)
GONE = st.sets(st.integers(0, 6))


def fields(stay: object, house: str, room: str) -> list[str]:
    return [str(stay), "1", "1", "1", house, room, "true", "2026-01-01"]


def delivery(rows: list[list[str]], header: list[str] = COLUMNS) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([header, *rows])
    return text.getvalue().encode()


def gone(stays_gone: set[int]) -> erasing.IsErased:
    return lambda key: key[0] in stays_gone


def cut_delivery(body: bytes, pipeline: Pipeline, gone: IsErased) -> Cut:
    """As the library does it to a file, with the rest as bytes."""
    with spool_folder() as folder:
        (folder / "delivery").write_bytes(body)
        cut = erasing.cut_delivery(folder / "delivery", pipeline, gone, folder / "rest")
        return replace(cut, body=cut.file.read_bytes() if cut.file else None)


def rows_of(body: bytes) -> list[list[str]]:
    read = reading.read("a.csv", body, STAYS.source, COLUMNS)
    return [list(cell) for cell in read.cells]


@settings(max_examples=40)
@given(rows=LINES, struck=GONE, packed=st.booleans(), turned=st.booleans())
def test_a_delivery_keeps_every_other_row_as_it_was(
    rows: list[tuple[int, str, str]], struck: set[int], packed: bool, turned: bool
) -> None:
    order = COLUMNS[::-1] if turned else COLUMNS
    whole = [fields(*row) for row in rows]
    body = delivery([row[::-1] if turned else row for row in whole], order)
    before = rows_of(body)  # what a stray quote makes of a row is the same before and after
    cut = cut_delivery(gzip.compress(body) if packed else body, STAYS, gone(struck))
    left = body if cut.body is None else gzip.decompress(cut.body) if packed else cut.body
    assert rows_of(left) == [row for row in before if int(row[0]) not in struck]
    assert (cut.body is None) == (cut.rows == 0)
    assert cut_delivery(left, STAYS, gone(struck)).body is None
    assert left.decode().splitlines()[:1] == body.decode().splitlines()[:1]


@settings(max_examples=25, deadline=None)
@given(rows=LINES, struck=GONE)
def test_what_is_struck_from_a_delivery_is_refused_and_nothing_of_it_is_kept(
    rows: list[tuple[int, str, str]], struck: set[int]
) -> None:
    body = delivery([fields(*row) for row in rows])
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "a.csv"
        file.write_bytes(body)
        limits = Limits()
        staged = staging.stage(rows_of_file(file, STAYS, limits), STAYS, file.with_name("s"), limits, lambda table: {})
        read, lines = StagedDelivery.of(staged), cut_delivery(body, STAYS, gone(struck)).lines
        if read.fault:
            return
        (after,) = typed_rows.judged([read], lambda table: {}, limits, file.with_name("j"), [lines])
        without_them = typed_rows.without(read, lines, file.with_name("w"))
        resources = Resources(64 << 20, 1, Path(place) / "spill")
        with opened(resources, sorted(after.folders | without_them.folders)) as connection:
            left, same = (
                connection.sql(f"SELECT * FROM {found.rows}").to_arrow_table() for found in (after, without_them)
            )
        assert left == same
    assert after.delivered == read.delivered
    refused = [row for row in after.refused if row.reasons == (erasing.ERASED,)]
    assert len(refused) == sum(row[0] in struck for row in rows) == read.delivered - without_them.delivered
    assert all(row.raw == "" for row in refused)
    assert not set(left["stay"].to_pylist()) & struck


def test_malformed_lines_are_searched_by_the_place_of_the_key() -> None:
    body = b"stay,price\n" + delivery([fields(1, "a", "b")])[:-2] + b',x,y\r\n7,"stray\r\n7,too,few\r\n'
    cut = cut_delivery(delivery([]) + body.split(b"\r\n", 1)[1], STAYS, gone({7}))
    assert cut.rows == 2 and cut.body is not None and b"stray" not in cut.body and b"too,few" not in cut.body
    renamed = delivery([fields(7, "a", "b")], [*COLUMNS[:-1], "departure"])
    assert cut_delivery(renamed, STAYS, gone({7})).rows == 1  # refused as a whole, and its key is told
    nameless = delivery([fields(7, "a", "b")], ["number", *COLUMNS[1:]])
    assert (cut_delivery(nameless, STAYS, gone({7})).rows, 1) == (0, 1)
    assert cut_delivery(nameless, STAYS, gone({7})).unread == 1
    torn = cut_delivery(gzip.compress(body)[:-9], STAYS, gone({7}))
    assert torn.unread and torn.fault == "the gzip file is truncated"


@pytest.mark.parametrize("packed", [False, True])
def test_a_delivery_beyond_the_limits_of_ingestion_is_searched(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """`ingestion.largest_delivery` and `unpacking_ratio` may have let it in."""
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1000)
    monkeypatch.setattr(unpacking, "RATIO_FROM", 1000)
    body = delivery([fields(7, "x" * 200_000, "b"), fields(8, "a", "b")])
    cut = cut_delivery(gzip.compress(body) if packed else body, STAYS, gone({7}))
    assert (cut.rows, cut.unread, cut.fault) == (1, 0, None)


def test_a_json_line_with_two_keys_counts_as_unread_and_one_with_another_field_twice_is_found() -> None:
    source = STAYS.source.model_copy(update={"format": "jsonl"})
    twice = [b'{"stay": 7, "stay": 8}', b'{"stay": 7, "room": "a", "room": {"stay": 1}}']
    lines = [*twice, b'{"stay": 8}', b"[7]", b"7", b""]
    cut = cut_delivery(b"\n".join(lines), STAYS.model_copy(update={"source": source}), gone({7}))
    assert (cut.rows, cut.unread, cut.lines) == (1, 3, {2})


@settings(max_examples=60)
@given(text=st.lists(st.sampled_from(["\r\n", "\n", "\r", '"', "a,b", "\ufeff", ",", "x", "1"]), max_size=30))
def test_the_pieces_of_a_delivery_are_its_whole_text(text: list[str]) -> None:
    body = "".join(text).encode()
    found = list(reading.pieces(io.BytesIO(body), len(body), STAYS.source, len(COLUMNS)))
    assert "".join(piece.text for piece in found) == "".join(text)
    line = 1
    for piece in found:
        assert piece.line == line
        line += sum(1 for _ in io.StringIO(piece.text, newline=""))


@pytest.mark.parametrize("packed", [False, True])
def test_a_delivery_is_not_held_in_memory_while_rows_are_taken_out(tmp_path: Path, packed: bool) -> None:
    def written(number: int) -> Path:
        file = tmp_path / f"{number}"
        with gzip.open(file, "wb", 1) if packed else file.open("wb") as out:
            for start in range(0, number, 1000):
                rows = [fields(i, "h" * 100 + str(i), "r" * 100) for i in range(start, start + 1000)]
                out.write(delivery(rows) if start == 0 else delivery(rows).split(b"\r\n", 1)[1])
        return file

    def peak(file: Path) -> int:
        tracemalloc.start()
        cut = erasing.cut_delivery(file, STAYS, gone({17, 1017}), tmp_path / "rest")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert cut.rows == 2 and cut.lines == {19, 1019} and cut.file
        return found

    small, large = peak(written(6_000)), peak(written(18_000))
    assert large < small + (2 << 20), f"{small >> 20} MiB of 6,000 rows, {large >> 20} MiB of 18,000"


def test_long_lines_and_blank_ones_do_not_wait_for_many_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "_CHARACTERS", 5_000)
    took: list[int] = []
    take = erasing._Cutting.take

    def counted(cut: erasing._Cutting, batch: Sequence[reading.Piece]) -> None:
        took.append(len(batch))
        take(cut, batch)

    monkeypatch.setattr(erasing._Cutting, "take", counted)
    rows = [fields(i, "x" * 2_000, "b") for i in range(6)]
    (tmp_path / "delivery").write_bytes(delivery(rows))
    assert erasing.cut_delivery(tmp_path / "delivery", STAYS, gone({5})).lines == {7}
    assert took == [4, 3, 0]
    text = b"a,b\n" + b"\n" * 50_000 + b"1,2\n"
    tracemalloc.start()
    count = sum(1 for _ in reading.pieces(io.BytesIO(text), len(text), STAYS.source, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_002 and peak < 2 << 20
    wide = b"a,b\n" + b"," * (2 * reading.MAX_COLUMNS) + b"\n"
    *_, last = reading.pieces(io.BytesIO(wide), len(wide), STAYS.source, 2)
    assert len(last.fields or ()) == reading.MAX_COLUMNS + 1


@settings(max_examples=40)
@given(rows=LINES, struck=GONE)
def test_quarantine_loses_these_rows_alone(rows: list[tuple[int, str, str]], struck: set[int]) -> None:
    raws = [delivery([fields(*row)]).decode().split("\r\n", 1)[1].rstrip("\r\n") for row in rows]
    table = pa.table(
        {
            "source_line": pa.array(range(2, len(rows) + 2), pa.int64()),
            "reason": pa.array(["why"] * len(rows), pa.string()),
            "raw": pa.array(raws, pa.string()),
        }
    )
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasing, "_BATCH", 3)
        file = Path(place) / "quarantine"
        pq.write_table(table, file)
        cut = erasing.cut_quarantine(file, COLUMNS, STAYS, gone(struck), Path(place) / "left")
        left = pq.read_table(cut.file or file)["raw"].to_pylist()
    assert left == [raw for raw, row in zip(raws, rows, strict=True) if row[0] not in struck]


def test_rows_that_ingestion_refused_as_erased_say_nothing_and_are_not_searched(tmp_path: Path) -> None:
    from tests.memory_site import MemorySite

    rows = RefusedRows.of([RefusedRow(2, (erasing.ERASED,), "")])
    site = MemorySite()
    site.ensure_bucket("lake", versioned=True)
    landing.quarantine(site, "lake", "stays", "s", rows, date(2026, 1, 1))
    (tmp_path / "stored").write_bytes(site.read("lake", landing.quarantine_key("stays", "s")))
    assert erasing.cut_quarantine(tmp_path / "stored", None, STAYS, gone({1}), tmp_path / "left") == erasing.Cut()


def table_of(rows: list[tuple[int, int]]) -> pa.Table:
    """Stays (unique) and the month of their arrival."""
    plain: list[dict[str, Any]] = [
        {
            "stay": stay,
            "price": 1.0,
            "nights": 1,
            "lead": 1,
            "house": "a",
            "room": "b",
            "returning": True,
            "arrival": date(2026, month, 1),
        }
        for stay, month in rows
    ]
    return pa.Table.from_pylist(plain, schema=snapshots.arrow_schema(snapshots.snapshot_columns(STAYS)))


@settings(max_examples=25, deadline=None)
@given(
    history=st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4),
    struck=st.sets(st.integers(0, 12)),
)
def test_each_snapshot_is_succeeded_by_one_without_these_rows(history: list[list[int]], struck: set[int]) -> None:
    """Snapshots grow as deliveries come; after the erasure each holds what it held, less these rows, in order."""
    with tempfile.TemporaryDirectory() as place:
        drawing, made, rows = Drawing(STAYS, Path(place)), list[snapshots.Snapshot](), list[tuple[int, int]]()
        for months in history:
            new = [(len(rows) + n, month) for n, month in enumerate(months)]
            rows, before = rows + new, made[-1] if made else None
            snapshot, _ = drawing.add(before, table_of(new))
            if before is None or snapshot.id != before.id:
                made.append(snapshot)
        bodies = {digest: file.read_bytes() for digest, file in drawing.files.items()}
        parts = {}
        for digest in dict(bodies):
            cut = erasing.cut_table(drawing.files[digest], "part", STAYS.key, gone(struck), Path(place) / digest)
            if cut.file is not None:
                body = cut.file.read_bytes()
                kept = pq.read_table(io.BytesIO(body)).num_rows
                after = snapshots.Part("", f"k{len(parts)}", f"to-{digest}", kept, len(body))
                parts[digest], bodies[after.sha256] = after, body

    def content(
        before: snapshots.Snapshot, partition: str, those: Sequence[snapshots.Part]
    ) -> snapshots.PartitionContent:
        tables = [pq.read_table(io.BytesIO(bodies[part.sha256])) for part in those]
        return identity.by_arrow(tables, before.columns, before.key, partition)

    succeeded = erasing.succeed(made, parts, content)
    for snapshot in made:
        now = succeeded.get(snapshot.id, snapshot)
        assert (snapshot.id in succeeded) == (_stays(snapshot, bodies) & struck != set())
        assert _stays(now, bodies) == _stays(snapshot, bodies) - struck
        assert now.rows == len(_stays(now, bodies)) and now.id == snapshots.content_id(now)
        assert [part.partition for part in now.parts] == sorted(part.partition for part in now.parts)
        for found in now.partitions:
            assert content(now, found.partition, [p for p in now.parts if p.partition == found.partition]) == found
        wanted = succeeded[snapshot.previous].id if snapshot.previous in succeeded else snapshot.previous
        assert now.previous == (wanted if snapshot.id in succeeded else snapshot.previous)
    assert not erasing.succeed(succeeded.values(), parts, content)


NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _stays(snapshot: snapshots.Snapshot, bodies: dict[str, bytes]) -> set[int]:
    return {
        stay for part in snapshot.parts for stay in pq.read_table(io.BytesIO(bodies[part.sha256]))["stay"].to_pylist()
    }


def test_keys_are_typed_as_the_pipeline_says() -> None:
    both: Pipeline = STAYS.model_copy(update={"key": ["stay", "arrival"]})
    assert erasing.typed_keys([["7", "2026-01-02"], ["x", "2026-01-02"], ["7", ""]], both) == [
        (7, date(2026, 1, 2)),
        None,
        None,
    ]


def test_only_what_holds_rows_is_looked_into() -> None:
    kinds = {
        "raw/stays/aa/a.csv": "delivery",
        "quarantine/stays/aa.parquet": "quarantine",
        "snapshots/stays/parts/aa.parquet": "part",
        "snapshots/stays/aa.json": "manifest",
        "snapshots/stays/current.json": None,
        "training/stays/aa.parquet": "training set",
        "conflicts/3/raw/stays/aa/a.csv": "delivery",
        "deliveries/stays/aa.json": None,
        "raw/stays_too/aa/a.csv": None,
    }
    assert {key: erasing.kind_of(key, "stays") for key in kinds} == kinds
    assert replace(erasing.Cut(), rows=1).body is None
