"""Ingestion on Spark: the same deliveries give the same snapshots, quarantine and outcomes as with DuckDB."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.backup.points.erasures import pseudonym
from rempart.errors import PipelineError
from rempart.flows.distributed import ingest as job
from rempart.flows.distributed.world import World
from rempart.flows.ingestion.ingest import IngestResult, ingest
from rempart.flows.shared import erasures
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.pipeline import ModelPipeline
from rempart.spark.order import SparkOrder, SparkResult
from tests.spark.shared_site import Manager, SharedSite
from tests.unit.ingestion.conftest import HEADER, NOW, READINGS, no_connection

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Files = Mapping[str, Sequence[str] | bytes]
GOOD = ["m1,2026-01-01,1.5,2,base,", "m2,2026-01-01,2.5,,night,a note", "m1,2026-02-01,3,1,base,é"]
MORE = [
    "m3,2026-01-02,4,,base,",
    "m1,2026-01-01,1.5,2,base,",
    "m2,2026-01-01,9.5,,night,other",
    "m4,2026-03-01,7,,base,",
]
BAD = ["m5,2026-01-01,200,,base,too much", "m6,never,1,,base,", "m7,2026-01-05,1,,base,good", "only,three,fields"]


@dataclass
class House:
    """A platform whose site other processes reach, and a session."""

    platform: Platform
    site: SharedSite
    session: SparkSession
    folder: Path

    def run(
        self, pipeline: ModelPipeline, files: Files, run_job: Callable[[SparkOrder], SparkResult] | None = None
    ) -> Any:
        for name, rows in files.items():
            body = rows if isinstance(rows, bytes) else (HEADER + "".join(f"{row}\n" for row in rows)).encode()
            self.site.write("landing", f"readings/{name}", body)
        return ingest(self.platform, pipeline, run_job=run_job or self.job)

    def job(self, order: SparkOrder) -> SparkResult:
        work = self.folder / secrets.token_hex(4)
        work.mkdir()
        world = World(self.site, work, lambda stage, **facts: None)
        made = job.run(SparkOrder.model_validate_json(order.to_json()), self.session, world, self.site)
        assert not list(work.iterdir())
        assert not self.session.catalog.listTables()
        told = SparkResult(
            order_id=order.order_id, status="succeeded", made=made.made, facts=made.facts, decision="0" * 64
        )
        return SparkResult.model_validate_json(told.to_json())

    def lake(self) -> dict[str, Any]:
        """All that a run leaves at the site: parts as rows, since other parts may hold them."""
        found: dict[str, Any] = {}
        for info in self.site.list("lake"):
            body = self.site.read("lake", info.key)
            if "/parts/" in info.key or "_delta_log" in info.key:
                continue
            if info.key.endswith(".parquet"):
                found[info.key] = pq.read_table(pa.BufferReader(body)).to_pylist()
            elif info.key.endswith(".json"):
                found[info.key] = json.loads(body)
                found[info.key].pop("parts", None)
            else:
                found[info.key] = body
        return found

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the current snapshot, by its manifest."""
        current = json.loads(self.site.read("lake", "snapshots/readings/current.json"))["id"]
        parts = json.loads(self.site.read("lake", f"snapshots/readings/{current}.json"))["parts"]
        tables = [
            pq.read_table(io.BytesIO(self.site.read("lake", f"snapshots/readings/parts/{part[1]}.parquet")))
            for part in parts
        ]
        assert [table.num_rows for table in tables] == [part[2] for part in parts]
        return sorted(pa.concat_tables(tables).to_pylist(), key=repr)


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    key = secrets.token_bytes(16)
    with Manager(authkey=key) as started:
        started.key = key  # type: ignore[attr-defined]
        yield started


@pytest.fixture
def house(manager: Manager, spark: SparkSession, tmp_path: Path) -> Callable[[], House]:
    def make() -> House:
        site = SharedSite(manager.address, manager.key)  # type: ignore[attr-defined]
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        config = configuration.load()
        platform = Platform(
            config,
            no_connection,
            lambda: NOW,
            {config.active_site: site},  # type: ignore[dict-item]
            MemoryLedger(),
            MemoryContinuity(),
        )
        return House(platform, site, spark, tmp_path)

    return make


def pipelines(**more: Any) -> tuple[ModelPipeline, ModelPipeline]:
    declared = yaml.safe_load(READINGS) | more
    return ModelPipeline.model_validate(declared), ModelPipeline.model_validate(declared | {"engine": "spark"})


def facts(result: IngestResult) -> dict[str, Any]:
    return {name: value for name, value in vars(result).items() if name != "seconds"}


