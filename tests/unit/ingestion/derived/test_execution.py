"""The same parts give the same file; values, types and order are as bound; and an error quotes no row."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import CapabilityMissing, IngestError
from rempart.ingestion.derived.binding import Columns, bind
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.snapshots import Snapshot, SnapshotColumn, arrow_schema
from rempart.ingestion.sources.derived import Derived
from rempart.ingestion.sources.port import Delivery, Extraction, Input, Origin
from tests.delta_tables import snapshot

TRIPS = {
    "id": SnapshotColumn("integer", False),
    "zone": SnapshotColumn("category", True),
    "km": SnapshotColumn("number", True),
}
ZONES = {"zone": SnapshotColumn("string", False), "rain": SnapshotColumn("number", True)}
SQL = """
SELECT t.id, z.rain, sum(t.km) OVER (PARTITION BY t.zone) AS km, t.zone
FROM trips t LEFT JOIN zones z ON t.zone = z.zone
"""
ORIGIN = Origin("ours", "lake", "FR", "FR")
numbers = itertools.count()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("derived")


def resources(folder: Path) -> Resources:
    return Resources(256 << 20, 2, folder / "spill")


def stored(folder: Path, columns: Columns, rows: list[tuple[Any, ...]]) -> Path:
    file = folder / f"{next(numbers)}.parquet"
    made = [dict(zip(columns, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(made, schema=arrow_schema(columns)), file)
    return file


def derived(folder: Path, sql: str, inputs: dict[str, tuple[Columns, list[Path]]]) -> tuple[list[Any], str]:
    query = bind("include/sql/x.sql", sql, {name: columns for name, (columns, _) in inputs.items()})
    out = folder / "out.parquet"
    count = execute("include/sql/x.sql", query, inputs, ["id"], out, resources(folder))
    table = pq.read_table(out)
    assert table.schema.equals(arrow_schema(query.columns)) and table.num_rows == count
    return table.to_pylist(), hashlib.sha256(out.read_bytes()).hexdigest()


trips = st.lists(
    st.tuples(
        st.integers(0, 50), st.none() | st.sampled_from("abc"), st.none() | st.integers(-8, 8).map(lambda n: n / 8)
    ),
    max_size=20,
    unique_by=lambda row: row[0],
)


@given(trips, st.integers(0, 20))
def test_a_join_gives_what_python_gives_in_order_of_the_key(
    scratch: Path, rows: list[tuple[Any, ...]], cut: int
) -> None:
    parts = [stored(scratch, TRIPS, some) for some in (rows[:cut], rows[cut:])]
    zones = stored(scratch, ZONES, [("a", 1.5), ("b", None)])
    found, digest = derived(scratch, SQL, {"trips": (TRIPS, parts), "zones": (ZONES, [zones])})
    rain = {"a": 1.5, "b": None}
    wanted = []
    for number, zone, _ in sorted(rows):
        lengths = [km for _, other, km in rows if other == zone and km is not None]
        wanted.append({"id": number, "rain": rain.get(zone), "km": sum(lengths) if lengths else None, "zone": zone})
    assert found == wanted
    assert derived(scratch, SQL, {"trips": (TRIPS, parts), "zones": (ZONES, [zones])})[1] == digest


def test_every_type_passes_through(tmp_path: Path) -> None:
    from tests.delta_tables import COLUMNS, rows

    file = tmp_path / "in.parquet"
    pq.write_table(rows(1, 2, 3), file)
    found, _ = derived(tmp_path, "SELECT * FROM trips", {"trips": (COLUMNS, [file])})
    assert found == rows(1, 2, 3).to_pylist()


def test_calendar_functions_are_of_utc_wherever_the_machine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    columns = {"id": SnapshotColumn("integer", False), "moment": SnapshotColumn("timestamp", False)}
    file = stored(tmp_path, columns, [(1, datetime(2026, 1, 1, 23, 30, tzinfo=UTC))])
    sql = "SELECT id, hour(moment) AS h, CAST(moment AS DATE) AS d FROM trips"
    found, _ = derived(tmp_path, sql, {"trips": (columns, [file])})
    assert found == [{"id": 1, "h": 23, "d": date(2026, 1, 1)}]


def test_an_input_without_rows_gives_none(tmp_path: Path) -> None:
    assert derived(tmp_path, SQL, {"trips": (TRIPS, []), "zones": (ZONES, [])})[0] == []


def test_a_failing_query_quotes_no_row(tmp_path: Path) -> None:
    file = stored(tmp_path, TRIPS, [(1, "Erika Mustermann", 1.0)])
    with pytest.raises(IngestError) as red:
        derived(tmp_path, "SELECT id, CAST(zone AS BIGINT) AS n FROM trips", {"trips": (TRIPS, [file])})
    assert "Mustermann" not in f"{red.value.what}{red.value.hint}{red.value.__cause__}"
    assert "ConversionException" in red.value.what and "TRY_CAST" in red.value.hint


class Sink:
    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        self.stored[name] = b"".join(blocks)
        return Delivery(name, len(self.stored[name]), hashlib.sha256(self.stored[name]).hexdigest())


@dataclass
class Memory:
    """A lake in memory."""

    origin: Origin = ORIGIN
    erasures: str = "none"

    def input(self, pipeline: Any) -> Input:
        raise NotImplementedError

    def resources(self, folder: Path) -> Resources:
        return resources(folder)


def opened(found: Snapshot, bodies: dict[str, bytes], lake: Memory | None = None) -> Derived:
    def parts(folder: Path) -> list[Path]:
        folder.mkdir()
        files = [folder / f"{part.sha256}.parquet" for part in found.parts]
        for part, file in zip(found.parts, files, strict=True):
            file.write_bytes(bodies[part.sha256])
        return files

    query = bind("include/sql/x.sql", "SELECT id, rider FROM trips", {"trips": found.columns})
    return Derived(
        "include/sql/x.sql", query, {"trips": Input(found.id, found.columns, parts)}, ["id"], lake or Memory()
    )


def test_a_source_extracts_once_for_each_state_of_its_inputs() -> None:
    from tests.delta_tables import NOON, part, rows

    made = [part(rows(4, 5)), part(rows(1, 2))]
    bodies = {stored_part.sha256: body for stored_part, body in made}
    first = snapshot([stored_part for stored_part, _ in made])
    sink, again = Sink(), Sink()
    extraction = opened(first, bodies).extract({}, sink, NOON)
    assert opened(first, bodies).extract({}, again, NOON.replace(year=2030)) == extraction
    assert sink.stored == again.stored and len(sink.stored) == 1
    assert [row["id"] for row in pq.read_table(pa.BufferReader(next(iter(sink.stored.values())))).to_pylist()] == [
        1, 2, 4, 5,
    ]  # fmt: skip
    assert opened(first, bodies).extract(extraction.state, sink, NOON).deliveries == []
    newer = replace(first, id="f" * 32, parts=first.parts[:1])
    other = opened(newer, bodies).extract(extraction.state, sink, NOON)
    assert len(sink.stored) == 2 and other.state != extraction.state
    assert dict(opened(first, bodies, Memory(erasures="one")).state) != dict(extraction.state)
    with pytest.raises(CapabilityMissing, match="each delivery holds all rows"):
        opened(first, bodies).compare_keys(iter(()), {}, sink)


def test_no_rows_are_no_delivery() -> None:
    from tests.delta_tables import NOON

    sink = Sink()
    found = opened(snapshot([]), {})
    assert found.extract({}, sink, NOON) == Extraction([], {}) and not sink.stored
    with pytest.raises(IngestError, match="gave some before"):
        found.extract({"query": "x"}, sink, NOON)


def test_zero_and_nan_have_one_form_in_the_file_whichever_the_engine_gave(scratch: Path) -> None:
    given = {"trips": (TRIPS, [stored(scratch, TRIPS, [(1, None, -0.0), (2, None, 0.0)])])}
    odd = "SELECT id, km, CASE WHEN id = 1 THEN km / km END AS n FROM trips"
    plain = "SELECT id, 0::DOUBLE AS km, CASE WHEN id = 1 THEN 'NaN'::DOUBLE END AS n FROM trips"
    assert derived(scratch, odd, given)[1] == derived(scratch, plain, given)[1]
