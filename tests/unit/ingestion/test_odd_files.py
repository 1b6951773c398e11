"""Odd files never end in a traceback, in a draft, at a delivery or at ingestion.

They end in an error with a remedy, in a refused row with its reason, or in a row whose values are those of the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import PipelineError, RempartError
from rempart.flows.ingestion import deliver, first_rows
from rempart.flows.training import try_pipeline
from rempart.flows.training.labelled import held_out_from
from rempart.ingestion import expectations
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.engine.deliveries import TakenIn, take_in
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.settings import plain_yaml
from rempart.settings.pipeline import ModelPipeline

NUMBERS = ["1e308", "-1e308", "1e400", "-0.0", "0", "nan", "-inf", "5e-324", "1.5", "1,5", "1.234,5", ".5", "1e3", "00"]
INTEGERS = [str(10**17 + 1), "-99999999999999999", str(10**18), str(2**63), str(-(2**64)), "9" * 39, "9" * 400, "007"]
TIMES = [
    "9999-12-31", "0001-01-01", "2101-01-01", "2262-04-12", "31.12.9999", "2024-02-30", "2024-01-01 25:00",
    "2300-01-01T00:00:00.123456Z", "9999-12-31T23:59:59-05:00", "0001-01-01 00:00", "2024-03-31 02:30",
]  # fmt: skip
TEXTS = [
    "", " ", "NA", "-", "null", "true", "[1]", "[1e999]", "[[", '["a"]', "a;b", "1|2", 'say "hi"', "a\nb", "a\r\nb",
    "\x00", "\x1b[2J", "\u2028", "\x0b", "=1+1", "é", "\U0001f3e8", "x" * 3_000,
]  # fmt: skip
NAMES = [
    "select", "order", "user", "null", "true", "on", "class", "date", "index", "key", "row", "own", "trend", "rows",
    "day_month", "event", "event_timestamp", "Group By", "a,b", 'a"b', "", " ", "ä", "1", "_line", "x" * 80, "select ",
]  # fmt: skip

cells = st.one_of(*(st.lists(st.sampled_from(some), min_size=1, max_size=4) for some in (NUMBERS, INTEGERS, TIMES)))
columns = st.one_of(cells, st.lists(st.sampled_from([*NUMBERS, *INTEGERS, *TIMES, *TEXTS]), min_size=1, max_size=6))


def drafted(file: Path) -> ModelPipeline | None:
    """Return the pipeline of a file's draft; None for an error with a remedy."""
    try:
        text = draft_pipeline(file)
    except PipelineError as error:
        assert error.hint
        return None
    return ModelPipeline.model_validate(plain_yaml.load(text))


def taken_in(pipeline: ModelPipeline, file: Path, folder: Path, *, rules: bool = False) -> TakenIn:
    """Deliver a file, and ingest it."""
    try:
        deliver.check(pipeline, [file])
    except RempartError as error:
        assert error.hint
    first_rows.judge(pipeline, [file], Limits())
    judge: Callable[[Any], Mapping[int, Sequence[str]]] = lambda table: {}  # noqa: E731
    if rules:
        judge = partial(expectations.broken, pipeline.expectations)
    out = folder / "out"
    out.mkdir()
    lenient = pipeline.model_copy(update={"max_quarantined": 1.0})
    return take_in([file], [], lenient, out, Resources(100 << 20, 1, folder / "spill"), Limits(), judge)


def meaning(cell: str, kind: str, pipeline: ModelPipeline) -> object:
    """Return what the text of a cell means by the type of its column, written without regard to the library."""
    if cell in pipeline.source.null_values:
        return None
    plain = cell.replace(pipeline.source.thousands, "") if pipeline.source.thousands else cell
    plain = plain.replace(pipeline.source.decimal, ".")
    if kind == "date":
        form = pipeline.source.dates.replace("YYYY", "%Y").replace("MM", "M").replace("DD", "D")
        return datetime.strptime(cell, form.replace("M", "%m").replace("D", "%d")).date()  # noqa: DTZ007 - a date
    return {
        "integer": lambda: int(plain),
        "number": lambda: float(plain),
        "decimal": lambda: Decimal(plain),
        "boolean": lambda: cell.lower() == "true",
    }.get(kind, lambda: cell)()


