"""What a job for `engine: spark` made is checked before it is committed. Here DuckDB does the job's work."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.backup.points.erasures import pseudonym
from rempart.errors import IntegrityError, SparkError
from rempart.flows.distributed.ingest import Parameters
from rempart.flows.ingestion.engines import read_back
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared import erasures
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.spark.order import SparkOrder, SparkResult
from tests.unit.ingestion.conftest import HEADER, NOW, READINGS
from tests.unit.ingestion.deliveries import BAD, A, B, C, lake
from tests.unit.ingestion.job_by_duckdb import Work, sha256_of


def on_spark(**more: Any) -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(READINGS) | {"engine": "spark"} | more)


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


def test_deliveries_that_were_refused_alike_have_one_object_which_is_brought_once(
    platform: Platform,
    make_platform: Callable[[], Platform],
    deliver: Callable[..., None],
    work: Work,
    readings: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brought, bring = list[Path](), read_back.brought

    def counted(run: Any, made: Any, folder: Path, file: Path) -> Path:
        brought.append(file)
        return bring(run, made, folder, file)

    monkeypatch.setattr(read_back, "brought", counted)
    other = make_platform()
    for each in (platform, other):
        each.sites["primary"].clock = lambda: NOW  # type: ignore[attr-defined]  # a site in memory
        for i, row in enumerate((A, B, C)):
            deliver(f"{i}.csv", BAD, row, to=each)
    assert ingest(other, readings) == ingest(platform, on_spark(), run_job=work)
    assert lake(platform) == lake(other)
    refused = [file for file in brought if file.name.startswith("refused-")]
    assert len(refused) == 1


def changed(result: SparkResult, **more: Any) -> SparkResult:
    return SparkResult.model_validate(result.model_dump() | more)


Lie = Callable[[Work, SparkResult], SparkResult]


def fewer_rows(work: Work, result: SparkResult) -> SparkResult:
    """A part lacks a row, and the job tells the hash of all rows."""
    part, *others = result.made
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(work.site.read("lake", part.key))).slice(1), sink)
    sha256 = sha256_of(sink.getvalue())
    key = work.stored_part(sink.getvalue(), part.rows).key
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
    made = work.stored_part(sink.getvalue(), table.num_rows)
    (told,) = result.facts["partitions"].values()
    (work.folder / "lie.parquet").write_bytes(sink.getvalue())
    file, before = work.folder / "lie.parquet", [*work.folder.glob(f"job-{work.jobs}/{'?' * 64}")]
    has = work.content(on_spark(), [file] if whole else [*before, file])
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


def same(platform: Platform, other: Platform) -> bool:
    """Whether two runs left the same snapshot, quarantine, raw deliveries and outcomes; parts may be others."""

    def left(each: Platform) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, body in lake(each).items():
            if "/parts/" in key or "_delta_log" in key:
                continue
            found[key] = json.loads(body) if key.endswith(".json") else body
            if isinstance(told := found[key], dict):
                told.pop("parts", None)
        return found

    return left(platform) == left(other)


@pytest.fixture
def twins(platform: Platform, make_platform: Callable[[], Platform]) -> tuple[Platform, Platform]:
    other = make_platform()
    for each in (platform, other):
        each.sites["primary"].clock = lambda: NOW  # type: ignore[attr-defined]  # a site in memory
    return platform, other


MORE = {"more": {"type": "string", "known": "read", "nullable": True}}
OTHER_FORMS = [
    {"schema": yaml.safe_load(READINGS)["schema"] | MORE},
    {"key": ["meter", "day", "tariff"]},
    {"partition_every": "day"},
]


@pytest.mark.parametrize("form", OTHER_FORMS, ids=["schema", "key", "partition"])
def test_known_rows_in_another_form_make_the_snapshot_that_this_machine_makes(
    twins: tuple[Platform, Platform], deliver: Callable[..., None], work: Work, form: dict[str, Any]
) -> None:
    spark, duckdb = on_spark(**form), on_spark(**form, engine="duckdb")
    header = ",".join(spark.columns) + "\n"
    for name, rows in (("1.csv", [A, B, C]), ("2.csv", ["m7,2026-01-09,1,,base," + ",y" * ("schema" in form)])):
        for each in twins:
            deliver(name, *rows, header=header if name == "2.csv" else HEADER, to=each)
            pipeline = on_spark(engine="duckdb") if name == "1.csv" else spark if each is twins[0] else duckdb
            ingest(each, pipeline, run_job=work)
    assert work.jobs == 1
    assert same(*twins)


def test_a_changed_schema_makes_a_snapshot_where_nothing_waits(
    twins: tuple[Platform, Platform], deliver: Callable[..., None], work: Work, readings: Pipeline
) -> None:
    for each, engine in zip(twins, ("spark", "duckdb"), strict=True):
        deliver("1.csv", A, B, C, to=each)
        ingest(each, readings)
        assert ingest(each, on_spark(**OTHER_FORMS[0], engine=engine), run_job=work).changed
    assert work.jobs == 1 and same(*twins)


def test_a_known_row_that_a_job_lost_on_its_way_to_another_form_is_missed(
    platform: Platform, deliver: Callable[..., None], work: Work, readings: Pipeline
) -> None:
    deliver("1.csv", A, B, C)
    ingest(platform, readings)

    def loses_a_partition(order: SparkOrder) -> SparkResult:
        result = work(order)
        made = [each for each in result.made if each.facts.get("partition") != "2026-02"]
        kept = {name: told for name, told in result.facts["partitions"].items() if name != "2026-02"}
        return changed(result, made=made, facts=result.facts | {"partitions": kept})

    before = lake(platform)
    with pytest.raises(IntegrityError, match="2 of 3 known rows"):
        ingest(platform, on_spark(**OTHER_FORMS[0]), run_job=loses_a_partition)
    assert lake(platform) == before


@pytest.fixture
def erased(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Erase m1 and m2 from then on."""

    def begin() -> None:
        days = {"m1": date(2026, 1, 1), "m2": date(2026, 1, 1)}
        who = frozenset(pseudonym(b"key", "readings", [meter, day]) for meter, day in days.items())
        found = Erased("readings", frozenset({"e"}), ((b"key", who),))
        monkeypatch.setattr(erasures, "erased", lambda *_: found)
        monkeypatch.setattr(erasures, "check_same", lambda *_: None)

    return begin