RUNS: Sequence[Files] = (
    {"1.csv": GOOD, "2.csv": [*MORE, *BAD]},
    {"3.csv": [], "4.csv": b"\x00\x01", "5.csv": ["m1,2026-02-01,8,,night,changed", *GOOD], "6.csv": BAD[:2]},
    {"7.csv": ["m8,2026-01-03,1,,base,"], "8.csv": [f"n{i:03},2026-01-{i % 28 + 1:02},1,,base," for i in range(99)]},
)


def test_both_engines_leave_the_same(house: Callable[[], House]) -> None:
    """Rows replaced by newer ones, partitions of days, a delivery that is held back."""
    here, there = house(), house()
    compare(here, there, RUNS, on_conflict="newest", partition_every="day", max_quarantined=0.3)
    told = [[record.body for record in each.platform.ledger.find("deliveries", "readings")] for each in (here, there)]
    assert told[0] == told[1]


def test_erased_rows_and_another_form_leave_the_same(
    house: Callable[[], House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one run: erased rows of a delivery and of known parts, a renamed, an added and a wider column, another key,
    partitions of days."""
    here, there = house(), house()
    compare(here, there, [RUNS[0] | {"0.csv": ["m0,2026-01-07,1,,base,"]}])
    gone = [[date(2026, 1, 7), "m0"], [date(2026, 1, 3), "n1"]]  # by the new key
    who = frozenset(pseudonym(b"key", "readings", key) for key in gone)
    monkeypatch.setattr(erasures, "erased", lambda *_: Erased("readings", frozenset({"e"}), ((b"key", who),)))
    monkeypatch.setattr(erasures, "check_same", lambda *_: None)
    schema = yaml.safe_load(READINGS)["schema"]
    schema["remark"] = schema.pop("note") | {"renamed_from": "note"}
    schema |= {"people": schema["people"] | {"type": "number"}, "roof": schema["people"]}
    header = f"{','.join(schema)}\n"
    rows = ["n1,2026-01-03,1,1.5,base,y,7", "n2,2026-01-03,1,2.5,night,,7", "n3,2026-02-03,400,,night,,7"]
    body = (header + "\n".join(rows) + "\n").encode()
    compare(here, there, [{"9.csv": body}], schema=schema, key=["day", "meter"], partition_every="day")
    kept = [row["meter"] for row in there.rows()]
    assert "n2" in kept and not {"m0", "n1", "n3"} & {*kept}


def compare(here: House, there: House, runs: Sequence[Files], **rule: Any) -> None:
    """Ingest with DuckDB here and with Spark there, and compare all that each run leaves."""
    duckdb, spark = pipelines(**rule)
    for files in runs:
        assert facts(there.run(spark, files)) == facts(here.run(duckdb, files))
        assert there.lake() == here.lake()
        assert there.rows() == here.rows()
        assert not list(there.site.list("landing"))


def test_small_parts_become_one(house: Callable[[], House]) -> None:
    duckdb, spark = pipelines()
    here, there = house(), house()
    for i in range(11):
        files = {f"{i}.csv": [f"m{i},2026-01-01,1,,base,"]}
        if i in (0, 9):
            files |= {"other.csv": [f"m{i},2026-02-01,1,,base,"]}
        there.run(spark if i == 9 else duckdb, files)
        here.run(duckdb, files)
    assert there.rows() == here.rows() and len(there.rows()) == 13


def test_an_expectation_that_cannot_be_applied_is_said_by_its_own_error(house: Callable[[], House]) -> None:
    wrong = {
        "expect": "expect_column_values_to_match_json_schema",
        "column": "note",
        "json_schema": {"type": 3},
        "reason": "x",
    }
    _, spark = pipelines(expectations=[wrong])
    with pytest.raises(PipelineError):
        house().run(spark, {"1.csv": ["m1,2026-01-01,1,,base,{}"]})


def test_a_killed_executor_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.spark.killed_ingestion", str(tmp_path)]
    here = str(configuration.project_root())  # executors load the site of the test from there
    environment = {**os.environ, "PYTHONPATH": here}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = told["duckdb"], told["spark"]
    assert theirs.pop("executors") == 2
    assert theirs.pop("same") and theirs.pop("shown") == 0 and theirs.pop("ui") is None
    stages = theirs.pop("stages")
    assert [stage for stage in stages if stage in ("judged", "decided", "written", "done", "adopted")] == [
        "judged", "decided", "written", "done", "adopted",
    ]  # fmt: skip
    assert theirs == ours
    assert ours["result"]["quarantined"] and ours["result"]["accepted"] > 10_000
