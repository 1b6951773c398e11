"""Objects come from any intact copy, one by one; a silent site is not asked for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rempart.backup.points.object_sources import ObjectSources
from rempart.backup.points.points import HeldObject
from rempart.errors import IntegrityError, SiteUnavailable
from rempart.flows.restore.restore_source import OpenPoint
from tests.restorable import House, house

LAKE, MODEL = "raw/bookings/1/a.csv", "mlflow/1/model.onnx"


def sources_of(point: OpenPoint) -> ObjectSources:
    return ObjectSources(point.site, "backups", lambda name: name, point.keys.of_sealed, point.others)


def held(point: OpenPoint, key: str) -> HeldObject:
    return next(obj for obj in point.manifest.objects if obj.key == key)


@pytest.fixture
def made() -> House:
    made = house()
    made.point()
    return made


def test_the_replica_serves_first_with_what_its_writer_said(made: House, tmp_path: Path) -> None:
    point = made.open()
    made.haven.write("lake", LAKE, b"a newer version")  # the one on record is read by its version
    found = sources_of(point).fetch(held(point, LAKE), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == made.bodies["lake", LAKE]
    assert (found.copy, found.metadata, found.content_type) == ("replica", {"note": "kept"}, "text/csv")


def lose_replica(made: House, bucket: str, key: str) -> None:
    made.haven.delete(bucket, key, version_id=made.haven.head(bucket, key).version_id)


def test_then_the_sealed_form_then_another_site(made: House, tmp_path: Path) -> None:
    point = made.open()
    lose_replica(made, "lake", LAKE)
    assert sources_of(point).fetch(held(point, LAKE), tmp_path / "x").copy == "sealed"
    assert (tmp_path / "x").read_bytes() == made.bodies["lake", LAKE]
    made.primary.write("lake", LAKE, made.bodies["lake", LAKE])
    made.ring.destroy(point_scope(point, LAKE), dry_run=False)
    assert sources_of(made.open()).fetch(held(point, LAKE), tmp_path / "x").copy == "site primary"
    made.primary.write("lake", LAKE, b"another")
    with pytest.raises(IntegrityError, match=r"No copy of lake/raw/bookings/1/a\.csv") as refused:
        sources_of(made.open()).fetch(held(point, LAKE), tmp_path / "x")
    assert "destroyed" in refused.value.what and "site 'primary'" in refused.value.what


def point_scope(point: OpenPoint, key: str) -> Any:
    from rempart.backup.keys.encryption_scopes import parse

    return parse(held(point, key).sealed.scope)


def test_a_silent_site_is_given_up_and_told_once(
    made: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    point, asked = made.open(), []

    def silent(*arguments: object, **more: object) -> None:
        asked.append(arguments)
        raise SiteUnavailable("head at site 'haven': no answer", "Wait.")

    monkeypatch.setattr(made.haven, "fetch", silent)
    monkeypatch.setattr(made.haven, "open", silent)
    for (bucket, key), body in made.bodies.items():
        made.primary.write(bucket, key, body)
    serving = sources_of(point)
    for _ in range(6):
        assert serving.fetch(held(point, MODEL), tmp_path / "x").copy == "site primary"
    assert len(asked) == 3 and len(caplog.messages) == 1 and "'haven'" in caplog.text
    made.primary.delete("artifacts", MODEL, version_id=made.primary.head("artifacts", MODEL).version_id)
    with pytest.raises(IntegrityError):  # the site that answers does not have it, the other is not asked any more
        serving.fetch(held(point, MODEL), tmp_path / "x")


def test_while_a_copy_may_come_back_it_is_worth_another_run(made: House, tmp_path: Path) -> None:
    point = made.open()
    lose_replica(made, "artifacts", MODEL)
    unavailable = SiteUnavailable("open at site 'haven': no answer", "Wait.")

    def silent(*arguments: object, **more: object) -> None:
        raise unavailable

    made.haven.open = silent  # type: ignore[method-assign,assignment]
    with pytest.raises(SiteUnavailable, match="No copy of artifacts/mlflow"):
        sources_of(point).fetch(held(point, MODEL), tmp_path / "x")


def test_a_large_object_comes_as_a_stream_with_the_same_facts(
    made: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rempart.backup.points import object_sources

    point = made.open()
    monkeypatch.setattr(object_sources, "IN_ONE", 10)
    monkeypatch.setattr(made.haven, "fetch", lambda *a, **k: pytest.fail("in memory"))
    found = sources_of(point).fetch(held(point, LAKE), tmp_path / "x")
    assert (found.copy, found.metadata, found.content_type) == ("replica", {"note": "kept"}, "text/csv")
    assert (tmp_path / "x").read_bytes() == made.bodies["lake", LAKE]