ALSO = "m3,2026-01-05,4,,base,"


def test_erased_rows_are_left_out_of_deliveries_and_of_known_rows_as_on_this_machine(
    twins: tuple[Platform, Platform], deliver: Callable[..., None], work: Work, erased: Callable[[], None]
) -> None:
    for each in twins:
        deliver("1.csv", A, C, ALSO, to=each)
        ingest(each, on_spark(engine="duckdb"))
    erased()
    for each, engine in zip(twins, ("spark", "duckdb"), strict=True):
        deliver("2.csv", B, "m5,2026-01-02,1,,base,", BAD, to=each)
        found = ingest(each, on_spark(engine=engine), run_job=work)
        assert (found.accepted, found.quarantined, found.total_rows) == (1, 2, 3)
    assert same(*twins)
    (order,) = work.orders
    told = order.to_json().decode()
    assert Parameters.of(order.parameters).struck and Parameters.of(order.parameters).form.gone
    assert not any(name in told for name in ("m1", "m2", b"key".hex(), pseudonym(b"key", "readings", ["m1", "x"])))
    assert not any(b"m2,2026" in body for body in lake(twins[0]).values())


def keeps_an_erased_row(order: SparkOrder) -> SparkOrder:
    return order.model_copy(update={"parameters": {**order.parameters, "struck": {}}})


def keeps_a_known_erased_row(order: SparkOrder) -> SparkOrder:
    form = {**order.parameters["form"], "gone": {}}
    return order.model_copy(update={"parameters": {**order.parameters, "form": form}})


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (keeps_an_erased_row, "0 rows were left out as erased, not 1"),
        (keeps_a_known_erased_row, "1 were accepted and 1 erased"),
    ],
)
def test_an_erased_row_that_a_job_kept_is_found(
    platform: Platform,
    deliver: Callable[..., None],
    work: Work,
    erased: Callable[[], None],
    lie: Callable[[SparkOrder], SparkOrder],
    why: str,
) -> None:
    deliver("1.csv", A, C)
    ingest(platform, on_spark(engine="duckdb"))
    erased()
    deliver("2.csv", B, "m5,2026-01-02,1,,base,")
    before = lake(platform)
    with pytest.raises(IntegrityError, match=why):
        ingest(platform, on_spark(), run_job=lambda order: work(lie(order)))
    assert {key for key in lake(platform) if not key.startswith("spark/")} == before.keys()


def test_malformed_facts_are_refused_by_the_name_of_the_job(
    platform: Platform, deliver: Callable[..., None], work: Work
) -> None:
    deliver("1.csv", A, BAD)
    with pytest.raises(SparkError, match=r"the result of job [0-9a-f]{16}: its facts"):
        ingest(platform, on_spark(), run_job=lambda order: changed(work(order), facts={}))
    assert not [key for key in lake(platform) if key.startswith(("spark/", "snapshots/"))]
