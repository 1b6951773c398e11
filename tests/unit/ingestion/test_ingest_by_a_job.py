"""What a job for `engine: spark` made is checked before it is committed. Here DuckDB does the job's work."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.errors import IngestError, IntegrityError
from rempart.flows.distributed.ingest import Parameters
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import expectations, snapshots
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.deliveries import take_in
from rempart.ingestion.engine.identity import by_duckdb
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.refused import schema, table_of
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sites.port import Site
from rempart.spark.definitions import defined
from rempart.spark.order import MadeObject, SparkOrder, SparkResult
from tests.unit.ingestion.conftest import NOW, READINGS
from tests.unit.ingestion.deliveries import BAD, A, B, C, lake

Job = Callable[[SparkOrder], SparkResult]


def on_spark(**more: Any) -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(READINGS) | {"engine": "spark"} | more)


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Work:
    """Does what a job does for rows that are refused if their key is known."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder, self.jobs = site, folder, 0

    def __call__(self, order: SparkOrder) -> SparkResult:
        self.jobs += 1
        place = self.folder / f"job-{self.jobs}"
        place.mkdir()
        pipeline, given = defined(order.pipelines, order.pipeline), Parameters.of(order.parameters)
        files = [self._brought(place, f"{i}-{each.name}", each) for i, each in enumerate(order.of_role("delivery"))]
        known = {each.sha256: self._brought(place, each.sha256, each) for each in order.of_role("known")}
        resources = Resources(200 << 20, 1, place / "spill")

        def judge(table: Any) -> dict[int, list[str]]:
            return expectations.broken(pipeline.expectations, table)

        taken = take_in(files, [*known.values()], pipeline, place, resources, given.limits, judge)
        parts = [
            self._stored("part", order.key(f"part-{part.sha256}.parquet"), part.file.read_bytes(), part.rows)
            for part in taken.parts
        ]
        parts = [
            made.model_copy(update={"facts": {"partition": part.partition}})
            for made, part in zip(parts, taken.parts, strict=True)
        ]
        contents = {}
        for name in sorted({part.partition for part in taken.parts}):
            had = [file for sha256, file in known.items() if given.partitions[sha256] == name]
            new = [part.file for part in taken.parts if part.partition == name]
            contents[name] = {"had": self._content(pipeline, had), "has": self._content(pipeline, [*had, *new])}
        refused = []
        for i, delivery in enumerate(taken.deliveries):
            if len(delivery.refused):
                sink = io.BytesIO()
                pq.write_table(table_of(delivery.refused).cast(schema()), sink)
                key = order.key(f"refused-{i}.parquet")
                made = self._stored("refused", key, sink.getvalue(), len(delivery.refused))
                refused.append(made.model_copy(update={"facts": {"delivery": i}}))
        told = [
            {
                "good": delivery.good,
                "judged": delivery.judged,
                "refused": len(delivery.refused),
                "fault": delivery.fault,
                "replaced": delivery.replaced,
                "repeated": delivery.repeated,
            }
            for delivery in taken.deliveries
        ]
        facts = {
            "deliveries": told,
            "held": sorted(taken.held),
            "partitions": {name: {**content, "whole": False} for name, content in contents.items()},
        }
        return SparkResult(
            order_id=order.order_id, status="succeeded", made=(*parts, *refused), facts=facts, decision="0" * 64
        )

    def _brought(self, place: Path, name: str, each: Any) -> Path:
        file = place / name
        file.write_bytes(self.site.read(each.bucket, each.key, sha256=each.sha256))
        return file

    def _stored(self, role: str, key: str, body: bytes, rows: int) -> MadeObject:
        self.site.write("lake", key, body)
        return MadeObject(role=role, key=key, sha256=sha256_of(body), bytes=len(body), rows=rows)

    def _content(self, pipeline: Pipeline, files: Sequence[Path]) -> list[Any]:
        if not files:
            return [0, sha256_of(b"")]
        resources = Resources(200 << 20, 1, self.folder / "spill")
        with opened(resources, sorted({file.parent for file in files})) as connection:
            columns = snapshots.snapshot_columns(pipeline)
            found = by_duckdb(connection, parquet(files), columns, pipeline.row_key).content("")
        return [found.rows, found.sha256]


