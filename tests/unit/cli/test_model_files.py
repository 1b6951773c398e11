"""What `rempart pipeline show` says about a champion's files."""

from __future__ import annotations

import threading

import pytest

from rempart.cli.views import model_files
from rempart.errors import ModelRefused, TrackingRefused, TrackingUnavailable
from rempart.flows.prediction import champion
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates import stored_objects
from rempart.flows.training.candidates.stored_objects import ChampionObjects
from rempart.models import loading
from tests import switchovers


@pytest.fixture
def platform() -> Platform:
    made = switchovers.in_memory()
    made.ledger.append("candidate", "rentals", {"name": "rentals", "version": "1"})
    return made


def look(platform: Platform, version: str = "1") -> model_files.ModelFiles:
    return model_files.look(lambda: platform, "rentals", version, 60)


def test_files_that_cannot_be_loaded_are_told_with_the_remedy(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Platform, "tracking", lambda self: None)
    monkeypatch.setattr(loading, "verify", lambda tracking, record: None)
    assert look(platform) == model_files.ModelFiles() and list(model_files.lines(look(platform))) == []
    assert "no evidence names its files" in str(look(platform, "2").fault)

    def lost(tracking: object, record: object) -> None:
        raise ModelRefused("Model rentals version 1: file 'model.onnx' is missing", "x")

    monkeypatch.setattr(loading, "verify", lost)
    (line,) = model_files.lines(look(platform))
    assert "file 'model.onnx' is missing" in line and "rempart restore --only bucket:artifacts" in line

    def silent(tracking: object, record: object) -> None:
        raise TrackingUnavailable("no answer", "x")

    monkeypatch.setattr(loading, "verify", silent)
    monkeypatch.setattr(stored_objects, "look", lambda *_: {"rentals": ChampionObjects(silent="no answer either")})
    assert look(platform) == model_files.ModelFiles(silent="no answer")


def test_an_entry_that_mlflow_lost_is_no_file_of_the_site() -> None:
    gone = ChampionObjects("primary", 3, missing=("MLflow's entry of logged model m-1", "jobs/1/model.onnx"))
    error = TrackingRefused("load model rentals version 1: no such model", "x")
    told = stored_objects.cause(gone, "rentals", "1", error)
    assert isinstance(told, TrackingRefused) and "MLflow's entry of logged model m-1" in told.what
    assert "database:mlflow" in told.hint
    told = stored_objects.cause(ChampionObjects("primary", 3, missing=("jobs/1/model.onnx",)), "rentals", "1", error)
    assert isinstance(told, ModelRefused) and "1 of its 3 objects are missing at site 'primary'" in told.what


def test_a_site_that_is_silent_holds_no_prediction_up(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow answers with an error because its site is silent; the look at the objects asks the same site."""
    ends = threading.Event()

    def refused(tracking: object, record: object) -> None:
        raise TrackingUnavailable("load model rentals version 1: no answer", "x")

    monkeypatch.setattr(Platform, "tracking", lambda self: None)
    monkeypatch.setattr(champion, "load", refused)
    monkeypatch.setattr(stored_objects, "look", lambda *_: ends.wait())
    monkeypatch.setattr(time_limit, "SITE_SECONDS", 0.1)
    with pytest.raises(TrackingUnavailable, match="no answer"):
        champion.version_of(platform, "rentals", "1")
    ends.set()
