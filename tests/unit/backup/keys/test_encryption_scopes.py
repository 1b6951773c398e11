"""The encryption scope of an object, and ids that distinguish scopes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.keys import encryption_scopes
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.errors import BackupError, PipelineError
from rempart.ingestion import landing, snapshots
from rempart.settings import config
from rempart.settings.pipelines import load_all, named
from rempart.settings.schema import parse_duration

CONFIG = config.load()
PIPELINES = load_all()
OTHERWISE = timedelta(days=372)
PLATFORM = EncryptionScope("platform", "platform", "372d")

names = st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)
retentions = st.from_regex(r"[1-9][0-9]{0,5}[dhms]", fullmatch=True)
made = st.builds(EncryptionScope, st.sampled_from(["dataset", "database", "platform"]), names, retentions)


def scope_of(bucket: str, key: str) -> EncryptionScope:
    return encryption_scopes.of_object(bucket, key, PIPELINES, CONFIG.retention, OTHERWISE)


@given(made, made)
def test_an_id_names_one_scope(scope: EncryptionScope, other: EncryptionScope) -> None:
    assert (scope.id == other.id) == (scope == other)
    assert encryption_scopes.parse(scope.id) == scope
    assert "/" not in scope.id and not scope.id.startswith(other.id + "/")


@pytest.mark.parametrize(
    "text", ["", "dataset", "dataset-a", "dataset-a-", "dataset-a-0d", "dataset-A-1d", "dataset-a-1w", "x-a-1d",
             "dataset-../x-1d", "dataset-a-1d/", "dataset-a-1d\n", "dataset-a-b-1d"],
)  # fmt: skip
def test_what_is_no_scope_is_refused(text: str) -> None:
    with pytest.raises(BackupError, match="is not a valid encryption scope"):
        encryption_scopes.parse(text)


def test_a_datasets_objects_are_kept_apart_by_how_long_they_are_kept() -> None:
    kept = CONFIG.retention[named("hotel_bookings").classification]
    arrival = landing.Arrival("in/a.csv", "ab" * 32, 1, datetime(2026, 1, 1, tzinfo=UTC), "")
    keys = {
        landing.raw_key("hotel_bookings", arrival): kept.raw,
        landing.quarantine_key("hotel_bookings", "ab" * 32): kept.quarantine,
        f"{snapshots.folder('hotel_bookings')}current.json": kept.snapshots,
        f"training/hotel_bookings/{'ab' * 32}.parquet": kept.snapshots,
        f"profiles/hotel_bookings/{'ab' * 16}.html": kept.snapshots,
        f"snapshots/hotel_bookings/_delta_log/{3:020d}.json": kept.snapshots,
    }
    for key, retention in keys.items():
        assert scope_of("lake", key) == EncryptionScope(
            "dataset", "hotel_bookings", encryption_scopes.text_of(retention)
        )
    assert len({scope_of("lake", key) for key in keys}) == 2


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("artifacts", "mlflow/1/model.onnx"),
        ("artifacts", "raw/hotel_bookings/a"),
        ("lake", "raw/hotel_bookings"),
        ("lake", "raw//a"),
        ("lake", "raw/Hotel/a"),
        ("lake", "raw/../hotel_bookings/a"),
        ("lake", "readme.txt"),
    ],
)
def test_what_nobody_can_attribute_belongs_to_the_platform(bucket: str, key: str) -> None:
    assert scope_of(bucket, key) == PLATFORM


def test_a_dataset_whose_pipeline_is_gone_or_broken_counts_as_personal() -> None:
    wanted = EncryptionScope("dataset", "old", encryption_scopes.text_of(CONFIG.retention["personal"].raw))
    assert scope_of("lake", "raw/old/a") == wanted
    broken = {"old": PipelineError("what", "hint")}
    assert encryption_scopes.of_object("lake", "raw/old/a", broken, CONFIG.retention, OTHERWISE) == wanted


@given(st.text(), st.text(max_size=200))
def test_every_object_has_a_scope(bucket: str, key: str) -> None:
    assert encryption_scopes.parse(scope_of(bucket, key).id)


@given(st.integers(1, 10**9))
def test_a_retention_is_written_as_it_is_read(seconds: int) -> None:
    assert parse_duration(encryption_scopes.text_of(timedelta(seconds=seconds))) == timedelta(seconds=seconds)
