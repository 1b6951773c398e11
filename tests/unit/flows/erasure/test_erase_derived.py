"""An erasure in an input reaches every derived pipeline: no version of an object holds what the erased row gave."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.errors import ErasedMeanwhile, IngestError, SiteError
from rempart.flows.erasure import erase as flow
from rempart.flows.erasure import erase_derived, erase_report
from rempart.flows.erasure.erase_stores import open_stores
from rempart.flows.ingestion import delta_log, derived_run, profile
from rempart.flows.ingestion import extract as extract_flow
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.prediction import scorings
from rempart.flows.prediction.score import publish
from rempart.flows.prediction.scorings import Scoring, ScoringQuestion
from rempart.flows.shared import deletion, erasures
from rempart.ingestion import snapshots
from tests.derived_project import (
    SQL,
    WET,
    World,
    changed,
    trip,
    write_project,
)
from tests.unit.flows.erasure.booked import copied
from tests.unit.flows.erasure.derived_trips import KM, PIPELINES, own_project


@pytest.fixture
def world(derived: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    own_project(tmp_path, monkeypatch)
    return copied(derived)


def holders(world: World) -> list[str]:
    """Versions of objects, at every site, that hold the erased kilometres alone or in a sum."""
    return sorted({f"{site}/{key}" for site, key in _holders(world)})


def _holders(world: World) -> Iterator[tuple[str, str]]:
    for name, site in world.platform.sites.items():
        for bucket in ("lake", "landing"):
            for info in site.versions(bucket):
                if info.marker:
                    continue
                body = site.read(bucket, info.key, version_id=info.version_id)
                if b"Erika" in body or (body[:4] == b"PAR1" and _has_kilometres(body)):
                    yield name, f"{bucket}/{info.key}"


def _has_kilometres(body: bytes) -> bool:
    table = pq.read_table(io.BytesIO(body))
    if "km" in table.column_names:
        return any(700 < km < 1900 for km in table["km"].to_pylist())
    return "raw" in table.column_names and any("1082" in text for text in table["raw"].to_pylist())


def erase(world: World, number: int = 1, **more: Any) -> erase_report.ErasureResult:
    given = {"by": "data-protection-officer", "reason": "objection", "dry_run": False, **more}
    return flow.erase(world.platform, world.pipeline("trips"), [(number,)], **given)


def test_an_erased_trip_is_in_no_version_of_any_derived_object(world: World) -> None:
    assert any("/raw/wet_trips/" in key for key in holders(world))
    for part in ("snapshots/daily/parts/", "quarantine/wet_trips/"):
        assert any(part in key for key in holders(world)), part
    done = erase(world)
    assert not done.pending and [below.pipeline for below in done.descendants] == ["wet_trips", "daily"]
    assert all(below.deleted and not below.withdrawn for below in done.descendants)
    assert holders(world) == []
    assert [row[2] for row in world.rows()] == [305.0, 3.0] and [row[1] for row in world.rows("daily")] == [308.0]
    told = list(erase_report.lines(done))
    assert any("derived pipeline 'daily'" in line and "derived again" in line for line in told)
    # a second run finds nothing, and a later one of the pipelines goes on as usual
    again = erase(world)
    assert [below.deleted for below in again.descendants] == [0, 0] and not again.pending
    assert all(not below.deleted for result in flow.again(world.platform) for below in result.descendants)
    world.deliver("trips", "three", [trip(5, 1, 1)])
    world.derive()
    assert [row[2] for row in world.rows()] == [305.0, 4.0]


def test_a_dry_run_names_the_derived_pipelines_and_changes_nothing(world: World) -> None:
    before = holders(world)
    told = "\n".join(erase_report.lines(erase(world, dry_run=True)))
    assert "Derived from it: wet_trips, daily." in told and holders(world) == before


def test_what_cannot_be_derived_again_is_withdrawn_and_named(world: World, tmp_path: Path) -> None:
    before = world.snapshot()
    (tmp_path / "include/sql/wet_trips.sql").write_text("SELECT 1")
    done = erase(world)
    below = {result.pipeline: result for result in done.descendants}
    assert done.pending and below["wet_trips"].withdrawn
    assert "could not be derived again: include/sql/wet_trips.sql" in str(dict(below["wet_trips"].pending))
    assert world.snapshot() is None and world.snapshot("daily") is None
    assert holders(world) == []
    # once the query is right, the next run begins without a snapshot
    write_project(tmp_path, WET)
    world.derive()
    now = world.snapshot()
    assert before and now and now.id != before.id and [row[2] for row in world.rows()] == [305.0, 3.0]


def test_rows_that_wait_when_an_input_is_erased_are_derived_again(world: World) -> None:
    world.deliver("trips", "three", [trip(5, 1, 4)])
    spec = world.pipeline("wet_trips")
    extract_flow.extract(world.platform, spec)
    stores, register = open_stores(world.platform), erasures.open_register(world.platform)
    with pytest.MonkeyPatch.context() as during:
        during.setattr(flow.erase_derived, "follow", lambda *given: [])
        erase(world)
    with pytest.raises(ErasedMeanwhile, match="'wet_trips' were erased after its delivery was derived"):
        ingest(world.platform, spec)
    assert stores and register
    world.derive()
    assert [row[2] for row in world.rows()] == [305.0, 7.0]


def test_what_is_derived_from_a_derived_one_waits_for_the_erasure_in_both(world: World) -> None:
    with pytest.MonkeyPatch.context() as during:
        during.setattr(flow.erase_derived, "follow", lambda *given: [])
        erase(world)  # killed before it followed its rows
    stale = world.snapshot()
    assert stale is not None
    with pytest.raises(ErasedMeanwhile, match="'wet_trips' was derived before an erasure in its inputs"):
        world.derive("daily")
    with pytest.raises(ErasedMeanwhile, match="erase --again"):
        derived_run.check_clean(world.platform.ledger, stale)
    flow.again(world.platform)
    assert holders(world) == []
    world.derive("daily")


def test_an_erasure_follows_into_a_removed_pipeline(world: World, tmp_path: Path) -> None:
    for file in ("daily", "wet_trips"):
        kept = tmp_path / "include/pipelines/removed" / f"{file}.yaml"
        kept.parent.mkdir(exist_ok=True)
        (tmp_path / f"include/pipelines/{file}.yaml").rename(kept)
    done = erase(world)
    assert not done.pending and all(below.deleted for below in done.descendants)
    assert holders(world) == [] and world.snapshot() is None


def test_a_restore_applies_the_erasure_to_derived_rows_before_they_are_read(world: World) -> None:
    saved = [
        (info.key, world.home.read("lake", info.key), world.home.head("lake", info.key).metadata)
        for info in world.home.list("lake")
    ]
    erase(world)
    for key, body, metadata in saved:  # an earlier state of the lake comes back
        world.home.write("lake", key, body, metadata=metadata)
    world.platform.ledger.append("restore", "a point", {"parts": ["bucket:lake"], "aside": False})
    assert holders(world)
    stores = open_stores(world.platform)
    entries = erasures.on_record(world.platform.ledger)
    (done,) = flow.apply_all(stores, entries, erasures.secrets_of(world.platform))
    assert all(below.withdrawn for below in done.descendants) and not done.left
    assert holders(world) == []
    assert world.snapshot() is None
    world.derive()
    assert [row[2] for row in world.rows()] == [305.0, 3.0]


def test_an_input_whose_current_snapshot_is_lost_keeps_no_erasure_in_another_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, midnight = world.snapshot("trips"), world.rows("weather")[0][0]
    assert now and now.previous
    for name, key in (("trips", 1), ("weather", midnight)):
        with monkeypatch.context() as during, pytest.raises(SiteError, match="killed"):
            during.setattr(flow, "apply", Mock(side_effect=SiteError("killed", "Run again.")))
            by = {"by": "data-protection-officer", "reason": "objection", "dry_run": False}
            flow.erase(world.platform, world.pipeline(name), [(key,)], **by)
    snapshots.point_at(world.home, "lake", snapshots.read(world.home, "lake", "trips", now.previous))
    assert midnight in {row[0] for name in ("weather", "wet_trips") for row in world.rows(name)}
    with pytest.raises(IngestError, match="Pipeline 'trips': site 'primary' shows snapshot"):
        flow.again(world.platform)
    assert midnight not in {row[0] for name in ("weather", "wet_trips") for row in world.rows(name)}
    assert world.rows("weather") and holders(world)
    snapshots.point_at(world.home, "lake", now)
    flow.again(world.platform)
    assert holders(world) == [] and len(world.rows("trips")) == 2


def test_training_sets_and_profiles_of_older_snapshots_go(world: World) -> None:
    before = world.snapshot()
    assert before
    world.home.write("lake", "training/wet_trips/a.parquet", b"x", metadata={"snapshot": before.id})
    world.home.write("lake", f"profiles/wet_trips/{before.id}.html", b"x")
    erase(world)
    now = world.snapshot()
    assert now
    left = {info.key for info in world.home.list("lake") if info.key.startswith(("training/", "profiles/"))}
    assert left == set()
    world.home.write("lake", "training/wet_trips/b.parquet", b"x", metadata={"snapshot": now.id})
    world.home.write("lake", f"profiles/wet_trips/{now.id}.html", b"x")
    flow.again(world.platform)
    left = {info.key for info in world.home.list("lake") if info.key.startswith(("training/", "profiles/"))}
    assert left == {"training/wet_trips/b.parquet", f"profiles/wet_trips/{now.id}.html"}


def test_a_pipeline_that_was_derived_once_is_followed_or_refused_by_name(world: World, tmp_path: Path) -> None:
    (tmp_path / "include/pipelines/daily.yaml").unlink()
    done = erase(world)
    below = {result.pipeline: dict(result.pending) for result in done.descendants}
    assert done.pending and "pipeline 'daily'" in below["daily"] and not below["wet_trips"]


def test_without_any_row_left_a_derived_pipeline_has_no_snapshot(world: World) -> None:
    for number in (1, 2):
        erase(world, number)
    done = erase(world, 3)
    assert world.snapshot() is None and holders(world) == []
    assert any("gives no row" in why for below in done.descendants for why in below.pending.values())
    assert world.derive()[0].deliveries == 0


def test_the_feature_stores_get_the_current_snapshot_or_are_emptied(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, loaded = world.snapshot(), []
    assert before
    monkeypatch.setattr(
        erase_derived.offline,
        "find_snapshot",
        lambda _, name: before.id if name == "wet_trips" else None,
    )
    monkeypatch.setattr(
        erase_derived,
        "materialize_rows",
        lambda _, spec, rows, name, at, keep_former: loaded.append((name, rows.read_all().num_rows)),
    )
    monkeypatch.setattr(erase_derived.removal, "forget_deleted", lambda _, name: forgotten.append(name))
    forgotten: list[str] = []
    erase(world)
    now = world.snapshot()
    assert now and loaded == [(now.id, 2)] and forgotten == ["wet_trips"]
    (tmp_path / "include/sql/wet_trips.sql").write_text("SELECT 1")
    erase(world, 3)
    assert loaded[1:] == [(erase_derived.WITHDRAWN, 0)]
    assert snapshots.current(world.home, "lake", "wet_trips") is None


def test_rows_that_are_read_while_an_input_is_erased_do_not_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of the erasures is taken before the first input is opened."""
    world.deliver("trips", "three", [trip(5, 1, 4)])
    begin, spec = derived_run.ingest_run.begin, world.pipeline("wet_trips")

    def begin_and_erase(*given: Any) -> Any:
        run = begin(*given)
        if run.pipeline.name == "trips":  # its erased rows are known to this run: the next erasure is not
            monkeypatch.setattr(derived_run.ingest_run, "begin", begin)
            with pytest.MonkeyPatch.context() as during:
                during.setattr(flow.erase_derived, "follow", lambda *given: [])
                erase(world)
        return run

    monkeypatch.setattr(derived_run.ingest_run, "begin", begin_and_erase)
    extract_flow.extract(world.platform, spec)
    with pytest.raises(ErasedMeanwhile):
        ingest(world.platform, spec)
    world.derive()
    assert [row[2] for row in world.rows()] == [305.0, 7.0]


