"""The plan of a restore, before it changes anything: its point, its parts, their order and duration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.points import restore_plan
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Dump, HeldObject, Manifest, Secrets
from rempart.backup.points.restore_plan import Meter, Part, choose, parse_part, select
from rempart.backup.points.sealing import SealedObject
from rempart.errors import BackupError, IntegrityError

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def link(seq: int, consistent: bool = True) -> Link:
    at = BEGAN + timedelta(hours=seq)
    return Link(seq, f"{at:%Y%m%dT%H%M%SZ}-abcdef", at, "0" * 64, consistent, None if seq == 1 else "1", "k")


def sealed(scope: str = "platform-platform-372d", serial: str = "0001") -> SealedObject:
    return SealedObject(scope, serial, f"sealed/{scope}/x.age", "v", "0" * 64, 1, BEGAN)


def held(bucket: str, key: str, size: int = 1, scope: str = "platform-platform-372d") -> HeldObject:
    return HeldObject(bucket, key, size, "0" * 64, "v", sealed(scope))


def manifest(objects: tuple[HeldObject, ...] = (), databases: tuple[str, ...] = ("airflow", "mlflow")) -> Manifest:
    dumps = tuple(Dump(n, f"database-{n}-1d", "0001", "s", "0" * 64, 10 * len(n), {}, {}) for n in databases)
    secrets = Secrets(sealed(), "0" * 64, 1)
    point = link(1).point
    return Manifest(point, BEGAN, "primary", "0.1", "c", dumps, objects, {}, (0, None), (), 0.0, secrets)


chains = st.lists(st.booleans(), min_size=1, max_size=12).map(
    lambda flags: [link(number, good) for number, good in enumerate(flags, 1)]
)


@given(chains, st.data())
def test_without_a_name_it_is_the_newest_that_lacks_nothing_and_is_there(
    links: list[Link], data: st.DataObject
) -> None:
    present = data.draw(st.sets(st.sampled_from([judged.point for judged in links])))
    fitting = [judged for judged in links if judged.consistent and judged.point in present]
    if fitting:
        assert choose(links, present, None, force=False) == fitting[-1]
    else:
        with pytest.raises(BackupError, match="the site has none that is complete"):
            choose(links, present, None, force=False)


@given(chains, st.data())
def test_a_name_is_obeyed_but_going_back_has_to_be_said(links: list[Link], data: st.DataObject) -> None:
    named = data.draw(st.sampled_from(links))
    present = {judged.point for judged in links}
    newer = [record for record in links if record.consistent and record.seq > named.seq]
    assert choose(links, present, named.point, force=True) == named
    if newer:
        with pytest.raises(BackupError, match=f"older than {newer[-1].point}"):
            choose(links, present, named.point, force=False)
    else:
        assert choose(links, present, named.point, force=False) == named


def test_points_that_nobody_vouches_for_are_told() -> None:
    links, stranger = [link(1), link(2)], link(9).point
    with pytest.raises(IntegrityError, match=f"restore points: 1 at the site .* {stranger}"):
        choose(links, {link(1).point, link(2).point, stranger}, None, force=False)
    assert choose(links, {link(2).point, stranger}, None, force=True) == links[1]
    older = "20200101T000000Z-abcdef"  # of a release without the chain
    assert choose(links, {link(2).point, older}, None, force=False) == links[1]
    with pytest.raises(IntegrityError, match="the chain has none"):
        choose(links, {link(2).point, older}, older, force=True)


def test_a_point_that_was_pruned_is_told() -> None:
    with pytest.raises(BackupError, match="its manifest is missing at the site"):
        choose([link(1), link(2)], {link(2).point}, link(1).point, force=True)


def test_parts_are_named_as_the_command_line_does() -> None:
    assert parse_part("model:hotel_bookings") == Part("model", "hotel_bookings")
    for wrong in ("lake", "bucket:landing", "database:", "model:a b", "bucket:lake\n", "x:y", "dataset:../x"):
        with pytest.raises(BackupError, match="not a part of a restore point"):
            parse_part(wrong)
    for wrong in ("", "A", "1a", "a-b", "a" * 21, "a;"):
        with pytest.raises(BackupError):
            restore_plan.check_suffix(wrong)
    assert restore_plan.check_suffix("before2") == "before2"


OBJECTS = (
    held("lake", "raw/bookings/1/a.csv", 5),
    held("lake", "snapshots/bookings/s1/part.parquet", 7),
    held("lake", "raw/other/1/a.csv", 11),
    held("artifacts", "mlflow/1/models/m-1/artifacts/model.onnx", 13),
    held("artifacts", "mlflow/1/models/m-10/artifacts/model.onnx", 17),
)


def test_each_part_selects_its_own_and_nothing_else() -> None:
    whole = select(manifest(OBJECTS))
    assert (
        whole.whole
        and len(whole.objects) == 5
        and [database.name for database in whole.databases] == ["airflow", "mlflow"]
    )
    assert [obj.bucket for obj in whole.objects] == ["artifacts"] * 2 + ["lake"] * 3  # models first
    selection = select(manifest(OBJECTS), [Part("database", "mlflow")])
    assert [x.name for x in selection.databases] == ["mlflow"] and not selection.objects and not selection.whole
    assert {x.key for x in select(manifest(OBJECTS), [Part("dataset", "bookings")]).objects} == {
        "raw/bookings/1/a.csv",
        "snapshots/bookings/s1/part.parquet",
    }
    folders = {"hotel": ("mlflow/1/models/m-1/",)}
    model = select(manifest(OBJECTS), [Part("model", "hotel")], folders)
    assert [x.size for x in model.objects] == [13] and model.object_bytes == 13
    both = select(manifest(OBJECTS), [Part("bucket", "lake"), Part("dataset", "other"), Part("database", "airflow")])
    assert len(both.objects) == 3 and len(both.databases) == 1


@pytest.mark.parametrize("part", ["database:none", "dataset:none", "model:none"])
def test_a_part_that_the_point_lacks_is_refused(part: str) -> None:
    with pytest.raises(BackupError, match=manifest().id):
        select(manifest(OBJECTS), [parse_part(part)])


def test_what_was_destroyed_on_purpose_stays_gone_in_every_copy() -> None:
    gone = "dataset-bookings-395d"
    objects = (held("lake", "raw/bookings/1/a.csv", 5, gone), *OBJECTS[2:])
    found = select(manifest(objects), destroyed={(gone, "0001")})
    assert found.withheld == {gone: 1} and len(found.objects) == 3
    again = select(manifest(objects), destroyed={(gone, "0002")})
    assert not again.withheld and len(again.objects) == 4


def test_keys_without_which_a_restore_cannot_end() -> None:
    whole = restore_plan.keys_needed(manifest(OBJECTS), select(manifest(OBJECTS)))
    assert ("platform-platform-372d", "0001") in whole and ("database-mlflow-1d", "0001") in whole
    lake = select(manifest(OBJECTS), [Part("bucket", "lake")])
    assert restore_plan.keys_needed(manifest(OBJECTS), lake) == []


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50), st.floats(0.01, 1e4))
def test_time_left_is_never_negative_and_ends_at_nothing(sizes: list[int], pace: float) -> None:
    total = sum(map(restore_plan.weight, sizes))
    meter, now = Meter("objects", total, 0.0), 0.0
    for size in sizes:
        now += pace
        line = meter.add(restore_plan.weight(size), now)
        assert line is None or "about" in line
    assert restore_plan.time_left(meter.done, total, now) == 0.0
    assert restore_plan.time_left(0, total, now) is None


def test_progress_is_told_every_few_seconds_with_the_time_left() -> None:
    meter = Meter("objects", 100, began=0.0)
    assert meter.add(10, 1.0) is None and meter.add(10, 4.9) is None
    assert meter.add(30, 5.0) == "objects: 50 %, about 5 s left"
    assert meter.add(10, 6.0) is None
    assert meter.add(15, 600.0) == "objects: 75 %, about 3 min left"


def test_every_part_is_told_with_its_size() -> None:
    told = {str(part): (count, size) for part, count, size in restore_plan.parts(manifest(OBJECTS))}
    assert told["dataset:bookings"] == ("2 objects", 12) and told["bucket:artifacts"] == ("2 objects", 30)
    assert told["database:mlflow"] == ("0 tables", 60)
