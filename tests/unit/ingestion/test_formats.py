"""CSV, JSON Lines and Parquet, plain or packed: the same rows give the same snapshot and the same reasons."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.flows.ingestion.ingest import IngestResult, ingest
from rempart.flows.ingestion.reingest import take_in
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing
from rempart.ingestion.content import parquet_cut
from rempart.settings.pipeline import Pipeline
from tests import quarantined
from tests.unit.ingestion.conftest import HEADER
from tests.unit.ingestion.test_reingest import allowing

ROWS: list[dict[str, Any]] = [
    {"meter": "m1", "day": "2026-01-01", "kwh": 1.5, "people": 2, "tariff": "base", "note": None},
    {"meter": "m2", "day": "2026-01-01", "kwh": 900.0, "people": None, "tariff": "night", "note": 'é,"'},
    {"meter": "m3", "day": "2026-02-01", "kwh": 2.25, "people": 1, "tariff": "no", "note": "x"},
    {"meter": "m1", "day": "2026-01-01", "kwh": 1.5, "people": 2, "tariff": "base", "note": None},
    {"meter": "m4", "day": "2026-02-01", "kwh": 0.5, "people": 7, "tariff": "base", "note": "y"},
]


def text(form: str) -> bytes:
    if form == "csv":
        cells = [["" if value is None else str(value) for value in row.values()] for row in ROWS]
        quoted = [['"' + c.replace('"', '""') + '"' if '"' in c else c for c in row] for row in cells]
        return (HEADER + "".join(",".join(row) + "\n" for row in quoted)).encode()
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    sink = pa.BufferOutputStream()
    rows = [{**row, "day": date.fromisoformat(row["day"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def packed(body: bytes, packing: str) -> bytes:
    if packing == ".zst":
        return bytes(pa.compress(body, codec="zstd", asbytes=True))
    return gzip.compress(body) if packing == ".gz" else body


def of_format(readings: Pipeline, form: str) -> Pipeline:
    return readings.model_copy(update={"source": readings.source.model_copy(update={"format": form})})


def taken_in(platform: Platform, pipeline: Pipeline, name: str, body: bytes) -> IngestResult:
    platform.sites["primary"].write("landing", f"readings/{name}", body)
    return ingest(platform, pipeline)


def in_quarantine(platform: Platform) -> dict[int, str]:
    site = platform.sites["primary"]
    (found,) = deliveries.outcomes(site, "lake", "readings")
    key = landing.quarantine_key("readings", found["sha256"], deliveries.attempt(found))
    return {row.line: row.reasons[0] for row in quarantined.rows_of(site.read("lake", key))}


def test_every_format_gives_the_same_snapshot_and_the_same_reasons(
    make_platform: Callable[[], Platform], readings: Pipeline
) -> None:
    found = set()
    for form, packing in [
        ("csv", ""),
        ("tsv", ".zst"),
        ("jsonl", ""),
        ("jsonl", ".gz"),
        ("jsonl", ".zst"),
        ("parquet", ""),
    ]:
        ending, form = form, "csv" if form == "tsv" else form
        platform, spec = make_platform(), of_format(readings, form)
        result = taken_in(platform, spec, f"a.{ending}{packing}", packed(text(form), packing))
        first = 1 if form != "csv" else 2  # a CSV file has a header
        reasons = in_quarantine(platform)
        assert reasons == {
            first + 1: "kwh out of range",
            first + 2: "tariff: not among the declared values",
            first + 3: "duplicate of an accepted row",
        }, form
        found.add((result.snapshot, result.accepted, result.quarantined))
        # a corrected rule takes in the row that was good, on its own line
        again = take_in(platform, allowing(spec, 1000), next(iter(_sha256(platform))))
        assert (again.total_rows, sorted(in_quarantine(platform))) == (3, [first + 2, first + 3]), form
        found.add(again.snapshot)
    assert len(found) == 2


def _sha256(platform: Platform) -> list[str]:
    return [found["sha256"] for found in deliveries.outcomes(platform.sites["primary"], "lake", "readings")]


@pytest.mark.parametrize(
    ("form", "name", "body", "fault"),
    [
        (
            "csv",
            "a.jsonl",
            text("jsonl"),
            "the file's name ends in none of .csv, .tsv and .txt, plain or with .gz or .zst",
        ),
        ("jsonl", "a.csv", text("csv"), "the file's name ends in none of .jsonl"),
        ("parquet", "a.parquet.gz", gzip.compress(text("parquet")), "the file's name does not end in .parquet"),
        ("parquet", "a.parquet", text("csv"), "the file is not Parquet"),
        ("parquet", "a.parquet", text("parquet")[:-20], "the file is not Parquet, or it is damaged"),
        ("jsonl", "a.jsonl", text("parquet"), "the file is Parquet, not JSON Lines"),
        ("jsonl", "a.jsonl.zst", packed(text("jsonl") * 9, ".zst")[:-9], "the zstd file is damaged or truncated"),
        ("jsonl", "a.jsonl.zst", packed(b"\n" * (64 << 20), ".zst"), "unpacks to more than 200 times its size"),
        ("jsonl", "a.jsonl", b"", "the file is empty"),
        ("jsonl", "a.jsonl", b"{" * 70_000 + b"\n", "has no rows"),
    ],
)
def test_a7_a_file_of_another_format_is_refused_as_a_whole(
    platform: Platform, readings: Pipeline, form: str, name: str, body: bytes, fault: str
) -> None:
    result = taken_in(platform, of_format(readings, form), name, body)
    if fault == "has no rows":  # a line nested too deeply is one faulty row
        assert (result.quarantined, result.accepted) == (1, 0)
        return
    assert fault in result.unreadable[0] if result.unreadable else fault == "the file is empty"
    assert result.accepted == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 12), max_size=6), st.lists(st.integers(1, 12), max_size=6))
def test_rows_of_a_parquet_delivery_keep_their_numbers_when_others_are_cut(
    rows: int, first: list[int], then: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        before, middle, after = (Path(place) / name for name in ("a", "b", "c"))
        pq.write_table(pa.table({"k": pa.array(range(1, rows + 1), pa.int64())}), before)
        parquet_cut.write_without(before, set(first), middle)
        parquet_cut.write_without(middle, set(then), after)
        parquet_cut.write_keys(after, {"k": "k"}, before)
        found = pq.read_table(before)
        left = [number for number in range(1, rows + 1) if number not in {*first, *then}]
        assert found["k"].to_pylist() == left
        assert (
            found["_line"].to_pylist()
            == left
            == parquet_cut.numbers(1, len(left), parquet_cut.removed_from(after)).to_pylist()
        )
