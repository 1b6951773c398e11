"""A draft is made of a sample of any format, says so, and proposes the types that the source has."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.errors import PipelineError
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.sampling import files, sample
from rempart.ingestion.sampling.survey import partition_period
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.drafts import folded


def load(text: str) -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(text))


def types(text: str) -> dict[str, str]:
    return {name: column.full_type for name, column in load(text).columns.items()}


def rows(count: int = 80) -> list[dict[str, Any]]:
    return [
        {
            "trip_id": i,
            "started": datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=i),
            "day": date(2025, 1, 1) + timedelta(days=i // 24),
            "fare": Decimal(i) / 4 + Decimal("0.25"),
            "km": i * 0.7,
            "zone": "0123" if i % 2 else "0456",
            "paid": i % 3 == 0,
            "stops": [1.5, float(i)],
            "tags": ["a", "b"],
            "remark": f"person {i}",
        }
        for i in range(count)
    ]


WANTED = {
    "trip_id": "integer",
    "started": "timestamp",
    "day": "date",
    "km": "number",
    "zone": "category",
    "paid": "boolean",
    "stops": "array(number)",
    "tags": "array(string)",
    "remark": "string",
}


def test_parquet_gives_its_own_types(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows())
    table = table.set_column(3, "fare", table["fare"].cast(pa.decimal128(10, 2)))
    pq.write_table(table, tmp_path / "trips.parquet")
    text = draft_pipeline(tmp_path / "trips.parquet")
    assert types(text) == WANTED | {"fare": "decimal(10,2)"}
    assert load(text).source.format == "parquet" and load(text).source.time_zone is None
    assert "Drafted from all 80 rows of trips.parquet" in text and "person" not in text.replace("personal", "")


def test_local_times_of_parquet_ask_for_their_zone(tmp_path: Path) -> None:
    table = pa.table({"at": pa.array([datetime(2025, 1, d) for d in range(1, 20)]), "km": list(range(19))})  # noqa: DTZ001
    pq.write_table(table, tmp_path / "x.parquet")
    assert '  time_zone: "UTC"    # CHECK' in folded(draft_pipeline(tmp_path / "x.parquet"))


@pytest.mark.parametrize("end", [".jsonl", ".ndjson.gz", ".jsonl.zst"])
def test_json_lines_plain_and_packed(tmp_path: Path, end: str) -> None:
    def plain(value: Any) -> Any:
        return float(value) if isinstance(value, Decimal) else value.isoformat()

    body = "".join(json.dumps(row, default=plain) + "\n" for row in rows()).encode()
    file = tmp_path / f"trips{end}"
    if end.endswith(".gz"):
        body = gzip.compress(body)
    if end.endswith(".zst"):
        with pa.CompressedOutputStream(str(file), "zstd") as stream:
            stream.write(body)
    else:
        file.write_bytes(body)
    text = draft_pipeline(file)
    assert types(text) == WANTED | {"fare": "number"}
    assert load(text).source.format == "jsonl"


def test_text_in_json_is_no_number_and_a_missing_field_is_null(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    lines = [
        {"day": f"2025-01-{d:02d}", "plz": f"0{d % 5}"} | ({"extra": d} if d % 2 else {}) | {"size": d * 0.5}
        for d in range(1, 29)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    pipeline = load(draft_pipeline(file))
    assert (pipeline.columns["plz"].type, pipeline.columns["extra"].nullable) == ("category", True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"day": "2025-01-01", "who": {"name": "Mustermann"}}', "'who' holds objects"),
        ('{"day": "2025-01-01", "who": [1, "Mustermann"]}', "mixed or nested"),
        ('{"Mustermann": 1}', "no column holds dates"),
        ("Mustermann", "no line is a JSON object"),
    ],
)
def test_json_that_no_column_can_hold_is_refused_without_quoting_it(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(PipelineError, match=says) as error:
        draft_pipeline(file)
    assert "Mustermann" not in f"{error.value.what} {error.value.hint}" and error.value.hint


@pytest.mark.parametrize("body", [b"", b"PAR1 and no more", b"a,b\n1,2\n"])
def test_a_file_that_is_not_parquet_says_so(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(body)
    with pytest.raises(PipelineError, match="not Parquet"):
        draft_pipeline(file)


def test_a_structure_in_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"day": [date(2025, 1, 1)], "who": [{"a": 1}]}), tmp_path / "x.parquet")
    with pytest.raises(PipelineError, match="can hold 'who', which is struct"):
        draft_pipeline(tmp_path / "x.parquet")


def test_long_numbers_and_arrays_in_csv(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(
        "day;amount;total;reading;tags;account\n"
        + "".join(f'2025-01-{d:02d};{d}123456789012345.27;{d}.5;{d}|2.5|3;["a", "b"];{d:020d}9\n' for d in range(1, 29))
    )
    assert types(draft_pipeline(file)) == {
        "day": "date",
        "amount": "decimal(22,2)",
        "total": "number",
        "reading": "array(number)",
        "tags": "array(string)",
        "account": "string",
    }
    assert load(draft_pipeline(file)).columns["reading"].separator == "|"


def test_a_large_file_is_sampled_and_the_draft_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_ROWS", 100)
    file = tmp_path / "x.csv"
    file.write_text("at,size\n" + "".join(f"2025-01-{i % 28 + 1:02d},{i * 0.5}\n" for i in range(5000)))
    text = draft_pipeline(file)
    assert text.startswith("# Drafted from a sample of 100 of about 5,000 rows of x.csv.")
    table = pa.table({"at": [date(2025, 1, 1 + i % 28) for i in range(5000)], "size": [i * 0.5 for i in range(5000)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=500)
    assert "a sample of 100 of about 5,000 rows" in draft_pipeline(tmp_path / "x.parquet")


def test_a_parquet_file_that_unpacks_to_much_more_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_MEMORY", 1 << 20)
    days, text = [date(2025, 1, 1 + i % 28) for i in range(5000)], pa.array(["x" * 2000] * 5000)
    pq.write_table(pa.table({"at": days, "size": [i * 0.5 for i in range(5000)], "text": text}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    assert "a sample of 576 of about 5,000 rows" in draft_pipeline(tmp_path / "x.parquet")


def test_dense_data_get_shorter_partitions(tmp_path: Path) -> None:
    assert [partition_period(n, timed=True) for n in (2_000_000, 3_000_000, 90_000_000)] == ["month", "day", "hour"]
    assert partition_period(90_000_000, timed=False) == "day"
    made = sample.Sample(
        "x.csv",
        pa.table({"at": [f"2025-01-{d:02d}" for d in range(1, 29)], "size": [str(d) for d in range(28)]}),
        sample.Dialect(),
        {"format": "csv"},
        10_000_000,
        whole=False,
    )
    text = draft_pipeline(made, "x")
    assert "partition_every: day    # there are about" in text and load(text).partition_every == "day"
