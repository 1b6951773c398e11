"""A7: a file that would fill the memory is refused as a whole within a limit, and the other files are ingested.

All thirty files: `python -m bench.hostile_files`.
"""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import hostile_files
from rempart.flows.ingestion import ingest_run
from rempart.ingestion import isolated, reading, reading_process
from rempart.ingestion.engine import parquet_rows
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.expectations import broken, faults
from rempart.ingestion.refused import RefusedRows
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.columns import Column
from rempart.settings.pipeline import Expectation, Pipeline
from rempart.settings.sources import FilesSource

LIMITS = Limits(rows=1 << 29, lines=1 << 29, block=ingest_run.BLOCK)


def pipeline(form: str = "csv") -> Pipeline:
    source = {"prefix": "x/", "format": form}
    return Pipeline.model_construct(
        schema_={name: Column(type="string", known="read") for name in "ab"},
        key=["a"],
        moments={},
        partition_by="b",
        source=FilesSource.model_validate(source),
    )


@dataclass
class ReadFile:
    """A delivery that was read, and its rows."""

    delivery: StagedDelivery
    cells: list[list[str]]
    lines: list[int]

    @property
    def fault(self) -> str:
        return self.delivery.fault or ""


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[..., ReadFile]]:
    def run(body: bytes, name: str = "x.csv", form: str = "csv") -> ReadFile:
        (tmp_path / "file").write_bytes(body)
        delivery = isolated.stage(tmp_path / "file", name, pipeline(form), LIMITS, tmp_path / "out")
        if delivery.fault:
            return ReadFile(delivery, [], [])
        table = pq.read_table(tmp_path / "out")
        return ReadFile(
            delivery,
            [list(row) for row in zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True)],
            table[reading.LINE].to_pylist(),
        )

    yield run
    isolated.end()


@pytest.mark.parametrize("name", ["100,000 columns", pytest.param("a NUL in each row", marks=pytest.mark.full)])
def test_a7_a_hostile_file_stays_below_the_ceiling_and_the_others_go_on(name: str) -> None:
    found = hostile_files.apart(name)
    assert found["outcome"] == "refused"
    assert found["others_went_on"]
    assert found["peak"] <= hostile_files.CEILING


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"PAR1" + b"a,b\n1,2\n" * 50_953, "Parquet, not CSV"),
        (b"PK\x03\x04...", "a ZIP archive"),
        (hostile_files.packed([hostile_files.packed([b"a,b\n1,2\n"])]), "packed with gzip twice"),
        (hostile_files.packed([b"a,b\n", (b"x" * 100 + b",2\n") * 400_000]), "unpacks to more than 200 times its size"),
        (b"a,b\n" + b"x" * (reading.MAX_TEXT + 1), "a line has more than"),
        (b",".join([b"c"] * 100_000) + b"\n", "more than 2000 columns"),
        (b"a,b\n" + b"1\n" * (reading.MAX_REFUSED + 1), "rows have a fault, such as: too few fields"),
    ],
)
def test_a7_a_file_beyond_a_limit_is_one_refused_file_with_its_reason(
    read: Callable[..., ReadFile], body: bytes, fault: str
) -> None:
    found = read(body)
    assert fault in found.fault
    assert found.delivery.delivered == 0


def parquet(table: pa.Table, **more: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **more)
    return bytes(sink.getvalue())


TEXTS = {name: Column(type="string", known="m") for name in ("a", "b")}


def test_the_values_of_a_parquet_file_count_as_its_size_unpacked(tmp_path: Path) -> None:
    body = parquet(pa.table({"a": ["x" * 1000] * 2000, "b": ["y"] * 2000}))
    assert len(body) < 1 << 16
    (tmp_path / "file").write_bytes(body)
    with pytest.raises(Unreadable, match="larger than 1 MiB unpacked"):
        list(parquet_rows.read(tmp_path / "file", TEXTS, FilesSource(prefix="x/"), Limits(bytes=1 << 20)))


@pytest.mark.parametrize("announced", [1, 20])
def test_a_parquet_file_that_holds_another_number_of_rows_than_it_announces_is_refused(
    tmp_path: Path, announced: int
) -> None:
    body, footer = parquet(pa.table({"a": ["x"] * 3, "b": ["y"] * 3})), b"\x16%c\x19\x1c"  # Thrift: an i64, then a list
    assert body.count(footer % 6) == 1  # the number of rows, doubled
    (tmp_path / "file").write_bytes(body.replace(footer % 6, footer % (2 * announced)))
    with pytest.raises(Unreadable, match=f"announces {announced} rows and holds 3"):
        list(parquet_rows.read(tmp_path / "file", TEXTS, FilesSource(prefix="x/"), Limits()))


