"""The engine reads a CSV delivery exactly as `rempart.ingestion.reading` does: the oracle."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rempart.ingestion import reading
from rempart.ingestion.engine import csv_rows
from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Source

COLUMNS = ["a", "b"]
LIMITS = Limits()

Found = tuple[list[tuple[int, str, tuple[str, ...]]], list[reading.RefusedRow]] | str


def by_engine(body: bytes, source: Source, columns: Sequence[str], limits: Limits = LIMITS) -> Found:
    rows, refused = [], []
    try:
        for batch in csv_rows.read(io.BytesIO(body), len(body), source, columns, limits):
            refused += batch.refused
            cells = zip(*(batch.table[name].to_pylist() for name in columns), strict=True)
            rows += list(zip(batch.table[LINE].to_pylist(), batch.table[RAW].to_pylist(), cells, strict=True))
    except Unreadable as fault:
        return str(fault)
    return sorted(rows), refused


def by_oracle(body: bytes, source: Source, columns: Sequence[str]) -> Found:
    found = reading.read("x.csv", body, source, columns)
    if found.fault is not None:
        return found.fault
    cells = [tuple(row) for row in found.cells]
    return list(zip(found.lines, found.raw, cells, strict=True)), list(found.refused)


def piece(delimiter: str) -> st.SearchStrategy[str]:
    return st.sampled_from(
        [
            delimiter,
            delimiter,
            '"',
            '""',
            "\n",
            "\n",
            "\r\n",
            "\r",
            "\n\n",
            "a",
            "xy",
            " ",
            "\x00",
            "é",
            "\u2028",
            "\ufeff",
            "'",
            "\\",
            "\x0b",
            "\x85",
            f'"u{delimiter}"',
            '"m\n"',
            f'p"q{delimiter}',
            f"1{delimiter}2\n",
        ]
    )


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, Source]:
    """Hostile text behind a mostly right header."""
    delimiter = draw(st.sampled_from([",", ",", ";", "\t", "|", " ", "^", "]", "-", "\\", "§"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "latin-1", "cp1252"]))
    header = draw(
        st.sampled_from(
            [
                *(f"a{delimiter}b", f"b{delimiter}a", f'"a"{delimiter}b', f"a{delimiter}a", "", "a"),
                *(f'"A,\n""1"""{delimiter}b', f"É{delimiter}b", f"b{delimiter}É"),
            ]
        )
    )
    names = draw(st.sampled_from([{}, {}, {"a": "b", "b": "a"}, {'A,\n"1"': "a"}, {"É": "a"}, {"": "b"}]))
    start = (
        draw(st.sampled_from(["", "", "", "\ufeff", "\n\r\n"])) + header + draw(st.sampled_from(["\n", "\r\n", "\r"]))
    )
    text = start + "".join(draw(st.lists(piece(delimiter), max_size=60)))
    body = text.encode(encoding, errors="ignore")
    if draw(st.integers(0, 30)) == 0:
        body += b"\xff\x81"
    return body, Source(prefix="x/", delimiter=delimiter, encoding=encoding, header=names)


@settings(max_examples=300, deadline=None)
@given(files())
@example((b'a,b\n"1,2\n3,4\n', Source(prefix="x/")))
@example((b'a,b\n"1\r\n",2\r3,4', Source(prefix="x/")))
def test_the_same_rows_refusals_and_reasons_as_the_oracle(file: tuple[bytes, Source]) -> None:
    body, source = file
    assert by_engine(body, source, COLUMNS) == by_oracle(body, source, COLUMNS)


@settings(max_examples=150, deadline=None)
@given(files(), st.integers(1, 40))
def test_the_size_of_blocks_makes_no_difference(file: tuple[bytes, Source], size: int) -> None:
    body, source = file
    found, want = by_engine(body, source, COLUMNS, replace(LIMITS, block=size)), by_oracle(body, source, COLUMNS)
    if isinstance(found, str):  # a file with two faults is refused for the first that is met
        assert isinstance(want, str)
        return
    assert found == want


@settings(max_examples=100, deadline=None)
@given(files())
def test_one_column(file: tuple[bytes, Source]) -> None:
    body = b"a\n" + file[0]
    assert by_engine(body, file[1], ["a"]) == by_oracle(body, file[1], ["a"])


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"a,b\n1,2\n" * 3, mtime=0),
        b"a,b\n" + b"x" * 200_000 + b",2\n",
        b'a,b\n"' + b"x" * 200_000 + b'",2\n3,4\n',
        b"a,b\n" + b"x" * 200_000 + b',"2"\n3,4\n',
        b"a,b\n" + b"x" * (reading.MAX_TEXT - 3) + b",2\n",
        b"a,b\n" + b"x" * (reading.MAX_TEXT - 2) + b",2\n",
        b"a,b\n" + b"x" * (5 << 20) + b",2\n",
        b"a,b\n" + "é".encode() * (reading.MAX_TEXT - 3) + b",2\n",
        b'a,b\n"1,2\n' + b"3,4\n" * 3000,
        b'a,b\n"' + b"\n" * 998 + b'",2\n' + b"3,4\n",
        b'a,b\n"' + b"\n" * 1001 + b'",2\n' + b"3,4\n",
        b'a,b\n"' + (b"x" * 100_000 + b"\n") * 20 + b'",2\n' + b"3,4\n",
        b"a,b\n" + b"," * 1999 + b"\n" + b"," * 2001 + b'\n"",' + b"," * 2001 + b"\n",
        b"," * 2000 + b"\n1,2\n",
        b"a,b\n" + b"1\n" * 60_001,
        b"a,b\n" + b'"1\n' * 5000,
        b"a,b\n",
        b"",
        b"\n\n",
    ],
    ids=range(19),
)
@pytest.mark.parametrize("block", [1 << 16, 8 << 20])
def test_large_files(body: bytes, block: int) -> None:
    source = Source(prefix="x/")
    found, want = by_engine(body, source, COLUMNS, replace(LIMITS, block=block)), by_oracle(body, source, COLUMNS)
    assert found == want
