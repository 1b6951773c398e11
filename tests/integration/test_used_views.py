"""Views of other pipelines on a real feature store: loaded, joined, served, told, and followed by an erasure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.errors import InputMissing
from rempart.features import in_memory, removal
from rempart.features.databases import FeatureDatabases
from rempart.features.training_set import point_in_time
from rempart.flows.erasure import erase as erase_flow
from rempart.flows.erasure import erase_stores, erase_used
from rempart.flows.training import train
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.materialize import MaterializeResult, materialize
from rempart.models import registry
from rempart.models.tracking import session
from rempart.settings.config import environment_connections, project_root
from tests.derived_project import World, write_project
from tests.erasable import in_two_memories, secrets_in_memory
from tests.online_rows import online_rows
from tests.unit.training.stage import InProcess
from tests.used_project import PROJECT, Row, csv, reading, sale, spec, station, table
from tests.used_project import STATIONS as STATIONS_FILE

pytestmark = pytest.mark.stores
READINGS = [reading(n, n / 2, "ab"[n % 2], n % 17) for n in range(80)]
STATIONS = [station("a", 0, 0.5, 7.0), station("a", 0, 20.0, 9.0, "hills"), station("b", 3, 1.0)]
SALES = [sale(n, n * 0.6, "abn"[n % 3] if n % 5 else None, float(n % 13)) for n in range(70)]
GIVEN: dict[str, Any] = {"by": "data-protection-officer", "reason": "objection"}


@pytest.fixture
def world(feature_databases: FeatureDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A platform with two sites in memory and a real feature store."""
    platform = in_two_memories().platform
    write_project(tmp_path, *PROJECT, sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    stores = {f"pg_feast_{part}": getattr(feature_databases, part) for part in ("registry", "offline", "online")}

    def connections(name: str) -> Any:
        return stores.get(name) or (environment_connections(name) if name == "mlflow" else secrets_in_memory(name))

    yield World(replace(platform, connections=connections))
    for name in ("sales", "readings", "stations"):
        removal.remove(feature_databases, spec(name))


def load(world: World, name: str) -> MaterializeResult:
    return materialize(world.platform, spec(name))


def everything(world: World) -> MaterializeResult:
    """Deliver and load all three pipelines."""
    for name, rows in (("readings", READINGS), ("stations", STATIONS), ("sales", SALES)):
        world.deliver(name, "one", csv(rows))
    load(world, "readings")
    load(world, "stations")
    return load(world, "sales")


def current(world: World, name: str) -> str:
    found = world.snapshot(name)
    assert found
    return found.id


def same(left: pa.Table, right: pa.Table) -> bool:
    def rounded(rows: list[Row]) -> list[Row]:
        return [{key: round(v, 9) if isinstance(v, float) else v for key, v in row.items()} for row in rows]

    return rounded(left.to_pylist()) == rounded(right.to_pylist())


def training_sets(world: World) -> list[tuple[str, pa.Table]]:
    """Every version of both parts of the training sets of sales, with the text that tells of which snapshots it is."""
    found = []
    for site in world.platform.sites.values():
        for info in site.versions("lake", "training/sales/"):
            if not info.marker:
                head, body = site.fetch("lake", info.key, version_id=info.version_id)
                found.append((head.metadata.get("used", ""), pq.read_table(io.BytesIO(body))))
    return found


def test_both_stores_give_the_values_of_fixed_snapshots_and_an_erasure_follows_them(
    world: World, feature_databases: FeatureDatabases
) -> None:
    platform = world.platform
    world.deliver("sales", "zero", csv(SALES[:1]))
    with pytest.raises(InputMissing, match="the feature store has no snapshot of 'readings' yet") as missing:
        load(world, "sales")
    assert missing.value.hint == "Run `rempart pipeline run readings`."
    with pytest.raises(InputMissing, match="no snapshot of 'readings' yet"):
        train.training_set(platform, spec("sales"))

    first = everything(world)
    snapshots = {name: current(world, name) for name in ("readings", "stations")}
    assert first.used == snapshots
    (evidence,) = platform.ledger.find("materialization", "sales", limit=1)
    assert evidence.body["used"] == snapshots and evidence.body["snapshot"] == current(world, "sales")
    found = train.training_set(platform, spec("sales"))
    assert found.used == snapshots
    by_postgresql = point_in_time(feature_databases, spec("sales"))
    used = {"readings": table("readings", READINGS), "stations": table("stations", STATIONS)}
    alone = in_memory.build(spec("sales"), table("sales", SALES), None, used)
    assert same(found.table, alone.table) and same(by_postgresql.table, alone.table)
    assert by_postgresql.used == snapshots and not load(world, "sales").changed
    made = {row["sale"]: row for row in found.table.to_pylist()}
    assert made[6]["place__height"] == 7.0 and made[36]["place__height"] == 9.0 and made[36]["weather__rows_3d"] == 3

    # online: what the newest sale of the station would see
    (served,) = online_rows(feature_databases, spec("sales"), "place", [{"nearest": "a"}])
    assert (served["height"], served["zone"]) == (9.0, "hills")
    theirs = online_rows(feature_databases, spec("readings"), "lately", [{"station": "a"}])[0]
    (served,) = online_rows(feature_databases, spec("sales"), "weather", [{"nearest": "a"}])
    assert {**served, "station": "a"} == {**theirs, "nearest": "a"}

    # a newer snapshot of the source is not seen before it is loaded here
    world.deliver("readings", "two", csv([reading(900, 5.3, "a", 500.0)]))
    load(world, "readings")
    assert same(train.training_set(platform, spec("sales")).table, alone.table)
    spec_of = train.order(platform, spec("sales"), found.table, found.snapshot, used=found.used)
    assert spec_of.used == snapshots
    second = load(world, "sales")
    assert second.changed and second.used["readings"] == current(world, "readings") != snapshots["readings"]
    again = train.training_set(platform, spec("sales"))
    assert {row["sale"]: row["weather__celsius_mean_1d"] for row in again.table.to_pylist()}[9] > 100
    train.order(platform, spec("sales"), again.table, again.snapshot, used=again.used)
    assert len(training_sets(world)) == 4  # two sets, each with its held-out rows

    told = erase_flow.erase(platform, spec("readings"), [(900,)], **GIVEN)
    assert [(done.pipeline, done.uses) for done in told.descendants] == [("sales", True)]
    done = erase_flow.erase(platform, spec("readings"), [(900,)], dry_run=False, **GIVEN)
    assert not done.pending and done.left == 0, done
    # only the set with the erased value lost values: those of its source, and what is made of them
    left, of_cut = training_sets(world), f"stations/{snapshots['stations']}"
    assert sorted(used for used, _ in left) == sorted([spec_of_used(snapshots), of_cut] * 2)
    keys = [info.key for info in world.home.list("lake", "training/sales/")]
    assert len(keys) == 4 and sum("/held-out/" in key for key in keys) == 2
    cut = pa.concat_tables([rows for used, rows in left if used == of_cut])
    assert cut.num_rows == found.table.num_rows and cut["weather__celsius_mean_1d"].null_count == cut.num_rows
    assert cut["expressions__warmer"].null_count == cut.num_rows > cut["place__height"].null_count
    assert same(train.training_set(platform, spec("sales")).table, alone.table)
    assert same(point_in_time(feature_databases, spec("sales")).table, alone.table)
    again_done = erase_flow.erase(platform, spec("readings"), [(900,)], dry_run=False, **GIVEN)
    assert [each.deleted for each in again_done.descendants] == [0]
    assert_an_erasure_waits_for_nobody(world, feature_databases)


def assert_an_erasure_waits_for_nobody(world: World, feature_databases: FeatureDatabases) -> None:
    """Another used view changed and was not loaded since; PostgreSQL refuses; a person deleted the file of the user."""
    platform, root = world.platform, project_root()
    write_project(root, STATIONS_FILE.replace("columns: [height, zone]", "columns: [zone, height]"), sql={})
    erased = erase_flow.erase(platform, spec("sales"), [(9,)], dry_run=False, **GIVEN)
    assert not erased.pending and erased.left == 0, erased

    refused = {"offline": replace(feature_databases.offline, password="wrong"), "registry": feature_databases.registry}
    shut = FeatureDatabases(online=feature_databases.online, **refused)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erase_stores, "feature_databases", lambda _: shut)
        (told,) = erase_used.follow(erase_stores.open_stores(platform), ["readings"])
    assert [*told.pending] == ["feature store of 'sales'"]
    assert "no answer. `rempart status` shows" in told.pending["feature store of 'sales'"]

    file = root / "include/pipelines/sales.yaml"
    text = file.read_text()
    file.unlink()
    (told,) = erase_used.follow(erase_stores.open_stores(platform), ["readings"])
    assert [*told.pending] == ["feature store of 'sales'"] and "sales" in told.pending["feature store of 'sales'"]
    file.write_text(text)
    (told,) = erase_used.follow(erase_stores.open_stores(platform), ["readings"])
    assert not told.pending


