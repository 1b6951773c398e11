"""The command line as a person uses it: deliver, run and look, on the real stack with the results of the chain."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.airflow_api import AirflowApi
from rempart.cli import app
from rempart.flows.shared.platform import Platform
from rempart.flows.training.champions import decisions_on, intended
from rempart.settings import config
from tests.e2e.chains import FIRST_ID, PIPELINE, REMPART, ROWS, Chain, done, rempart, rows
from tests.levels import unpaused

pytestmark = pytest.mark.stack

DAGS = tuple(f"{stem}_{PIPELINE}" for stem in ("ingest", "materialize_features", "train", "validate_model"))
RULE = "a booking needs at least one adult"


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(*arguments, "--json"))
    return found


@pytest.fixture(scope="module")
def api() -> Iterator[AirflowApi]:
    with unpaused(AirflowApi(config.environment_connections("airflow_api")), *DAGS) as made:
        yield made


def test_a_delivery_is_read_back_and_what_happens_next_is_told(chain: Chain) -> None:
    delivered = chain.delivered
    assert "own.csv: " in delivered and "uploaded and read back, with the right SHA-256" in delivered
    assert f"The DAG ingest_{PIPELINE} ingests at" in delivered
    assert delivered.rstrip().endswith(f"rempart pipeline run {PIPELINE} --follow")


def test_each_stage_of_a_run_is_told_with_seconds_and_result(chain: Chain) -> None:
    followed = chain.followed
    stages = [line.split()[2] for line in followed.splitlines() if " done in " in line]
    assert stages == ["ingest", "materialize", "train", "validate"]
    assert "was trained" in followed
    assert " is at most " in followed or " is above " in followed, "the gate says why"
    assert "\x1b" not in followed, "no control characters without a terminal"


def test_the_state_of_the_pipeline_has_the_delivery_and_the_champion(chain: Chain, platform: Platform) -> None:
    state = document("pipeline", "show", PIPELINE)
    assert state["known"] and state["unknown"] == {} and state["rules"][RULE] >= 1
    assert any(d["delivered"] == ROWS and d["quarantined"] == 1 for d in state["newest_deliveries"]) or (
        state["deliveries"] > 60
    )
    assert state["champion"]["version"] == intended(decisions_on(platform.ledger, PIPELINE))
    assert f"version {state['champion']['version']}" in done("pipeline", "list")
    listed = done("quarantine", "show", PIPELINE)
    assert RULE in listed and f"/rempart/data/{PIPELINE}" in listed
    assert str(FIRST_ID + ROWS - 1) not in listed, "no value of a row"


def test_a_run_without_new_rows_goes_on_after_ctrl_c(chain: Chain, api: AirflowApi) -> None:
    command = [REMPART, "pipeline", "run", PIPELINE, "--follow"]
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline().startswith(f"Starting ingest_{PIPELINE} in Airflow")
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            told, errors = process.communicate(timeout=120)
        if process.returncode != 0:  # else the run was over before the signal came
            break
    assert process.returncode == 130 and "The run goes on in Airflow" in told and "Traceback" not in errors
    run = first.rsplit("run ", 1)[1].strip()
    api.follow(f"ingest_{PIPELINE}", run, lambda line: None)
    assert not api.result(f"ingest_{PIPELINE}", run, "ingest")["changed"]


def test_a_name_that_does_not_exist_is_answered_with_a_known_one() -> None:
    for command in (("pipeline", "show"), ("pipeline", "run"), ("model", "show"), ("quarantine", "show")):
        found = rempart(*command, "hotel_booking")
        assert found.returncode == 2 and f"Did you mean '{PIPELINE}'?" in found.stderr, command


def test_the_champion_predicts_rows_of_a_file(chain: Chain, platform: Platform, tmp_path: Path) -> None:
    file, output = tmp_path / "asked.csv", tmp_path / "predictions.csv"
    names, *asked = (line.split(",") for line in rows(4, FIRST_ID, without_adults=0).splitlines())
    strange = dict(zip(names, asked[-1], strict=True)) | {"distribution_channel": "by_pigeon"}
    late = ("booking_id", "avg_price_per_room", "booking_changes")
    kept = [i for i, name in enumerate(names) if name not in late]
    lines = [",".join(row[i] for i in kept) for row in (names, *asked, list(strange.values()))]
    file.write_text("\n".join(lines) + "\n")
    found = CliRunner().invoke(app, ["model", "predict", PIPELINE, str(file), "--output", str(output)])
    assert found.exit_code == 1, found.output
    champion = intended(decisions_on(platform.ledger, PIPELINE))
    assert f"{PIPELINE}: version {champion}, champion" in found.stdout and "4 predictions written" in found.stdout
    assert "distribution_channel: not among the declared values (line 6)" in found.stdout
    assert [line.split(",")[0] for line in output.read_text().splitlines()] == ['"line"', "2", "3", "4", "5"]


def test_models_are_listed_and_shown(chain: Chain, platform: Platform) -> None:
    champion = intended(decisions_on(platform.ledger, PIPELINE))
    (model,) = (found for found in document("model", "list")["models"] if found["model"] == PIPELINE)
    assert model["champion"]["version"] == champion
    assert f"Version {champion}: champion\n" in done("model", "show", PIPELINE)
    unknown = rempart("model", "compare", PIPELINE, str(champion), "999")
    assert unknown.returncode == 2 and "Known: " in unknown.stderr
