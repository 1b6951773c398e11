"""What the demo's second part writes into the project: nothing twice, and nothing over a person's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from rempart.cli.demo import demo_flights
from rempart.errors import ConfigError
from rempart.flows.training import check_pipeline
from rempart.settings import config, pipelines
from rempart.settings.pipeline import ModelPipeline


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = config.project_root()
    for folder in ("data/flights", "include/operators"):
        shutil.copytree(root / folder, tmp_path / folder)
    for folder in ("include/pipelines", "include/sql"):
        (tmp_path / folder).mkdir()
    shutil.copy(root / "rempart.yaml", tmp_path)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return tmp_path


def test_its_pipelines_are_valid_and_its_query_gives_their_columns(project: Path) -> None:
    for _ in range(2):
        demo_flights.install(project)
    assert pipelines.names() == [demo_flights.WEATHER, demo_flights.DEPARTURES, demo_flights.JOINED]
    for name in pipelines.names():
        check_pipeline.check(pipelines.named(name))
    learning = [name for name in pipelines.names() if isinstance(pipelines.named(name), ModelPipeline)]
    assert learning == [demo_flights.JOINED]


def test_a_file_of_a_person_stays(project: Path) -> None:
    mine = project / "include" / "sql" / f"{demo_flights.JOINED}.sql"
    mine.write_text("SELECT 1")
    with pytest.raises(ConfigError, match="a file with other content is"):
        demo_flights.install(project)
    assert mine.read_text() == "SELECT 1"


def test_the_connection_is_declared_once_and_only_where_no_other_stands(project: Path) -> None:
    file = project / "rempart.yaml"
    for _ in range(2):
        demo_flights.declare(file, 15432)
    declared = yaml.safe_load(file.read_text())["connections"]
    assert declared["airport_database"]["hosts"] == ["127.0.0.1:15432"] and file.read_text().count("connections:") == 1
    before = file.read_text()
    with pytest.raises(ConfigError, match="not the airport's database on port 16000") as refused:
        demo_flights.declare(file, 16000)
    assert "127.0.0.1:16000" in refused.value.hint and file.read_text() == before