def spec_of_used(snapshots: dict[str, str]) -> str:
    return " ".join(f"{name}/{snapshot}" for name, snapshot in snapshots.items())


@pytest.fixture
def model_of_sales(world: World) -> Iterator[None]:
    """Removes the model and the experiment of the test from the stack's MLflow."""
    yield
    with session(world.platform.tracking()) as client:
        if client.search_registered_models(filter_string="name = 'sales'"):
            client.delete_registered_model("sales")
        if experiment := client.get_experiment_by_name("sales"):
            client.delete_experiment(experiment.experiment_id)


@pytest.mark.tracking
@pytest.mark.usefixtures("model_of_sales")
def test_evidence_and_tags_of_a_model_name_the_snapshots_of_all_its_pipelines(world: World) -> None:
    platform, pipeline = world.platform, spec("sales")
    everything(world)
    found = train.training_set(platform, pipeline)
    backend = InProcess(platform.active_site("personal"), platform.connections)
    trained = train.train_on(platform, pipeline, found.table, found.snapshot, used=found.used, backend=backend)
    snapshots = {name: current(world, name) for name in ("readings", "stations")}
    record = candidate_record(platform.ledger, "sales", trained.version)
    assert record and (record["snapshot"], record["used"]) == (current(world, "sales"), snapshots)
    with session(platform.tracking()) as client:
        version = client.get_model_version("sales", trained.version)
        run = client.get_run(str(version.run_id))
    for tags in (version.tags, run.data.tags):
        assert {name: tags[f"{registry.TAG}used.{name}"] for name in snapshots} == snapshots == trained.used
