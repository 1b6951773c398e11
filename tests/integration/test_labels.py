"""Labels in a feed of their own, on a real feature store: joined, told, corrected, and erased from either side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rempart.errors import InputMissing, LabelsMissing
from rempart.features import in_memory, offline, removal
from rempart.features.databases import FeatureDatabases
from rempart.features.freshness import newest
from rempart.features.labels import KNOWN_AT
from rempart.features.training_set import point_in_time
from rempart.flows.erasure import erase as erase_flow
from rempart.flows.shared.platform import Platform
from rempart.flows.training import train
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.materialize import loaded_snapshot, materialize, materialize_rows
from rempart.flows.training.validate import validate
from rempart.models import registry
from rempart.models.tracking import session
from rempart.settings.config import environment_connections
from rempart.settings.pipeline import ModelPipeline
from rempart.training.job import JobSpec
from tests.derived_project import World, write_project
from tests.erasable import in_two_memories, secrets_in_memory
from tests.labelled_project import ORDERS, PAYMENTS, csv, order, order_rows, orders, payment, received, spec
from tests.unit.training.stage import InProcess

pytestmark = pytest.mark.stores


@pytest.fixture
def world(feature_databases: FeatureDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A platform with two sites in memory and a real feature store."""
    platform = in_two_memories().platform
    write_project(tmp_path, ORDERS, PAYMENTS, sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    stores = {f"pg_feast_{part}": getattr(feature_databases, part) for part in ("registry", "offline", "online")}

    def connections(name: str) -> Any:
        return stores.get(name) or (environment_connections(name) if name == "mlflow" else secrets_in_memory(name))

    yield World(replace(platform, connections=connections))
    removal.remove(feature_databases, orders())


def ordered(platform: Platform, pipeline: ModelPipeline) -> JobSpec:
    found = train.training_set(platform, pipeline)
    return train.order(platform, pipeline, found.table, found.snapshot, labels=found.labels)


def test_labels_join_late_ones_start_again_and_both_erasures_reach_the_training_sets(
    world: World, feature_databases: FeatureDatabases
) -> None:
    platform, days = world.platform, range(40)
    world.deliver("payments", "early", csv([payment(999, 3)]))
    with pytest.raises(InputMissing, match="'orders' has no snapshot yet"):
        materialize(platform, orders())
    world.deliver("orders", "one", csv(order(n, n, amount=100.0 + n) for n in days))
    first = materialize(platform, orders())
    assert loaded_snapshot(platform, "orders") == first.snapshot
    assert first.labels is not None and first.labels.rows.missing == 40
    now = platform.clock()
    early = newest.read(feature_databases, orders(), now)
    assert early.rows is not None and early.loaded is not None and early.labels is None
    with pytest.raises(LabelsMissing, match="40 not used, none was delivered"):
        point_in_time(feature_databases, orders())

    world.deliver("payments", "one", csv(payment(n, n + 1 if n != 5 else 35, paid=n % 3 > 0) for n in days if n != 7))
    second = materialize(platform, orders())
    assert second.labels is not None
    assert (second.snapshot, second.labels.rows.labelled, second.labels.rows.missing) == (first.snapshot, 39, 1)
    found = point_in_time(feature_databases, orders())
    since = newest.read(feature_databases, orders(), now)
    assert (since.rows, since.labels) == (early.rows, max(found.table[KNOWN_AT].to_pylist()))
    alone = in_memory.build(
        orders(),
        order_rows(order(n, n, amount=100.0 + n) for n in days),
        received((payment(n, n + 1 if n != 5 else 35, paid=n % 3 > 0) for n in days if n != 7), 10_000),
    )
    assert found.table.to_pylist() == alone.table.to_pylist()
    made = ordered(platform, orders())
    assert made.labels is not None and made.labels.snapshot == second.labels.snapshot != ""
    assert made.labels.rows == {"labelled": 39, "missing": 1, "not_yet": 0, "too_early": 0, "late": 1}
    assert made.dataset.rows == 29 and made.classification == "personal"
    assert not materialize(platform, orders()).changed, "the same two snapshots change nothing"

    # a label that is corrected, and one that arrives late
    world.deliver("payments", "two", csv([payment(7, 8, paid=True), payment(1, 2, paid=False)]))
    third = materialize(platform, orders())
    assert third.changed and third.labels is not None and third.labels.rows.labelled == 40
    rows = {row["order_id"]: row["paid"] for row in point_in_time(feature_databases, orders()).table.to_pylist()}
    assert rows[7] is True and rows[1] is False
    ordered(platform, orders())
    assert len(holders(world, 3)) == 2

    # an erasure in the label pipeline: training sets and loaded labels are without it, the order itself stays
    given = {"by": "data-protection-officer", "reason": "objection"}
    told = erase_flow.erase(platform, spec("payments"), [(3,)], **given)
    assert any("labels in the feature store of 'orders'" in place for place in told.found)
    done = erase_flow.erase(platform, spec("payments"), [(3,)], dry_run=False, **given)
    assert not done.pending and done.left == 0
    assert holders(world, 3) == [] and len(holders(world, 4)) == 2
    assert (3,) not in offline.label_keys(feature_databases, orders())
    assert (
        3 in loaded(world)
        and materialize(platform, orders()).labels == point_in_time(feature_databases, orders()).labels
    )

    # an erasure in the other pipeline reaches them, too, and takes the label of its row along
    done = erase_flow.erase(platform, orders(), [(4,)], dry_run=False, **given)
    assert not done.pending and holders(world, 4) == [] and 4 not in loaded(world)
    assert (4,) not in offline.label_keys(feature_databases, orders())
    assert 4 in {row[0] for row in world.rows("payments")}


def holders(world: World, number: int) -> list[str]:
    """Versions of training sets that have a row of this order."""
    found = []
    for name, site in world.platform.sites.items():
        for info in site.versions("lake", "training/orders/"):
            body = b"" if info.marker else site.read("lake", info.key, version_id=info.version_id)
            if body and number in pq.read_table(io.BytesIO(body))["order_id"].to_pylist():
                found.append(f"{name}/{info.key}")
    return found


def loaded(world: World) -> set[int]:
    """Numbers of the orders in the current snapshot."""
    return {row[0] for row in world.rows("orders")}


def test_labels_that_are_taken_elsewhere_now_are_forgotten(
    world: World, feature_databases: FeatureDatabases, tmp_path: Path
) -> None:
    at = world.platform.clock()
    rows = order_rows([order(1, 0), order(2, 1)])
    materialize_rows(
        feature_databases, orders(), rows.to_reader(), "s1", at, received([payment(1, 5), payment(2, 5)], 9)
    )
    assert point_in_time(feature_databases, orders()).table.num_rows == 2
    write_project(tmp_path, ORDERS.replace("pipeline: payments", "pipeline: refunds"))
    write_project(tmp_path, PAYMENTS.replace("payments", "refunds"))
    with pytest.raises(Exception, match="those of pipeline 'refunds' are not loaded"):
        point_in_time(feature_databases, orders())
    again = materialize_rows(feature_databases, orders(), rows.to_reader(), "s1", at)
    assert again.labels is not None and again.labels.rows.missing == 2


@pytest.fixture
def model_of_orders(world: World) -> Iterator[None]:
    """Removes the model and the experiment of the test from the stack's MLflow."""
    yield
    with session(world.platform.tracking()) as client:
        if client.search_registered_models(filter_string="name = 'orders'"):
            client.delete_registered_model("orders")
        if experiment := client.get_experiment_by_name("orders"):
            client.delete_experiment(experiment.experiment_id)


@pytest.mark.tracking
@pytest.mark.usefixtures("model_of_orders")
def test_labels_train_a_champion_whose_evidence_names_both_snapshots_and_counts_the_rows_without(
    world: World, feature_databases: FeatureDatabases
) -> None:
    """Cheap orders are paid. Of 300, every tenth has no label, and one of January is paid in February."""
    platform, pipeline, numbers = world.platform, orders(), range(300)
    amounts = {n: float(n * 37 % 100) for n in numbers}
    world.deliver("orders", "one", csv(order(n, n * 40 / 300, amount=amounts[n]) for n in numbers))
    paid = [payment(n, 35 if n == 5 else n * 40 / 300 + 0.01, paid=amounts[n] < 50) for n in numbers if n % 10]
    world.deliver("payments", "one", csv(paid))
    materialize(platform, pipeline)
    found = train.training_set(platform, pipeline)
    backend = InProcess(platform.active_site("personal"), platform.connections)
    trained = train.train_on(platform, pipeline, found.table, found.snapshot, labels=found.labels, backend=backend)
    assert trained.labels is not None
    assert trained.labels["rows"] == {"labelled": 270, "missing": 30, "not_yet": 0, "too_early": 0, "late": 1}
    site = platform.active_site("personal")
    sets = [site.read("lake", found.key) for found in site.list("lake", "training/orders/")]
    examples = {number for body in sets for number in pq.read_table(io.BytesIO(body))["order_id"].to_pylist()}
    assert examples == {n for n in numbers if n % 10 and n != 5}
    assert trained.rows_train + trained.rows_holdout == len(examples) == 269

    judged = validate(platform, pipeline)
    assert judged.promoted, judged.reasons
    assert judged.metrics["log_loss"] < judged.baselines["log_loss"]
    champion = registry.champion(platform.tracking(), "orders")
    assert champion == trained.version
    record = candidate_record(platform.ledger, "orders", champion)
    snapshots = {name: world.snapshot(name) for name in ("orders", "payments")}
    assert record and snapshots["orders"] and snapshots["payments"]
    assert record["snapshot"] == snapshots["orders"].id
    assert (record["labels"]["pipeline"], record["labels"]["snapshot"]) == ("payments", snapshots["payments"].id)
    with session(platform.tracking()) as client:
        tags = client.get_model_version("orders", champion).tags
    named = tags[f"{registry.TAG}snapshot"], tags[f"{registry.TAG}labels"]
    assert named == (snapshots["orders"].id, f"payments/{snapshots['payments'].id}")
