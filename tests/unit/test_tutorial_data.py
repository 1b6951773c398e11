"""The tutorial's data are what their script writes, and its pages show the pipeline file as it is shipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rempart.settings import pipelines
from rempart.settings.config import project_root

FOLDER = project_root() / "data" / "tutorial"
PAGE = project_root() / "docs" / "tutorial" / "first-pipeline.md"


def test_the_script_writes_the_shipped_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "make_bike_rentals.py"), str(tmp_path)], check=True)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(written) == 2
    assert written == {file.name: file.read_bytes() for file in FOLDER.glob("*.csv")}


def test_the_pipeline_file_is_valid_and_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include" / "pipelines").mkdir(parents=True)
    shutil.copy(project_root() / "rempart.yaml", tmp_path)
    shutil.copy(FOLDER / "bike_rentals.yaml", tmp_path / "include" / "pipelines")
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    assert pipelines.with_model(pipelines.named("bike_rentals")).prediction.target == "hours_ridden"
    shipped = iter((FOLDER / "bike_rentals.yaml").read_text(encoding="utf-8").splitlines())
    shown = PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0].splitlines()
    lines = [line.partition("  #")[0].rstrip() for line in shown if line]
    assert len(lines) > 10
    for line in lines:  # in the order of the file
        assert any(found.partition("  #")[0].rstrip() == line for found in shipped), line
