"""Files whose header spells columns in another way: `source.header` maps its names, and the files stay as they came."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from rempart.errors import PipelineError
from rempart.flows.ingestion import deliver
from rempart.flows.ingestion.deliver import file_fault
from rempart.flows.ingestion.rejudge import rejudge
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, erasing, landing
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.engine import csv_rows, json_rows
from rempart.ingestion.engine.deliveries import rows_of
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.reading import read
from rempart.ingestion.sources import csv_deliveries
from rempart.ingestion.unpacking import Unreadable, distinct_names
from rempart.settings.pipeline import ModelPipeline, Pipeline, Source
from tests.http_service import serving
from tests.unit.ingestion.conftest import READINGS
from tests.unit.ingestion.sources import test_web
from tests.unit.ingestion.test_formats import ROWS, in_quarantine, taken_in, text
from tests.unit.ingestion.test_reingest import allowing

NAMES = {"Zähler-Nr.": "meter", "Day, read": "day", "kWh": "kwh", "": "people", "tariff": "note", "note": "tariff"}
"""A dot, a delimiter, capitals, no name, and two columns that changed their names."""
GIVEN = {column: name for name, column in NAMES.items()}


def declared(form: str, names: Mapping[str, str] = NAMES, **source: Any) -> ModelPipeline:
    content = yaml.safe_load(READINGS)
    content["source"] |= {"format": form, "header": dict(names), **source}
    return ModelPipeline.model_validate(content)


def renamed(form: str, given: Mapping[str, str] = GIVEN) -> bytes:
    """The rows of `test_formats` under the file's names."""
    body = text(form)
    if form == "csv":
        first, rest = body.split(b"\n", 1)
        return csv_deliveries.line([given[name] for name in first.decode().split(",")]) + b"\n" + rest
    if form == "jsonl":
        return "".join(
            json.dumps({given[n]: v for n, v in row.items()}, ensure_ascii=False) + "\n" for row in ROWS
        ).encode()
    table, sink = pq.read_table(io.BytesIO(body)), pa.BufferOutputStream()
    pq.write_table(table.rename_columns([given[name] for name in table.column_names]), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_mapped_names_give_the_same_snapshot_and_reasons_and_the_file_stays(
    make_platform: Callable[[], Platform], form: str
) -> None:
    plain, mapped = make_platform(), make_platform()
    wanted = taken_in(plain, declared(form, {}), f"a.{form}", text(form))
    found = taken_in(mapped, declared(form), f"a.{form}", renamed(form))
    assert (found.snapshot, found.accepted, found.quarantined) == (wanted.snapshot, wanted.accepted, wanted.quarantined)
    assert in_quarantine(mapped) == in_quarantine(plain)
    site = mapped.sites["primary"]
    (outcome,) = deliveries.outcomes(site, "lake", "readings")
    assert outcome["source"]["header"] == NAMES
    raw = landing.raw_of(site, "lake", "readings", outcome["sha256"])
    assert raw and site.read("lake", raw.key) == renamed(form)
    # the pipeline file has no map any more, and the old delivery is still read with the map of its time
    again = rejudge(mapped, allowing(declared(form, {}), 1000))
    assert (again.total_rows, len(in_quarantine(mapped))) == (3, 2)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_with_the_schemas_names_lacks_those_that_are_declared(platform: Platform, form: str) -> None:
    result = taken_in(platform, declared(form), f"a.{form}", text(form))
    assert result.accepted == 0 and "missing columns: Zähler-Nr., Day, read, kWh, " in result.unreadable[0]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ({"Meter": "metre"}, "source.header.Meter: column 'metre' is not in the schema (did you mean 'meter'?)"),
        ({"Meter": "meter", "METER": "meter"}, "source.header: column 'meter' has 2 names"),
        ({"note": "meter"}, "source.header.note: column 'note' of the schema has this name, too"),
    ],
)
def test_unknown_and_doubled_names_are_refused_when_the_file_is_checked(names: dict[str, str], fault: str) -> None:
    with pytest.raises(ValidationError) as error:
        declared("csv", names)
    assert fault in str(error.value)


def test_a_database_gives_the_names_of_the_schema() -> None:
    with pytest.raises(ValidationError, match="header: a database gives typed values under the schema's names"):
        declared("csv", kind="sql", connection="shop", table="readings")


