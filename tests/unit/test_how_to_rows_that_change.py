"""The example of docs/how-to/rows-that-change.md: its deliveries give its snapshot."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
import yaml

from rempart.features.in_memory import training_set
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.pipeline import ModelPipeline
from tests.memory_site import MemorySite
from tests.unit.docsgen.blocks import Block, blocks
from tests.unit.ingestion.conftest import READINGS, no_connection

PAGE = "docs/how-to/rows-that-change.md"


def platform() -> Platform:
    site, config = MemorySite("primary"), configuration.load()
    for bucket in ("landing", "lake"):
        site.ensure_bucket(bucket, versioned=True)
    clock: Callable[[], datetime] = lambda: datetime(2026, 3, 1, tzinfo=UTC)  # noqa: E731
    return Platform(config, no_connection, clock, {config.active_site: site}, MemoryLedger(), MemoryContinuity())


def texts(language: str) -> list[str]:
    mine: list[Block] = [block for block in blocks() if block.page == PAGE and block.language == language]
    return [block.text for block in mine if block.note.startswith("run by")]


def shown(table: pa.Table) -> list[dict[str, Any]]:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return list(csv.DictReader(io.StringIO(sink.getvalue().decode())))


def test_the_deliveries_of_the_page_give_its_snapshot() -> None:
    made, pipeline = (
        platform(),
        ModelPipeline.model_validate(yaml.safe_load(READINGS) | yaml.safe_load(texts("yaml")[0])),
    )
    first, second, result, _ = texts("csv")
    site = made.sites["primary"]
    for number, body in enumerate((first, second)):
        site.write("landing", f"readings/{number}.csv", body.encode())
        done = ingest(made, pipeline)
    assert (done.accepted, done.quarantined, done.replaced, done.repeated) == (2, 0, 1, 1)
    current = snapshots.current(site, "lake", "readings")
    assert current is not None
    got = [{**row, "kwh": float(row["kwh"])} for row in shown(snapshots.load_table(site, "lake", current))]
    assert got == [{**row, "kwh": float(row["kwh"])} for row in csv.DictReader(io.StringIO(result))]


def test_the_versions_of_the_page_are_kept_and_the_training_set_has_the_row_once() -> None:
    sections = yaml.safe_load(READINGS) | yaml.safe_load(texts("yaml")[1])
    made, pipeline, body = platform(), ModelPipeline.model_validate(sections), texts("csv")[3]
    site = made.sites["primary"]
    site.write("landing", "readings/1.csv", body.encode())
    ingest(made, pipeline)
    current = snapshots.current(site, "lake", "readings")
    assert current is not None and current.rows == 2
    (row,) = training_set(pipeline, snapshots.load_table(site, "lake", current)).to_pylist()
    assert (row["meter"], row["kwh"], row["own__people"]) == ("m1", 11.5, 3)


def test_the_changed_columns_of_the_page_are_read() -> None:
    made, sections = platform(), yaml.safe_load(READINGS)
    site = made.sites["primary"]
    site.write("landing", "readings/1.csv", b"meter,day,kwh,people,tariff,note\nm1,2026-01-01,12.5,2,base,x\n")
    ingest(made, ModelPipeline.model_validate(sections))
    change = yaml.safe_load(texts("yaml")[2])
    kept = {name: column for name, column in sections["schema"].items() if name not in ("people", "note")}
    sections |= change | {"schema": kept | change["schema"]}
    sections["features"]["own"]["columns"] = ["persons", "tariff"]
    site.write("landing", "readings/2.csv", b"meter,day,kwh,persons,tariff,roof\nm2,2026-01-01,8,2.5,base,7\n")
    ingest(made, ModelPipeline.model_validate(sections))
    current = snapshots.current(site, "lake", "readings")
    assert current is not None
    table = snapshots.load_table(site, "lake", current)
    assert (table["persons"].to_pylist(), table["roof"].to_pylist()) == ([2.0, 2.5], [None, 7])
    assert "note" not in table.column_names
