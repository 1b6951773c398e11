"""The page docs/how-to/join-two-pipelines.md, executed: its files, its commands, and what it says about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.flows.shared.platform import Platform
from rempart.ingestion.derived import inputs
from rempart.settings import pipelines
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sources import DerivedSource
from tests.derived_project import NOW, TRIPS, WEATHER, World, trip, weather, write_project
from tests.unit.ingestion.conftest import make_platform

__all__ = ["make_platform"]
PAGE = (project_root() / "docs/how-to/join-two-pipelines.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return next(text for text in found if word in text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path, TRIPS, WEATHER, block("yaml", "kind: derived"), sql={"wet_trips": block("sql", "JOIN")})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str) -> tuple[str, str]:
    """Run the command of a block. Return what it printed, and what the page says it prints."""
    command, _, shown = text.removeprefix("$ rempart ").partition("\n")
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    return done.output, shown


def files_of(project: Path) -> None:
    """Write a file for each input."""
    days = range(1, 6)
    trips = [trip(10 * day + hour, hour, day + hour, day=day) for day in days for hour in range(4)]
    hours = [row for day in days for row in weather(0, 1, 2, 3, day=day)]
    for name, header, rows in (("trips", "trip,started,rider,km", trips), ("weather", "hour,rain", hours)):
        (project / f"{name}.csv").write_text("\n".join([header, *rows, ""]))


def test_the_check_prints_what_the_page_says(project: Path) -> None:
    printed, shown = run(block("console", "pipeline check"))
    assert printed.replace(f"{project}/", "") == shown


def test_a_try_reads_a_file_of_each_input(project: Path) -> None:
    files_of(project)
    printed, _ = run(block("console", "pipeline try"))
    assert "wet_trips.parquet" in printed and "20" in printed
    assert (
        "deliver trips FILE\n  rempart pipeline deliver weather FILE" in printed and "deliver wet_trips" not in printed
    )
    assert "  rempart pipeline run trips --follow\n  rempart pipeline run weather --follow\n" in printed
    assert "pipeline show wet_trips    # new rows of its inputs start it" in printed
    (project / "other.csv").write_text("x\n1\n")
    done = CliRunner().invoke(app, ["pipeline", "try", "wet_trips", "other.csv"])
    assert done.exit_code and "is named after none of its inputs: trips, weather" in str(done.exception)


def test_a_draft_is_made_from_the_query_and_a_file_of_each_input(project: Path) -> None:
    (project / "include/pipelines/wet_trips.yaml").unlink()
    files_of(project)
    run(block("console", "pipeline new"))
    spec = pipelines.named("wet_trips")
    assert isinstance(spec.source, DerivedSource) and spec.source.inputs == ["trips", "weather"]
    assert {name: column.type for name, column in spec.columns.items()} == {
        "hour": "timestamp", "rain": "number", "km": "number", "trips": "integer",
    }  # fmt: skip
    inputs.check(spec)


def test_the_target_of_a_derived_draft_can_be_chosen(project: Path) -> None:
    files_of(project)
    for target in ("rain", "trips"):
        (project / "include/pipelines/wet_trips.yaml").unlink()
        run(f"{block('console', 'pipeline new').splitlines()[0]} --target {target}")
        spec = pipelines.named("wet_trips")
        assert isinstance(spec, ModelPipeline) and spec.prediction.target == target


def test_a_file_cannot_be_delivered(project: Path) -> None:
    (project / "trips.csv").write_text("trip\n1\n")
    done = CliRunner().invoke(app, ["pipeline", "deliver", "wet_trips", "trips.csv"])
    assert done.exit_code and "its rows are derived from trips, weather" in str(done.exception)


def test_the_files_of_the_page_run(project: Path, make_platform: Callable[[], Platform]) -> None:
    world = World(replace(make_platform(), clock=lambda: NOW))
    world.deliver("trips", "one", [trip(1, 0, 2), trip(2, 0, 3), trip(3, 1, 5)])
    world.deliver("weather", "one", weather(0.5, 0))
    world.derive()
    assert [row[1:] for row in world.rows()] == [(0.5, 5.0, 2), (0.0, 5.0, 1)]
    for kind in ("extraction", "snapshot", "derivation"):
        assert world.platform.ledger.find(kind, "wet_trips")  # type: ignore[arg-type] # kinds of the page