def one_long_text(rows: int) -> bytes:
    """A small Parquet file whose rows all name one text of 8 MiB in its dictionary."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * (8 << 20)]))
    return parquet(pa.table({"a": text, "b": text}), store_schema=False)


@pytest.mark.parametrize(
    ("form", "name", "body", "fault"),
    [
        ("parquet", "x.parquet", one_long_text(10_000), "the memory to read the file exceeds"),
        ("parquet", "x.parquet", parquet(pa.table({"a": [[1]], "b": ["x"]})), "column 'a' holds lists"),
        ("parquet", "x.parquet", b"PAR1" + b"\xff" * 5000 + b"PAR1", "not Parquet, or it is damaged"),
        ("parquet", "x.parquet", parquet(pa.table({f"c{i}": [1] for i in range(3000)})), "missing columns: a, b"),
        ("jsonl", "x.jsonl", b'{"a": "' + b"x" * (reading.MAX_TEXT + 1) + b'"}\n', "a line has more than"),
        ("jsonl", "x.jsonl", b"[" * 900_000 + b"\n" + b"{}\n" * (reading.MAX_REFUSED + 1), "rows have a fault"),
        ("jsonl", "x.jsonl", b'{"a": "1", "b": "2", "c": 1}\n' * (reading.MAX_REFUSED + 1), "rows have a fault"),
    ],
    ids=range(7),
)
def test_a7_hostile_parquet_and_json_are_refused_as_a_whole_and_the_next_file_is_read(
    read: Callable[..., ReadFile], form: str, name: str, body: bytes, fault: str
) -> None:
    found = read(body, name, form)
    assert fault in found.fault
    assert found.delivery.delivered == 0
    assert read(b"a,b\n1,2\n").cells == [["1", "2"]]


def test_a7_the_reader_may_die_and_the_next_file_gets_a_new_one(
    read: Callable[..., ReadFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = isolated.idle()
    assert read(b"a,b\n1,2\n").cells == [["1", "2"]]
    isolated._running().process.kill()
    isolated._running().process.wait()
    assert read(b"a,b\n3,4\n").cells == [["3", "4"]]
    assert isolated.idle() != first
    monkeypatch.setattr(isolated, "SECONDS", 0.0)
    assert "the time to read the file exceeds" in read(b"a,b\n" + b"5,6\n" * 100_000).fault
    monkeypatch.undo()
    assert read(b"a,b\n7,8\n").cells == [["7", "8"]]


def test_the_reader_survives_an_error_of_any_kind_and_writes_no_value_of_a_file(
    read: Callable[..., ReadFile], tmp_path: Path
) -> None:
    pid = isolated.idle()
    (tmp_path / "file").write_bytes(b"")
    assert isolated._ask({"do": "canary"}, tmp_path / "file") == {"fault": "the file cannot be read (KeyError)"}
    assert read(b"a,b\n1,2\n").cells == [["1", "2"]] and isolated.idle() == pid
    assert Path(f"/proc/{pid}/fd/2").readlink() == Path("/dev/null")


def test_a7_the_reader_has_a_memory_limit_and_no_secret(
    read: Callable[..., ReadFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PG_LEDGER", "postgresql://u:canary-secret@h/x")
    isolated.end()
    pid = isolated.idle()
    assert read(b"a,b\n1,2\n").delivery.good == 1  # it has set its limit by now
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (data,) = [line for line in limits if line.startswith("Max data size")]
    assert int(data.split()[3]) < (1 << 30) + reading_process.MEMORY
    assert b"canary-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_module_that_somebody_left_in_the_folder_for_temporary_files_is_never_imported(
    read: Callable[..., ReadFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every local user may write there."""
    for module in ("csv", "grp", "gzip", "json"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    isolated.end()
    assert read(b"a,b\n1,2\n").delivery.good == 1
    assert not (tmp_path / "imported").exists()


def test_a7_a_row_on_the_edge_of_a_batch_is_read_once(read: Callable[..., ReadFile]) -> None:
    found = read(b"a,b\n" + b"".join(b"%d,x\n" % i for i in range(12_001)))
    assert [row[0] for row in found.cells] == [str(i) for i in range(12_001)]
    assert found.lines == list(range(2, 12_003))


def test_a7_refused_rows_stay_in_a_table_and_are_made_when_they_are_asked_for() -> None:
    count = 50_000
    RefusedRows.of([reading.RefusedRow(1, ("why",), "x")])  # everything is imported
    tracemalloc.start()
    found = RefusedRows.of(reading.RefusedRow(i, ("why", "more"), f"row {i}") for i in range(count))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1 << 20
    assert [(row.line, row.raw) for row in found] == [(i, f"row {i}") for i in range(count)]
    assert len(found) == count and found[0].reasons == ("why", "more")


def expectation(**arguments: Any) -> Expectation:
    return Expectation.model_validate({"reason": "no", "column": "s", **arguments})


def test_a7_a_pattern_takes_time_in_proportion_to_the_text() -> None:
    evil = expectation(expect="expect_column_values_to_match_regex", regex="^(a+)+$")
    began = time.monotonic()
    assert broken([evil], pa.table({"s": ["a" * 50_000 + "!", "aaa", None]})) == {0: ["no"]}
    assert time.monotonic() - began < 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expect": "expect_column_values_to_match_regex", "regex": "(?=a)b"}, "is not valid"),
        ({"expect": "expect_column_values_to_match_regex", "regex": r"(a)\1"}, "is not valid"),
        ({"expect": "expect_column_values_to_match_regex", "regex": "a" * 1001}, "more than 1000 characters"),
        ({"expect": "expect_column_values_to_match_regex"}, "needs `regex`"),
        ({"expect": "expect_column_values_to_match_regex", "regex": "a", "flags": 2}, "'flags' is not an argument"),
        (
            {
                "expect": "expect_column_values_to_match_json_schema",
                "json_schema": {"properties": {"x": {"pattern": "a"}}},
            },
            "'pattern' is not allowed",
        ),
    ],
)
def test_a7_a_pattern_without_a_bound_is_refused_at_check_time(arguments: dict[str, Any], message: str) -> None:
    (error,) = faults({0: expectation(**arguments)})
    assert re.search(message, error.what)
