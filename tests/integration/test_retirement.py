"""The retirement of a model's version on the stack's real MLflow and sites."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rempart.errors import ModelRefused, TrackingRefused
from rempart.flows.retirement import deletion, execute
from rempart.flows.shared.deletion import delete_below, versions_below
from rempart.flows.shared.platform import Platform
from rempart.flows.training import roll_back_to, train, validate
from rempart.ledger.memory import MemoryLedger
from rempart.models import registry
from rempart.models.removal import folders, registered
from rempart.models.tracking import session
from rempart.settings import sections
from rempart.settings.pipeline import ModelPipeline
from tests.unit.training import stage

pytestmark = pytest.mark.tracking
House = tuple[Platform, ModelPipeline, list[datetime]]


@pytest.fixture
def house(platform: Platform) -> Iterator[House]:
    """Three champions, one after the other, of which the first two were trained 900 days ago."""
    mark = f"retire-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", backups=f"{mark}-backups")
    pipeline = stage.pipeline(mark.replace("-", "_"))
    rule = platform.config.retention["personal"].model_copy(update={"newest_models": 1})
    retention = {**platform.config.retention, "personal": rule}
    settings = platform.config.model_copy(update={"buckets": buckets, "retention": retention})
    date = [datetime.now(UTC) - timedelta(days=900)]
    own = dataclasses.replace(platform, config=settings, ledger_=MemoryLedger(clock=lambda: date[0]))
    site = own.active_site("personal")
    site.ensure_bucket(buckets.lake, versioned=True)
    backend, before = stage.InProcess(site, own.connections), None
    for seed, days in ((1, 900), (2, 890), (3, 5)):
        date[0] = datetime.now(UTC) - timedelta(days=days)
        made = train.train_on(own, pipeline, stage.table(200, seed), "s1", params={"max_iter": 5}, backend=backend)
        body = {"version": made.version, "previous": before, "reasons": [], "metrics": {}, "baselines": {}}
        own.ledger.append("promotion", pipeline.name, body)
        registry.promote(own.tracking(), pipeline.name, made.version, before, ())
        before = made.version
    date[0] = datetime.now(UTC)
    yield own, pipeline, date
    with session(own.tracking()) as client:
        client.delete_registered_model(pipeline.name)
        client.delete_experiment(client.get_experiment_by_name(pipeline.name).experiment_id)
    for record in own.ledger.find("candidate", pipeline.name):
        delete_below(site, buckets.artifacts, f"jobs/{record.body['job_id']}/", date[0])
    site.drop_bucket(buckets.lake)


def stored(platform: Platform, record: dict[str, Any]) -> dict[str, int]:
    """How many object versions there are of a version's job, training set, model and run."""
    site, buckets = platform.active_site("personal"), platform.config.buckets
    places = [(buckets.artifacts, f"jobs/{record['job_id']}/")]
    places += [(buckets.lake, part["key"]) for part in (record["dataset"], record["dataset"]["held_out"])]
    found = folders(platform.tracking(), record["model_id"], record["run_id"]) or record["folders"]
    record.setdefault("folders", found)
    places += [(buckets.artifacts, f"mlflow/{folder}") for folder in record["folders"]]
    return {prefix: len(versions_below(site, bucket, prefix)) for bucket, prefix in places}


def test_a_retired_version_is_gone_from_mlflow_and_the_site_and_its_run_tells_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, pipeline, _ = house
    name, tracking = pipeline.name, platform.tracking()
    first, second, third = (dict(record.body) for record in reversed(platform.ledger.find("candidate", name)))
    before = [stored(platform, record) for record in (first, second, third)]
    assert len(before[0]) == 5 and all(all(counts.values()) for counts in before)
    planned = execute.look(platform, pipeline)
    assert list(planned.retire) == [first["version"]], planned
    with monkeypatch.context() as killed:
        killed.setattr(deletion.erase_versions, "delete_versions", lambda *given, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute.retire(platform, pipeline, dry_run=False, patience=0)
    assert execute.look(platform, pipeline).complete == (first["version"],)

    done = execute.retire(platform, pipeline, dry_run=False, patience=0)
    assert list(done.evidence) == [first["version"]] and not done.left and not done.locked
    assert done.deleted >= sum(before[0].values())
    assert not any(stored(platform, first).values())
    assert [stored(platform, record) for record in (second, third)] == before[1:]
    assert registered(tracking, name).versions == (second["version"], third["version"])
    with session(tracking) as client:
        run = client.get_run(first["run_id"])
        assert "evidence" in run.data.tags["rempart.retired"] and run.data.metrics
    assert not execute.retire(platform, pipeline, dry_run=False, patience=0).evidence

    validate.roll_back(platform, pipeline, dry_run=False)
    with pytest.raises(ModelRefused, match=f"version {first['version']} of model {name} was retired on"):
        roll_back_to.plan(platform, pipeline)
    with pytest.raises(ModelRefused, match="was retired on"):
        validate.validate(platform, pipeline, first["version"])
    with pytest.raises(TrackingRefused), session(tracking) as client:
        client.get_model_version(name, first["version"])
    again = train.train_on(
        platform, pipeline, stage.table(200, 1), "s1", params={"max_iter": 5},
        backend=stage.InProcess(platform.active_site("personal"), platform.connections),
    )  # fmt: skip
    assert int(again.version) == int(third["version"]) + 1, "MLflow gives no number twice"
