"""The searches of a pipeline on the terminal: a table, what the newest found, and YAML that can be pasted."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from rempart.airflow_api import AirflowApi
from rempart.cli import app
from rempart.cli.models.search import lines
from rempart.flows.search.records import search_of
from rempart.ledger.port import Evidence
from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.settings.search.ranges import ParameterSearch
from rempart.web.read_models.searches.views import SearchView, view
from tests import searched
from tests.cockpit import NOW

MODEL = "hotel_bookings"


def made(seq: int = 4, **changed: object) -> SearchView:
    return view(search_of(Evidence(seq, NOW, "search", MODEL, searched.body(**changed))))


def test_each_search_is_a_row_and_the_newest_is_told() -> None:
    told = list(lines(MODEL, [made(9), made(4, search="a" * 16, best=None)]))
    assert told[1].split()[0] == "0123456789abcdef" and told[1].endswith("mae 21.25  9")
    assert told[2].split()[0] == "a" * 16 and told[2].split()[-2:] == ["-", "4"]
    text = "\n".join(told)
    assert "3 complete, 1 pruned, 1 failed; ended after its last trial; 1 min 02 s of training in all" in text
    assert "mae 21.25 on the validation part, in trial 3" in text
    assert "learning_rate 60%, num_leaves 25%, leave_out 15%" in text


def test_the_last_lines_are_a_section_of_the_pipeline_file() -> None:
    text = "\n".join(lines(MODEL, [made()]))
    section = yaml.safe_load(text.partition(f"Parameters for the pipeline file of {MODEL}:")[2])
    assert section["trainer"]["seed"] == 7
    assert section["trainer"]["params"] == {"max_iter": 1000, **searched.body()["trials"][3]["params"]}


def test_without_a_complete_trial_nothing_is_pasted() -> None:
    told = list(lines(MODEL, [made(best=None, importances={})]))
    assert told[-1].startswith("No trial was complete") and "trainer:" not in "\n".join(told)


def test_without_a_search_the_next_step_is_told() -> None:
    (told,) = lines(MODEL, [])
    assert "A search is recorded when it ends. Start one: rempart model search hotel_bookings --start" in told
    assert "Declare `trainer.search`" in "".join(lines(MODEL, [], declared=False))


def test_a_search_is_started_and_its_page_told_but_not_without_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection("airflow_api", "http", "airflow", 18080, "admin", "secret", "http")
    monkeypatch.setattr("rempart.settings.config.environment_connections", lambda name: connection)
    monkeypatch.setattr(AirflowApi, "await_dag", lambda api, dag_id: None)
    monkeypatch.setattr(AirflowApi, "trigger", lambda api, dag_id: "manual__1")
    refused = CliRunner().invoke(app, ["model", "search", MODEL, "--start"])
    assert refused.exit_code == 1 and "has no `trainer.search`" in str(refused.exception or refused.output)
    spec = pipelines.with_model(pipelines.named(MODEL))
    ranges = ParameterSearch.model_validate({"params": {"num_leaves": {"low": 7, "high": 63}}, "trials": 2})
    searching = spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"search": ranges})})
    monkeypatch.setattr(pipelines, "named", lambda name: searching)
    started = CliRunner().invoke(app, ["model", "search", MODEL, "--start"], catch_exceptions=False)
    assert started.output.startswith("started search_hotel_bookings: http://airflow:18080/dags/search_hotel_bookings/")
    assert "rempart model search hotel_bookings" in started.output.splitlines()[1]
    document = json.loads(CliRunner().invoke(app, ["model", "search", MODEL, "--start", "--json"]).output)
    assert document["pipeline"] == MODEL and document["started"].endswith("/dags/search_hotel_bookings/runs/manual__1")
    both = CliRunner().invoke(app, ["model", "search", MODEL, "0123", "--start"])
    assert both.exit_code == 2 and "--start" in both.output
