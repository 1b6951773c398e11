"""A training set that executors join and write is, once it is read back, that of DuckDB."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as csv
import pytest

from rempart.errors import FeatureError, IntegrityError
from rempart.features import in_memory
from rempart.features.labels import Received
from rempart.features.parquet_store import joining
from rempart.flows.distributed import joined, training_set
from rempart.flows.distributed import orders as jobs
from rempart.flows.distributed.loaded_snapshots import LoadedSnapshots
from rempart.flows.distributed.world import World
from rempart.ingestion import snapshots
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import named, with_model
from rempart.sovereignty.job_permission import JobSite
from rempart.spark.definitions import definition
from rempart.spark.order import (
    InputObject,
    OutputPlace,
    SparkOrder,
    SparkResult,
    code_version,
    parse_order,
    parse_result,
)
from tests.derived_project import write_project
from tests.labelled_project import ORDERS, PAYMENTS, feed, order, order_rows, orders, payment, received
from tests.snapshots_of_tables import Drawing
from tests.spark.features_on_spark import differences
from tests.spark.shared_site import Manager, SharedSite

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BUCKET = "lake"


@pytest.fixture(scope="module")
def site() -> Iterator[SharedSite]:
    key = secrets.token_bytes(16)
    with Manager(authkey=key) as started:
        made = SharedSite(started.address, key)
        made.ensure_bucket(BUCKET, versioned=True)
        yield made


def stored(site: Any, pipeline: Pipeline, rows: pa.Table, folder: Path) -> snapshots.Snapshot:
    """A snapshot at the site."""
    place = folder / pipeline.name
    place.mkdir()
    snapshot, added = Drawing(pipeline, place).add(None, rows)
    snapshots.commit(site, BUCKET, snapshot, added)
    return snapshot


def ordered(
    site: Any, pipeline: ModelPipeline, roles: Mapping[str, snapshots.Snapshot], *others: Pipeline
) -> SparkOrder:
    def manifest(role: str, snapshot: snapshots.Snapshot) -> InputObject:
        key = f"{snapshots.folder(snapshot.pipeline)}{snapshot.id}.json"
        sha256 = hashlib.sha256(site.read(BUCKET, key)).hexdigest()
        return InputObject(role=role, bucket=BUCKET, key=key, sha256=sha256, name=snapshot.pipeline)

    views = [training_set.told_view(view) for view in joining.of_pipeline(pipeline)]
    return SparkOrder(
        do="training_set",
        pipeline=pipeline.name,
        classification=pipeline.classification,
        pipelines={each.name: definition(each) for each in (pipeline, *others)},
        site=JobSite(name="primary", connection="s3_primary", region="r"),
        inputs=tuple(manifest(role, snapshot) for role, snapshot in roles.items()),
        output=OutputPlace(bucket=BUCKET, prefix=f"spark/{pipeline.name}/training_set/"),
        parameters={"views": views, "retain_until": "2030-01-01"},
        code_version=code_version(),
    )


def run(spark: SparkSession, site: SharedSite, given: SparkOrder, folder: Path) -> SparkResult:
    """The result of the job, as it comes back from its JSON."""
    given = parse_order(given.to_json())
    made = training_set.run(given, spark, World(site, folder, lambda stage, **facts: None), site)  # type: ignore[arg-type]
    told = SparkResult(order_id=given.order_id, status="succeeded", made=made.made, facts=made.facts, decision="0" * 64)
    return parse_result(told.to_json(), given.order_id)


def test_the_shipped_bookings_give_the_training_set_of_duckdb(
    spark: SparkSession, site: SharedSite, tmp_path: Path
) -> None:
    pipeline = with_model(named("hotel_bookings"))
    schema = arrow_schema(snapshot_columns(pipeline))
    convert = csv.ConvertOptions(
        column_types=schema, include_columns=schema.names, null_values=[""], strings_can_be_null=True
    )
    rows = csv.read_csv(project_root() / "data/hotel_bookings.csv.gz", convert_options=convert)
    snapshot = stored(site, pipeline, rows, tmp_path)
    given, loaded = ordered(site, pipeline, {training_set.ROWS: snapshot}), LoadedSnapshots(snapshot)
    result = run(spark, site, given, tmp_path)
    found = joined.read(site, pipeline, loaded, given, result)  # type: ignore[arg-type]
    assert found.snapshot == snapshot.id and found.table.num_rows == rows.num_rows > 15_000
    assert differences(found.table, in_memory.training_set(pipeline, rows)) == []

    # what a job says is not believed
    short = result.model_copy(update={"made": result.made[1:]})
    with pytest.raises(FeatureError, match="rows instead of"):
        joined.read(site, pipeline, loaded, given, short)  # type: ignore[arg-type]
    fewer = result.model_copy(update={"facts": {"examples": 5}})
    with pytest.raises(FeatureError, match="returned 5 rows instead of"):
        joined.read(site, pipeline, loaded, given, fewer)  # type: ignore[arg-type]
    if len(result.made) > 1:
        turned = result.model_copy(update={"made": result.made[::-1]})
        with pytest.raises(IntegrityError, match="out of order"):
            joined.read(site, pipeline, loaded, given, turned)  # type: ignore[arg-type]
    jobs.forget(site, given)  # type: ignore[arg-type]
    assert not list(site.list(BUCKET, given.key("")))


def test_labels_of_another_pipeline_are_joined_and_counted(
    spark: SparkSession, site: SharedSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, ORDERS, PAYMENTS, sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    pipeline, labels = orders(), feed()
    rows = order_rows(order(n, n) for n in range(40))
    paid = received([payment(n, n + (1 if n % 4 else -1), paid=n % 3 > 0) for n in range(30)], 50).rows.read_all()
    of_rows, of_labels = (stored(site, of, table, tmp_path) for of, table in ((pipeline, rows), (labels.source, paid)))
    given = ordered(site, pipeline, {training_set.ROWS: of_rows, training_set.LABELS: of_labels}, labels.source)
    result = run(spark, site, given, tmp_path)
    found = joined.read(site, pipeline, LoadedSnapshots(of_rows, labels, of_labels), given, result)  # type: ignore[arg-type]
    wanted = in_memory.build(pipeline, rows, Received(labels, paid.to_reader(), of_labels.id, of_labels.created_at))
    assert differences(found.table, wanted.table) == []
    assert found.labels == wanted.labels

    altered = given.inputs[0].model_copy(update={"sha256": "0" * 64})
    other = given.model_copy(update={"inputs": (altered, *given.inputs[1:])})
    with pytest.raises(IntegrityError):
        training_set.run(other, spark, World(site, tmp_path, lambda stage, **facts: None), site)  # type: ignore[arg-type]
