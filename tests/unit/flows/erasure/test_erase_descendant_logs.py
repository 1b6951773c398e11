"""An erasure in an input takes inputs and features from the prediction log of a derived pipeline, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa

from rempart.flows.erasure import erase as flow
from rempart.flows.erasure import erase_report
from rempart.flows.shared import erasures
from rempart.serving import hour_files
from tests.derived_project import World
from tests.erasable import NOW
from tests.unit.flows.erasure.test_erase_derived import KM, erase, world

__all__ = ["world"]


def logged(world: World, *ids: str) -> str:
    """Add a file to the prediction log of `daily`, whose features come from the erased trip, at both sites."""
    at = pa.array([world.platform.clock()] * len(ids), pa.timestamp("us", "UTC"))
    values = {"inputs": ['{"day": 1}'] * len(ids), "features": [f'{{"km": {KM}}}'] * len(ids)}
    sealed = pa.nulls(len(ids), pa.binary())
    body = hour_files.encode(
        pa.table({"id": ids, "at": at, **values, "sealed": sealed, "prediction": [80.0] * len(ids)})
    )
    sha256 = hashlib.sha256(body).hexdigest()
    key = f"{hour_files.hour_folder('daily', world.platform.clock())}{sha256}.parquet"
    for site in world.platform.sites.values():
        site.write("lake", key, body)
    evidence = {"state": "shipped", "bucket": "lake", "objects": [{"key": key, "sha256": sha256, "entries": 1}]}
    world.platform.ledger.append("prediction-log", "daily", evidence)
    return key


def of_the_log(world: World) -> dict[str, list[dict[str, Any]]]:
    """Entries of every version of the log of `daily`, by site."""
    return {
        name: [
            row
            for info in site.versions("lake", hour_files.folder("daily"))
            if not info.marker
            for row in hour_files.read(site.read("lake", info.key, version_id=info.version_id)).to_pylist()
        ]
        for name, site in world.platform.sites.items()
    }


def test_the_prediction_log_of_a_derived_pipeline_loses_inputs_and_features_and_nothing_else(world: World) -> None:
    logged(world, "a", "b")
    assert b"777" in world.home.read("lake", next(iter(world.home.list("lake", hour_files.ROOT))).key)
    done = erase(world)
    assert not done.pending and [below.emptied for below in done.descendants] == [0, 2]
    assert "prediction log of 'daily': 2 entries without inputs and features now" in list(erase_report.lines(done))
    found = of_the_log(world)
    assert not found["haven"]  # the next replication copies the new file
    for row in found["primary"]:
        assert [row[name] for name in hour_files.PRIVATE] == [None] * 3 and row["prediction"] == 80.0
    assert [row["id"] for row in found["primary"]] == ["a", "b"]
    rewritten = erasures.rewritten(world.platform.ledger)
    assert {to[0] for to in rewritten.values() if to} >= {info.key for info in world.home.list("lake", hour_files.ROOT)}

    # what is logged from clean features stays, however often the same erasure is repeated, and goes with another one
    later = replace(world.platform, clock=lambda: NOW + timedelta(hours=1))
    logged(replace(world, platform=later), "c")
    flow.again(world.platform)
    assert {row["id"]: row["features"] for row in of_the_log(world)["primary"]}["c"] == f'{{"km": {KM}}}'
    flow.erase(
        replace(world.platform, clock=lambda: NOW + timedelta(hours=2)),
        world.pipeline("trips"),
        [(2,)],
        by="data-protection-officer",
        reason="objection",
        dry_run=False,
    )
    assert {row["features"] for row in of_the_log(world)["primary"]} == {None}