def test_a_column_that_took_the_name_of_a_field_later_is_missing_in_earlier_files() -> None:
    source = Source(prefix="x/", header={"a": "b"})
    with pytest.raises(Unreadable, match="missing columns: a"):
        list(json_rows.read(io.BytesIO(b'{"a": 1}\n'), 9, source, ["a", "b"], Limits()))


def lines(form: str, given: Mapping[str, str]) -> bytes:
    day = [f"2025-{1 + n // 28:02}-{1 + n % 28:02}" for n in range(84)]
    named = [{given["order"]: n, given["at"]: day[n], given["price"]: n * 0.5 + 1} for n in range(84)]
    if form == "csv":
        made: list[list[Any]] = [list(named[0]), *(list(row.values()) for row in named)]
        return b"\n".join(csv_deliveries.line([str(cell) for cell in row]) for row in made)
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in named).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(named), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "given",
    [
        {"order": "Bestell-Nr.", "at": "Datum, Tag", "price": "Preis (€)"},
        {"order": "Order ID", "at": "order_id", "price": "order-id"},
        {"order": "注文", "at": "日付", "price": "On"},
    ],
)
def test_a_drafted_pipeline_takes_the_file_it_was_drafted_from(
    platform: Platform, tmp_path: Path, form: str, given: dict[str, str]
) -> None:
    file = tmp_path / f"readings.{form}"
    file.write_bytes(lines(form, given))
    pipeline = ModelPipeline.model_validate(yaml.safe_load(draft_pipeline(file)))
    deliver.check(pipeline, [file])
    result = taken_in(platform, pipeline, file.name, file.read_bytes())
    assert (result.accepted, result.unreadable) == (84, ())
    assert list(pipeline.source.names(pipeline.columns).values()) == list(given.values())


def test_parquet_with_a_column_twice_is_no_crash(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["A", "A"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(PipelineError, match="a column occurs twice"):
        draft_pipeline(tmp_path / "x.parquet")


def test_the_header_is_no_part_of_a_pipeline_without_one(readings: Pipeline) -> None:
    assert readings.source.names(readings.columns) == {name: name for name in readings.columns}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_are_delivered_under_the_names_of_the_service_and_read_by_the_map(form: str, tmp_path: Path) -> None:
    rows = [{"Booking, ID": n, "seen-at": f"2025-01-01T00:{n:02}:00Z", "booking_id": "other"} for n in range(3)]
    source: dict[str, Any] = {
        "format": form,
        "header": {"Booking, ID": "booking_id", "seen-at": "seen"},
        "cursor": {"column": "seen", "overlap": "3m"},
        "cursor_parameter": "since",
    }
    with serving(lambda asked: test_web.as_json(rows)) as service:
        sink = test_web.MemorySink()
        state = test_web.opened(service, **source).extract({}, sink, test_web.NOW).state
        test_web.opened(service, **source).extract(state, test_web.MemorySink(), test_web.NOW)
        assert service.asked[-1].query["since"] == "2024-12-31T23:59:00Z"
    ((name, body),) = sink.stored.items()
    assert b"Booking, ID" in body and b"other" not in body
    (file := tmp_path / name).write_bytes(body)
    (batch,) = rows_of(file, test_web.pipeline(**source), Limits())
    assert [str(value) for value in batch.table["booking_id"].to_pylist()] == ["0", "1", "2"] and not batch.refused


TWICE = "meter,day,note,note,kwh\nm1,2026-01-05,first,second,1.5\nm2,2026-01-06,third,fourth,2.5\n"


def test_a_name_that_occurs_again_has_its_number_behind_it_wherever_a_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(TWICE)
    text = draft_pipeline(file)
    assert '    "note (2)": note_2    # column 2 of this name' in text.splitlines()
    pipeline = ModelPipeline.model_validate(yaml.safe_load(text))
    body, columns = TWICE.encode(), list(pipeline.columns)
    (batch,) = csv_rows.read(io.BytesIO(body), len(body), pipeline.source, columns, Limits())
    assert batch.table["note_2"].to_pylist() == ["second", "fourth"] and batch.table["note"][0].as_py() == "first"
    in_memory = read("readings.csv", body, pipeline.source, columns)
    assert in_memory.fault is None and in_memory.delivered == 2
    assert erasing.header_of(io.BytesIO(body), len(body), pipeline) == ["meter", "day", "note", "note (2)", "kwh"]
    assert file_fault(pipeline, file) is None
    assert distinct_names(["a", "a", "a (2)"]) == ["a", "a", "a (2)"]
