"""A lake with two deliveries at two sites in memory, whose feature store and MLflow are the test's own."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.flows.removal import facts
from rempart.flows.shared.platform import Platform
from rempart.settings import pipelines
from tests.erasable import Lake
from tests.unit.flows.erasure.booked import copied, new_lake, without_features
from tests.unit.flows.removal.stores import Stores

NAME = "hotel_bookings"


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    made = Stores()
    without_features(monkeypatch)
    monkeypatch.setattr(facts.feature_removal, "tables_of", lambda *given: (made.tables, []))
    monkeypatch.setattr(facts.feature_removal, "remove", made.drop)
    monkeypatch.setattr(facts.model_removal, "registered", lambda *given: made.models)
    monkeypatch.setattr(facts.model_removal, "remove", made.forget)
    monkeypatch.setattr(Platform, "tracking", lambda self: None)
    return made


@pytest.fixture(scope="module")
def first() -> Lake:
    with pytest.MonkeyPatch.context() as patched:
        without_features(patched)
        return new_lake()


@pytest.fixture
def lake(stores: Stores, first: Lake) -> Lake:
    made = copied(first)
    table = io.BytesIO()
    pq.write_table(pa.table({"booking_id": [1]}), table)
    for name in ("primary", "haven"):
        made.site(name).write(made.bucket, f"training/{NAME}/{'0' * 64}.parquet", table.getvalue())
        made.site(name).write(made.bucket, f"profiles/{NAME}/x.html", b"a profile")
        made.site(name).write(made.bucket, f"spark/{NAME}/ingest/{'0' * 16}/part.parquet", b"of a job that was killed")
        made.site(name).write(made.bucket, "snapshots/other/current.json", b"of another pipeline")
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{NAME}.yaml").write_text(pipelines.text_of(NAME), encoding="utf-8")
    monkeypatch.setattr(pipelines, "pipelines_dir", lambda: tmp_path)
    return tmp_path
