"""A delivery's bytes become rows: none dropped, each with its line and its text as received."""

from __future__ import annotations

import csv
import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion import reading
from rempart.settings.pipeline import Source

SOURCE = Source(prefix="x/")
COLUMNS = ["a", "b"]


def read(body: bytes, name: str = "x.csv", source: Source = SOURCE) -> reading.Rows:
    return reading.read(name, body, source, COLUMNS)


def test_rows_carry_their_line_and_their_text() -> None:
    rows = read(b'b,a\n1,2\n\n"x\ny",z\n3,4')
    assert rows.cells == [["2", "1"], ["z", "x\ny"], ["4", "3"]]
    assert rows.lines == [2, 4, 6]
    assert rows.raw == ["1,2", '"x\ny",z', "3,4"]
    assert rows.fault is None


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbfa,b\r\n1,2\r\n", b"a,b\r1,2\r", b"a,b\n1,2", gzip.compress(b"a,b\n1,2\n", mtime=0)]
)
def test_byte_order_mark_line_ends_and_gzip_make_no_difference(body: bytes) -> None:
    rows = read(body)
    assert (rows.cells, rows.lines, rows.raw, rows.fault) == ([["1", "2"]], [2], ["1,2"], None)


def test_unicode_line_separators_inside_a_field_do_not_split_the_row() -> None:
    assert read("a,b\nx\u2028y\x0b\x85,2\n".encode()).cells == [["x\u2028y\x0b\x85", "2"]]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the file is empty"),
        (b"\n\r\n", "the file is empty"),
        (b"a,b\n", "a header but no rows"),
        (b"a\n1\n2\n", "missing columns: b"),
        (b"a,b,c\n1,2,3\n", "at positions 3"),
        (b"a,b,a\n1,2,3\n", "at positions 3"),
        (b"a,b,a,a (2)\n1,2,3,4\n", "at positions 4; columns that occur twice: a"),
        (b"a,b\n\xff,1\n2,3\n", "not utf-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16 text, not CSV"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 3, mtime=0)[:-6], "gzip file is truncated"),
        (b"\x1f\x8b" + b"nonsense", "gzip file is damaged"),
    ],
)
def test_a_fault_of_the_file_refuses_it_as_one(body: bytes, fault: str) -> None:
    rows = read(body)
    assert rows.fault is not None
    assert fault in rows.fault
    assert (rows.delivered, rows.cells, rows.refused) == (0, [], ())


def test_a_file_that_is_no_csv_is_refused_by_name() -> None:
    assert "ends in none of .csv" in (read(b"a,b\n1,2\n", "x.parquet").fault or "")


def test_an_unexpected_column_is_named_by_position_only_since_its_name_may_be_a_value() -> None:
    assert "mustermann" not in (read(b"mustermann,berlin\nx,y\n").fault or "")


def test_utf8_in_a_latin1_pipeline_is_not_guessed() -> None:
    assert "UTF-8" in (read(b"\xef\xbb\xbfa,b\n1,2\n", source=Source(prefix="x/", encoding="latin-1")).fault or "")
    assert read("a,b\né,2\n".encode("latin-1"), source=Source(prefix="x/", encoding="latin-1")).cells == [["é", "2"]]


def test_an_unpacked_file_has_a_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rempart.ingestion.unpacking.MAX_BYTES", 1000)
    rows = read(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
    assert "larger than" in (rows.fault or "")


def test_gzip_members_are_read_to_the_end() -> None:
    assert read(gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")).cells == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("1", "too few fields: 1"), ("1,2,3", "too many fields: 3"), ('"1,2', "quotation mark"), ('"1"x,2', "quotation")],
)
def test_a_faulty_row_costs_that_row_only(line: str, reason: str) -> None:
    rows = read(f"a,b\n1,2\n{line}\n3,4\n5,6\n".encode())
    assert rows.cells == [["1", "2"], ["3", "4"], ["5", "6"]]
    (refused,) = rows.refused
    assert (refused.line, refused.raw) == (3, line)
    assert reason in refused.reasons[0]


def test_a_quote_never_closed_in_a_long_file_costs_one_row() -> None:
    rows = read(b'a,b\n"1,2\n' + b"3,4\n" * 5000)
    assert (len(rows.cells), len(rows.refused)) == (5000, 1)


cell = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@settings(max_examples=200)
@given(rows=st.lists(st.tuples(cell, cell), max_size=12), ends=st.sampled_from(["\n", "\r\n"]))
def test_whatever_a_csv_writer_quotes_comes_back(rows: list[tuple[str, str]], ends: str) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=ends, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    found = read(text.getvalue().encode())
    assert [tuple(row) for row in found.cells] == rows
    assert [line for raw in found.raw for line in [raw]] == [_quoted(row) for row in rows]


def _quoted(row: tuple[str, str]) -> str:
    return ",".join('"' + value.replace('"', '""') + '"' for value in row)


@settings(max_examples=300)
@given(st.text(st.sampled_from('ab1",\n\r'), max_size=60))
def test_any_text_is_accounted_for_line_by_line(text: str) -> None:
    rows = read(b"a,b\n" + text.encode())
    covered = sorted([*zip(rows.lines, rows.raw, strict=True), *((r.line, r.raw) for r in rows.refused)])
    lines = ["a,b", *(line.rstrip("\r\n") for line in io.StringIO(text, newline=""))]
    rebuilt: dict[int, str] = {}
    for first, raw in covered:
        for offset, piece in enumerate(io.StringIO(raw, newline="")):
            rebuilt[first + offset] = piece.rstrip("\r\n")
    assert all(rebuilt.get(number, "") == line for number, line in enumerate(lines[1:], 2))
