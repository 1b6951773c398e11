"""A file that is still a draft promotes no model: its guesses may leak, and nobody decided them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import PipelineError
from rempart.flows.training import check_pipeline
from rempart.flows.training.validate import draft_faults
from rempart.settings import pipelines
from rempart.settings.config import project_root


def test_only_a_decided_file_promotes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "pipelines_dir", lambda: tmp_path)
    (tmp_path / "rides.yaml").write_text("name: rides\nkey: [ride]  # CHECK: unique?\n")
    (told,) = draft_faults("rides")
    assert told.startswith(
        "include/pipelines/rides.yaml: 1 question marked CHECK is open in the pipeline file (line 2)"
    )
    (tmp_path / "rides.yaml").write_text("name: rides\nkey: [ride]\n")
    assert draft_faults("rides") == draft_faults("removed_since") == ()


def test_a_check_counts_the_lines_that_nobody_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include" / "pipelines").mkdir(parents=True)
    shutil.copy(project_root() / "rempart.yaml", tmp_path)
    file = tmp_path / "include" / "pipelines" / "hotel_bookings.yaml"
    shutil.copy(project_root() / "include" / "pipelines" / file.name, file)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.setattr(check_pipeline, "check", partial(check_pipeline.check, thorough=False))

    def told() -> str:
        return CliRunner().invoke(app, ["pipeline", "check", "hotel_bookings"]).output

    assert "pipeline hotel_bookings: valid\n" in told()
    file.write_text(
        file.read_text().replace("\npartition_by: arrival_date", "\npartition_by: arrival_date  # CHECK: month?")
    )
    assert "pipeline hotel_bookings: valid, but 1 question marked CHECK is open in the pipeline file (line " in told()
    file.write_text(file.read_text().replace("\nkey: [booking_id]", "\nkey: [no_such]"))
    wrong = CliRunner().invoke(app, ["pipeline", "check", "hotel_bookings"])
    assert isinstance(wrong.exception, PipelineError) and "hotel_bookings.yaml" in wrong.exception.what
    assert not wrong.output, "rempart.yaml is valid, and not named before the file at fault"