def check_rows(pipeline: ModelPipeline, found: TakenIn, rows: Mapping[str, Sequence[str]]) -> None:
    """Compare accepted rows with the file, whose columns are in the schema's order; each other row has a reason."""
    names = list(pipeline.columns)
    (delivery,) = found.deliveries
    if delivery.fault:
        return
    assert delivery.delivered == len(rows) and all(row.reasons for row in delivery.refused)
    accepted = [row for part in found.parts for row in pq.read_table(part.file).to_pylist()]
    assert len(accepted) + len(delivery.refused) == len(rows)
    for row in accepted:
        for name, cell in zip(names, rows[row["row_id"]], strict=True):
            kind = pipeline.columns[name].type
            if kind in ("array", "timestamp"):
                continue
            wanted = meaning(cell, kind, pipeline)
            assert row[name] == wanted, (name, kind)
            if isinstance(wanted, float):
                assert math.copysign(1, row[name]) == math.copysign(1, wanted)


def written(header: Sequence[str], rows: Sequence[Sequence[str]], ends: Sequence[str]) -> bytes:
    """Return a CSV file whose lines end in turn as told."""
    text = io.StringIO()
    for number, row in enumerate([header, *rows]):
        end = ends[number % len(ends)]
        within = any("\n" in cell or "\r" in cell for cell in row)
        csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL if within else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue().encode()


@settings(max_examples=10)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), columns), min_size=1, max_size=4, unique_by=lambda pair: pair[0]),
    st.integers(1, 40),
    st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1, max_size=3),
    st.sampled_from(TIMES),
)
def test_odd_cells_are_refused_or_taken_over_as_they_are(
    given_columns: list[tuple[str, list[str]]], count: int, ends: list[str], odd_day: str
) -> None:
    header = ["row_id", "day", "kwh", *(name for name, _ in given_columns)]
    rows = {}
    for n in range(count):
        day = odd_day if n == count - 1 else f"2024-{n % 12 + 1:02d}-{n % 28 + 1:02d}"
        rows[f"r{n:03d}"] = [f"r{n:03d}", day, f"{n}.5", *(some[n % len(some)] for _, some in given_columns)]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "odd.csv")
        file.write_bytes(written(header, list(rows.values()), ends))
        if pipeline := drafted(file):
            check_rows(pipeline, taken_in(pipeline, file, Path(name)), rows)


def test_odd_cells_go_through_all_rules_and_the_features(tmp_path: Path) -> None:
    most = max(len(NUMBERS), len(INTEGERS), len(TIMES))
    rows = {}
    for n in range(40 * most):
        odd = n < most
        rows[f"r{n:03d}"] = [
            f"r{n:03d}",
            TIMES[n % 4] if odd and n % 3 == 0 else f"{2022 + n % 3}-{n % 12 + 1:02d}-{n % 28 + 1:02d}",
            NUMBERS[n % (len(NUMBERS) - 1)] if odd else f"{n % 50}.5",
            INTEGERS[n % 2] if odd else str(10**17 + n),
            TIMES[n % len(TIMES)] if odd else f"{2021 + n % 3}-01-01",
            "1e308" if odd else "",
            "a" if n % 2 else "b",
            f"{n % 90}.5",
        ]
    file = tmp_path / "odd.csv"
    file.write_bytes(written(["row_id", "day", "x", "big", "seen", "rare", "kind", "kwh"], list(rows.values()), ["\n"]))
    pipeline = drafted(file)
    assert pipeline and pipeline.columns["big"].type == "integer" and pipeline.columns["x"].type == "number"
    found = taken_in(pipeline, file, tmp_path, rules=True)
    check_rows(pipeline, found, rows)
    assert found.accepted > len(rows) / 2
    lenient = pipeline.model_copy(update={"max_quarantined": 1.0})
    tried = try_pipeline.try_pipeline(lenient, [file], lambda stage, told: None, page=tmp_path / "page.html")
    assert tried.training_rows and (tried.baseline or tried.open)
    assert held_out_from(pipeline, date(1, 1, 1)) == date(1, 1, 1)