@pytest.fixture
def work(platform: Platform, tmp_path: Path) -> Work:
    return Work(platform.sites["primary"], tmp_path)


def test_a_job_and_this_machine_go_on_from_each_others_snapshots(
    platform: Platform,
    make_platform: Callable[[], Platform],
    deliver: Callable[..., None],
    work: Work,
    readings: Pipeline,
) -> None:
    other = make_platform()
    for each in (platform, other):
        each.sites["primary"].clock = lambda: NOW  # type: ignore[attr-defined]  # a site in memory
    for i, rows in enumerate([(A, BAD), (B, A), (C,)]):
        deliver(f"{i}.csv", *rows)
        deliver(f"{i}.csv", *rows, to=other)
        pipeline = on_spark() if i != 1 else readings
        ours, theirs = ingest(other, readings), ingest(platform, pipeline, run_job=work)
        assert ours == theirs
    assert work.jobs == 2
    assert lake(platform) == lake(other)


def changed(result: SparkResult, **more: Any) -> SparkResult:
    return SparkResult.model_validate(result.model_dump() | more)


Lie = Callable[[Work, SparkResult], SparkResult]


def fewer_rows(work: Work, result: SparkResult) -> SparkResult:
    """A part lacks a row, and the job tells the hash of all rows."""
    part, *others = result.made
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(work.site.read("lake", part.key))).slice(1), sink)
    sha256 = sha256_of(sink.getvalue())
    key = f"spark/readings/ingest/{sha256}.parquet"
    work.site.write("lake", key, sink.getvalue())
    other = part.model_copy(update={"key": key, "sha256": sha256, "bytes": len(sink.getvalue())})
    return changed(result, made=(other, *others))


def _written(
    work: Work, result: SparkResult, change: Callable[[Any], Any], partition: str, *, whole: bool
) -> SparkResult:
    """The job's one part with other rows, of which it tells all that can be told: place, bytes, rows, and the hash."""
    part, *others = result.of_role("part")
    assert not others
    sink = io.BytesIO()
    table = change(pq.read_table(io.BytesIO(work.site.read("lake", part.key))))
    pq.write_table(table, sink)
    made = work._stored("part", f"spark/readings/ingest/{sha256_of(sink.getvalue())}", sink.getvalue(), table.num_rows)
    (told,) = result.facts["partitions"].values()
    (work.folder / "lie.parquet").write_bytes(sink.getvalue())
    file, before = work.folder / "lie.parquet", [*work.folder.glob(f"job-{work.jobs}/{'?' * 64}")]
    has = work._content(on_spark(), [file] if whole else [*before, file])
    facts = result.facts | {"partitions": {partition: told | {"has": has, "whole": whole}}}
    return changed(result, made=(made.model_copy(update={"facts": {"partition": partition}}),), facts=facts)


def a_known_key_again(work: Work, result: SparkResult) -> SparkResult:
    return _written(work, result, lambda rows: _with(rows, "meter", "m1"), "2026-01", whole=False)


def a_known_row_is_gone(work: Work, result: SparkResult) -> SparkResult:
    """The partition is written as a whole, and has as many rows as it should, but not the one that was known."""

    def change(rows: Any) -> Any:
        return pa.concat_tables([rows, _with(rows, "meter", "m9")])

    return _written(work, result, change, "2026-01", whole=True)


def of_another_month(work: Work, result: SparkResult) -> SparkResult:
    return _written(work, result, lambda rows: _with(rows, "day", date(2026, 3, 1)), "2026-01", whole=False)


def other_columns(work: Work, result: SparkResult) -> SparkResult:
    return _written(work, result, lambda rows: rows.append_column("more", [["x"]]), "2026-01", whole=False)


