"""What `rempart pipeline show` says about a champion's files."""

from __future__ import annotations

import pytest

from rempart.cli.views import model_files
from rempart.errors import ModelRefused, TrackingUnavailable
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