KWH = "day,kwh\n" + "".join(f"2025-01-{day:02d},{day}.5\n" for day in range(1, 29))
FILES = {
    "nothing": b"",
    "blank lines alone": b"\n\r\n\r\n",
    "a header alone": b"day,kwh\n",
    "a header without its line end": b"day,kwh",
    "one column": b"day\n2025-01-01\n",
    "columns that are always empty": b"day,kwh,a,b\n" + b"2025-01-01,1.5,,\n" * 9,
    "only empty cells": b"a,b\n,\n,\n",
    "two columns of one name": b"day,kwh,kwh\n2025-01-01,1,2\n",
    "UTF-16 with a mark": KWH.encode("utf-16"),
    "UTF-16, the other order": b"\xfe\xff" + KWH.encode("utf-16-be"),
    "UTF-16 without a mark": KWH.encode("utf-16-le"),
    "a mark of UTF-8": b"\xef\xbb\xbf" + KWH.encode(),
    "a mark of UTF-8, and no UTF-8": b"\xef\xbb\xbf" + KWH.encode() + b"2025-02-01,\xff\n",
    "NUL in the header": KWH.replace("kwh", "k\x00wh").encode(),
    "NUL in a closed list": b"day,kwh,kind\n" + b"2025-01-01,1.5,a\x00\n2025-01-02,2.5,b\n" * 9,
    "2,000 columns": b",".join([b"day", *(b"c%d" % i for i in range(1_999))]) + b"\n2025-01-01" + b",1" * 1_999 + b"\n",
    "2,001 columns": b",".join([b"day", *(b"c%d" % i for i in range(2_000))]) + b"\n2025-01-01" + b",1" * 2_000 + b"\n",
    "a cell of 10 MB": KWH.encode() + b"2025-02-01," + b"9" * 10_000_000 + b"\n",
    "a first cell of 10 MB": b"day,kwh\n2025-02-01," + b"9" * 10_000_000 + b"\n",
    "a name of 10 MB": b"day," + b"k" * 10_000_000 + b"\n2025-01-01,1\n",
    "a quoted cell of 200 kB in the first row": b'day,kwh,note\n2025-01-01,1,"' + b"n" * 200_000 + b'"\n',
    "carriage returns alone": KWH.replace("\n", "\r").encode(),
    "9 MB of carriage returns": KWH.replace("\n", "\r").encode() + b"2025-01-01,1\r" * 700_000,
    "mixed line ends": KWH.encode() + b"2025-02-01,1\r2025-02-02,2\r\n\n\r2025-02-03,3",
    "a stray quote": KWH.encode() + b'2025-02-01,"1\n' * 3,
    "only impossible times": b"at,kwh\n" + b"2024-01-01 25:00,1.5\n2024-01-02 26:00,2.5\n" * 9,
    "only the last day": b"day,kwh\n" + b"9999-12-31,1.5\n9999-12-31,2.5\n" * 9,
    "only the first day": b"day,kwh\n" + b"0001-01-01,1.5\n0001-01-01,2.5\n" * 9,
    "only the largest numbers": b"day,kwh\n" + b"2025-01-01,1.7e308\n2025-01-02,-1.7e308\n" * 30,
    "only the smallest numbers": b"day,kwh\n" + b"2025-01-01,5e-324\n2025-01-02,1e-323\n" * 30,
}


@cache
def ordinary() -> ModelPipeline:
    """Return the pipeline of an ordinary file, to which odd files are delivered."""
    with tempfile.TemporaryDirectory() as name:
        (file := Path(name, "kwh.csv")).write_text(KWH)
        pipeline = drafted(file)
    assert pipeline
    return pipeline


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_is_drafted_or_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    file = tmp_path / "odd.csv"
    file.write_bytes(FILES[name])
    pipeline = drafted(file)
    if pipeline and len(pipeline.columns) < 100:
        taken_in(pipeline, file, tmp_path)
    (tmp_path / "other").mkdir()
    if name != "9 MB of carriage returns":  # 700,000 good rows
        taken_in(ordinary(), file, tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("UTF-16 with a mark", "UTF-16 text, not CSV; save it as UTF-8: `iconv"),
        ("UTF-16, the other order", "UTF-16 text, not CSV"),
        ("UTF-16 without a mark", "it may be UTF-16, and has to be UTF-8"),
        ("9 MB of carriage returns", "there is no line feed in its first 1 MiB"),
        ("a name of 10 MB", "there is no line feed in its first 1 MiB"),
        ("blank lines alone", "the file is empty"),
        ("only impossible times", "no cell of column 'at' holds a time that exists"),
    ],
)
def test_the_cause_is_told(tmp_path: Path, name: str, says: str) -> None:
    file = tmp_path / "odd.csv"
    file.write_bytes(FILES[name])
    with pytest.raises(PipelineError, match=says):
        draft_pipeline(file)