@pytest.mark.parametrize("left", [0, 1, 3, 5])
def test_a_log_that_was_torn_by_a_kill_is_whole_after_the_erasure(
    world: World, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    budget = {"wet_trips": left, "daily": 99}
    real = deletion.delete_unless_locked

    def dying(site: Any, bucket: str, info: Any, now: Any) -> Any:
        for name in budget:
            if f"snapshots/{name}/_delta_log/" in info.key:
                if not budget[name]:
                    raise KeyboardInterrupt
                budget[name] -= 1
        return real(site, bucket, info, now)

    with monkeypatch.context() as during:
        during.setattr(deletion, "delete_unless_locked", dying)
        try:
            erase(world)
        except KeyboardInterrupt:
            assert holders(world)
    flow.again(world.platform)
    assert holders(world) == []
    for name in PIPELINES[1:]:
        state, _ = delta_log.read(world.home, "lake", name)
        now = world.snapshot(name)
        assert now and state.snapshot == now.id and not delta_log.is_behind(world.home, "lake", name, now)


def predicted(world: World) -> str:
    """A file of predictions of the newest derived rows, in the open table at home and copied to the other site."""
    snapshot = world.snapshot()
    assert snapshot
    asked = ScoringQuestion("model", "ab" * 32, "wet_trips", snapshot.id)
    root = scorings.folder("wet_trips", "model")
    body = snapshots.encode([pa.table({"km": [KM]})], pa.schema([("km", pa.float64())]))
    part = scorings.part(root, "parts", hashlib.sha256(body).hexdigest(), 1, len(body))
    columns = {"km": snapshots.SnapshotColumn("number", True)}
    world.home.write("lake", part.key, body)
    made = Scoring(asked, "1", snapshot.created_at, "personal", snapshot.retain_until, columns, (part,), ())
    scorings.store(world.home, "lake", made)
    publish(world.home, "lake", root)
    for info in list(world.home.list("lake", root)):
        world.platform.sites["haven"].write("lake", info.key, world.home.read("lake", info.key))
    return part.key


def test_predictions_of_rows_that_are_no_longer_derived_go_at_every_site(world: World) -> None:
    key = predicted(world)
    assert {f"primary/lake/{key}", f"haven/lake/{key}"} <= set(holders(world))
    assert not erase(world).pending
    assert holders(world) == []
    for site in world.platform.sites.values():
        assert not [info.key for info in site.versions("lake", "predictions/") if not info.marker]
    key = predicted(world)
    erase(world, 99)
    assert world.home.read("lake", key)


def test_a_torn_log_is_found_by_the_repeated_erasure_and_by_the_next_commit(world: World) -> None:
    erase(world)
    world.deliver("trips", "three", [trip(5, 1, 4)])
    world.derive()
    for mend in (lambda: flow.again(world.platform), world.derive):
        first, *_ = world.home.list("lake", "snapshots/wet_trips/_delta_log/")
        for info in list(world.home.list("lake", "snapshots/wet_trips/_delta_log/")):
            if info.key.endswith(".parquet") or info.key == first.key:
                world.home.delete("lake", info.key)
        world.deliver("trips", f"more-{first.key[-20:]}", [trip(6 + len(world.rows()), len(world.rows()), 1)])
        mend()
        state, _ = delta_log.read(world.home, "lake", "wet_trips")
        now = world.snapshot()
        assert now and state.snapshot == now.id


def test_a_pipeline_that_stops_being_derived_waits_for_its_reset(world: World, tmp_path: Path) -> None:
    write_project(tmp_path, changed(WET, source={"prefix": "wet_trips/"}), sql={})
    with pytest.raises(IngestError, match="does not derive its rows any more") as refused:
        world.deliver("wet_trips", "own", ["2026-02-01T00:00:00Z,1,1,1"])
    assert "rempart pipeline reset wet_trips" in refused.value.hint
    done = erase(world)
    below = {result.pipeline: result for result in done.descendants}
    assert below["wet_trips"].withdrawn and "could not be derived again" in str(dict(below["wet_trips"].pending))
    assert holders(world) == [] and world.snapshot() is None
    assert world.deliver("wet_trips", "own", ["2026-02-01T00:00:00Z,1,1,1"]).total_rows == 1


def test_another_schema_of_a_derived_pipeline_needs_no_declaration(world: World, tmp_path: Path) -> None:
    columns = {name: column for name, column in yaml.safe_load(WET)["schema"].items() if name != "trips"}
    columns["rain"] = {"type": "string", "known": "begin"}
    wet = changed(WET, schema=columns, features={"own": {"kind": "row", "at": "begin", "calendar": {"hour": ["hour"]}}})
    query = SQL.replace(", count(*) AS trips", "").replace("w.rain, sum", "CAST(w.rain AS VARCHAR) AS rain, sum")
    write_project(tmp_path, wet, sql={"wet_trips": query})
    before = len(world.rows()[0])
    world.derive()
    assert len(world.rows()[0]) == before - 1


def test_parts_stay_that_any_clean_version_of_a_manifest_names(world: World) -> None:
    """Two versions of one snapshot's manifest may name other parts for the same rows, after a compaction."""
    erase(world)
    now = world.snapshot()
    assert now
    (part, *_), manifest = now.parts, f"{snapshots.folder('wet_trips')}{now.id}.json"
    other = replace(part, key=f"{snapshots.folder('wet_trips')}parts/{'0' * 64}.parquet", sha256="0" * 64)
    world.home.write("lake", other.key, b"the same rows in another file")
    newest = world.home.read("lake", manifest)
    world.home.write("lake", manifest, snapshots.manifest(replace(now, parts=(other,))))
    world.home.write("lake", manifest, newest)
    flow.again(world.platform)
    assert world.home.read("lake", other.key) and world.home.read("lake", part.key)


def test_nothing_is_measured_of_rows_that_wait_for_an_erasure(world: World) -> None:
    with pytest.MonkeyPatch.context() as during:
        during.setattr(flow.erase_derived, "follow", lambda *given: [])
        erase(world)
    with pytest.raises(ErasedMeanwhile, match="erase --again"):
        profile.make(world.platform, world.pipeline("wet_trips"), [None])