def _with(rows: Any, name: str, value: Any) -> Any:
    position = rows.schema.get_field_index(name)
    field = rows.schema.field(position)
    return rows.set_column(position, field, pa.array([value] * rows.num_rows, field.type))


def other_bytes(work: Work, result: SparkResult) -> SparkResult:
    work.site.write("lake", result.made[0].key, b"other bytes")
    return result


def lost_refusals(work: Work, result: SparkResult) -> SparkResult:
    return changed(result, made=result.of_role("part"))


def more_accepted(work: Work, result: SparkResult) -> SparkResult:
    told = json.loads(json.dumps(result.facts))
    told["deliveries"][0]["good"] += 1
    return changed(result, facts=told)


def another_past(work: Work, result: SparkResult) -> SparkResult:
    told = json.loads(json.dumps(result.facts))
    for content in told["partitions"].values():
        content["had"] = [1, "0" * 64]
    return changed(result, facts=told)


@pytest.mark.parametrize("lie", [fewer_rows, other_bytes, lost_refusals, more_accepted, another_past])
def test_a_job_is_not_believed(platform: Platform, deliver: Callable[..., None], work: Work, lie: Lie) -> None:
    deliver("1.csv", A, B, BAD)
    with pytest.raises(IntegrityError):
        ingest(platform, on_spark(), run_job=lambda order: lie(work, work(order)))
    assert "snapshots/readings/current.json" not in lake(platform)
    assert not platform.ledger.find("snapshot", "readings")
    waiting = [info.key for info in platform.sites["primary"].list("landing")]
    assert waiting == ["readings/1.csv"]
    assert ingest(platform, on_spark(), run_job=work).accepted == 2  # the next run completes the work


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (a_known_key_again, "a key twice"),
        (a_known_row_is_gone, "1 known rows are gone"),
        (of_another_month, "rows of others"),
        (other_columns, "other columns"),
    ],
)
def test_rows_that_a_job_hashed_and_counted_right_are_still_compared_with_those_before(
    platform: Platform,
    deliver: Callable[..., None],
    work: Work,
    lie: Lie,
    why: str,
) -> None:
    deliver("1.csv", A)
    was = ingest(platform, on_spark(), run_job=work).snapshot
    deliver("2.csv", B)
    with pytest.raises(IntegrityError, match=why):
        ingest(platform, on_spark(), run_job=lambda order: lie(work, work(order)))
    assert not [key for key in lake(platform) if key.startswith("spark/")]  # the next run does not adopt it
    done = ingest(platform, on_spark(), run_job=work)
    assert (done.accepted, done.total_rows) == (1, 2) and done.snapshot != was


def test_rows_that_a_lost_job_left_go_when_another_engine_takes_the_deliveries_in(
    platform: Platform, deliver: Callable[..., None], readings: Pipeline
) -> None:
    platform.sites["primary"].write("lake", "spark/readings/ingest/0/part.parquet", b"rows")
    deliver("1.csv", A)
    ingest(platform, readings)
    assert not [*platform.sites["primary"].versions("lake", "spark/")]


def test_nothing_new_starts_no_job(platform: Platform, work: Work) -> None:
    assert ingest(platform, on_spark(), run_job=work).snapshot is None
    assert not work.jobs


def test_what_spark_does_not_do_yet_is_refused_before_anything_is_written(
    platform: Platform, deliver: Callable[..., None], work: Work, readings: Pipeline
) -> None:
    deliver("1.csv", A)
    ingest(platform, readings)
    before, declared = lake(platform), yaml.safe_load(READINGS)
    declared["schema"]["more"] = {"type": "string", "known": "read", "nullable": True}
    deliver("2.csv", B)
    with pytest.raises(IngestError, match="another schema") as refused:
        ingest(platform, ModelPipeline.model_validate(declared | {"engine": "spark"}), run_job=work)
    assert "engine: duckdb" in refused.value.hint
    assert lake(platform) == before
    assert not work.jobs