def table(**odd: pa.Array) -> pa.Table:
    days = pa.array([date(2025, 1, day) for day in range(1, 21)])
    return pa.table({"day": days, "kwh": pa.array([day + 0.5 for day in range(20)]), **odd})


def repeated(value: Any, kind: pa.DataType) -> pa.Array:
    return pa.array([value] * 20, kind)


TABLES = {
    "nanoseconds after 2100": table(at=repeated(datetime(2261, 1, 1, tzinfo=UTC), pa.timestamp("ns", "UTC"))),
    "seconds beyond the calendar": table(at=repeated(10**15, pa.int64()).cast(pa.timestamp("s"))),
    "days beyond the calendar": table(on=repeated(10**7, pa.int32()).cast(pa.date32())),
    "days before the calendar": table(on=repeated(-(10**6), pa.int32()).cast(pa.date32())),
    "unsigned beyond 2^63": table(big=repeated(2**64 - 1, pa.uint64())),
    "half precision": table(half=pa.array(np.full(20, 65504, np.float16))),
    "NaN and infinity": table(x=pa.array([math.nan, math.inf] * 10)),
    "decimals of 76 digits": table(d=repeated(Decimal(1), pa.decimal256(76, 0))),
    "texts that are no UTF-8": table(t=pa.array([b"\xff"] * 20, pa.binary()).view(pa.string())),
    "nothing but nulls": table(n=pa.nulls(20)),
    "no column": pa.table({"a": [1]}).drop_columns(["a"]),
    "no row": table().slice(0, 0),
    "a list of nothing": table(a=repeated([], pa.list_(pa.float64()))),
    "bytes": table(b=repeated(b"x", pa.binary())),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_an_odd_parquet_file_is_drafted_or_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    file = tmp_path / "odd.parquet"
    pq.write_table(TABLES[name], file)
    if pipeline := drafted(file):
        (delivery,) = taken_in(pipeline, file, tmp_path).deliveries
        assert delivery.fault or delivery.delivered == 20


LINES = {
    "half a character": b'"\\ud800"',
    "a number of 5,000 digits": b"1" * 5_000,
    "deep lists": b"[" * 5_000 + b"]" * 5_000,
    "an object": b'{"a": 1}',
    "no UTF-8": b'"\xff"',
    "infinity": b"Infinity",
    "a list of NaN": b"[NaN]",
    "beyond a float": b"1e400",
    "NUL": b'"\\u0000"',
}


@pytest.mark.parametrize("name", LINES)
def test_odd_json_lines_are_drafted_or_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({"day": f"2025-01-{n:02d}", "kwh": n + 0.5, "odd": n}).encode() for n in range(1, 21)]
    for places in ([*range(20)], [0]):
        file = tmp_path / f"odd{len(places)}.jsonl"
        odd = b'{"day": "2025-01-01", "kwh": 1.5, "odd": %s}' % LINES[name]
        file.write_bytes(b"\n".join(odd if n in places else line for n, line in enumerate(lines)))
        (folder := tmp_path / str(len(places))).mkdir()
        if pipeline := drafted(file):
            (delivery,) = taken_in(pipeline, file, folder).deliveries
            assert delivery.fault or delivery.delivered == 20
    file.write_bytes(b"\n".join(lines).decode().encode("utf-16"))
    with pytest.raises(PipelineError, match="UTF-16 text, not JSON Lines"):
        draft_pipeline(file)
