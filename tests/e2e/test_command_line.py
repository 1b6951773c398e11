"""The command line as a person uses it: deliver, run and look, on the real stack.

It starts from any state of the pipeline: without data it delivers the sample. It adds rows with numbers of its own, and
ends with the champion that it found.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.airflow_api import AirflowApi
from rempart.cli import app
from rempart.flows.shared.platform import Platform
from rempart.flows.training.champions import decisions_on, intended
from rempart.ingestion.sample import deliveries
from rempart.models import registry
from rempart.settings import config, pipelines
from tests.levels import unpaused

pytestmark = pytest.mark.stack

PIPELINE = "hotel_bookings"
DAGS = tuple(f"{stem}_{PIPELINE}" for stem in ("ingest", "materialize_features", "train", "validate_model"))
REMPART = str(Path(sys.executable).parent / "rempart")
ROWS, FIRST_ID = 40, 7_000_001
RULE = "a booking needs at least one adult"


def rempart(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REMPART, *arguments], capture_output=True, text=True, check=False, timeout=1500)


def done(*arguments: str) -> str:
    """The output of a command that must succeed."""
    found = rempart(*arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(*arguments, "--json"))
    return found


def sample() -> Iterator[tuple[str, bytes]]:
    return deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz")


def rows(count: int, first: int, without_adults: int) -> str:
    """A delivery of rows of the sample under new numbers. The last ones have no adult."""
    lines = next(body for _, body in sample() if body.count(b"\n") > count).decode().splitlines()
    names, made = lines[0].split(","), [lines[0]]
    for number, line in enumerate(lines[1 : count + 1]):
        row = dict(zip(names, line.split(","), strict=True)) | {"booking_id": str(first + number)}
        row |= {"adults": "0"} if number >= count - without_adults else {}
        made.append(",".join(row[name] for name in names))
    return "\n".join(made) + "\n"


@pytest.fixture(scope="module")
def api() -> Iterator[AirflowApi]:
    with unpaused(AirflowApi(config.environment_connections("airflow_api")), *DAGS) as made:
        yield made


@pytest.fixture(scope="module")
def before(platform: Platform, api: AirflowApi) -> Iterator[str | None]:
    """The champion before the module, which is champion again at its end."""
    found = intended(decisions_on(platform.ledger, PIPELINE))
    yield found
    if found not in (None, intended(decisions_on(platform.ledger, PIPELINE))):
        done("model", "roll-back", PIPELINE, "--to", str(found), "--yes")
        assert registry.champion(platform.tracking(), PIPELINE) == found


def landed(platform: Platform) -> dict[str, bytes]:
    site, bucket = platform.active_site(pipelines.named(PIPELINE).classification), platform.config.buckets.landing
    prefix = pipelines.named(PIPELINE).source.prefix
    return {info.key.removeprefix(prefix): site.read(bucket, info.key) for info in site.list(bucket, prefix)}


@pytest.fixture(scope="module")
def delivered(platform: Platform, before: str | None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the command told about a delivery of new rows, and of the sample if there is no data yet."""
    folder = tmp_path_factory.mktemp("deliveries")
    files = {"own.csv": rows(ROWS, FIRST_ID, without_adults=1).encode()}
    if not platform.ledger.find("promotion", PIPELINE, limit=1):
        files |= dict(sample())
    for name, body in files.items():
        (folder / name).write_bytes(body)
    wrong = folder / "wrong.csv"
    wrong.write_text("booking_id,colour\n1,red\n")
    refused = rempart("pipeline", "deliver", PIPELINE, str(folder / "own.csv"), str(wrong))
    assert refused.returncode == 1 and "own.csv" not in landed(platform)
    assert "nothing was uploaded. wrong.csv: it lacks columns" in refused.stderr
    assert "columns that the pipeline file does not have: 1" in refused.stderr and "colour" not in refused.stderr
    told = done("pipeline", "deliver", PIPELINE, *(str(folder / name) for name in files))
    own = files["own.csv"]
    assert landed(platform)["own.csv"] == own
    (folder / "own.csv").write_text(rows(ROWS, FIRST_ID + 1000, without_adults=0))
    taken = rempart("pipeline", "deliver", PIPELINE, str(folder / "own.csv"))
    assert taken.returncode == 1 and "another delivery of that name waits" in taken.stderr
    assert landed(platform)["own.csv"] == own
    return told


@pytest.fixture(scope="module")
def followed(delivered: str) -> str:
    return done("pipeline", "run", PIPELINE, "--follow")


def test_a_delivery_is_read_back_and_what_happens_next_is_told(delivered: str) -> None:
    assert "own.csv: " in delivered and "uploaded and read back, with the right SHA-256" in delivered
    assert f"The DAG ingest_{PIPELINE} ingests at" in delivered
    assert delivered.rstrip().endswith(f"rempart pipeline run {PIPELINE} --follow")


def test_each_stage_of_a_run_is_told_with_seconds_and_result(followed: str) -> None:
    stages = [line.split()[2] for line in followed.splitlines() if " done in " in line]
    assert stages == ["ingest", "materialize", "train", "validate"]
    assert "was trained" in followed
    assert " is at most " in followed or " is above " in followed, "the gate says why"
    assert "\x1b" not in followed, "no control characters without a terminal"


def test_the_state_of_the_pipeline_has_the_delivery_and_the_champion(followed: str, platform: Platform) -> None:
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


def test_a_run_without_new_rows_goes_on_after_ctrl_c(followed: str, api: AirflowApi) -> None:
    command = [REMPART, "pipeline", "run", PIPELINE, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith(f"Starting ingest_{PIPELINE} in Airflow")
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "The run goes on in Airflow" in told and "Traceback" not in errors
    run = first.rsplit("run ", 1)[1].strip()
    api.follow(f"ingest_{PIPELINE}", run, lambda line: None)
    assert not api.result(f"ingest_{PIPELINE}", run, "ingest")["changed"]


def test_a_name_that_does_not_exist_is_answered_with_a_known_one() -> None:
    for command in (("pipeline", "show"), ("pipeline", "run"), ("model", "show"), ("quarantine", "show")):
        found = rempart(*command, "hotel_booking")
        assert found.returncode == 2 and f"Did you mean '{PIPELINE}'?" in found.stderr, command


def test_the_champion_predicts_rows_of_a_file(followed: str, platform: Platform, tmp_path: Path) -> None:
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


def test_models_are_listed_and_shown(followed: str, platform: Platform) -> None:
    champion = intended(decisions_on(platform.ledger, PIPELINE))
    (model,) = (found for found in document("model", "list")["models"] if found["model"] == PIPELINE)
    assert model["champion"]["version"] == champion
    assert f"Version {champion}: champion\n" in done("model", "show", PIPELINE)
    unknown = rempart("model", "compare", PIPELINE, str(champion), "999")
    assert unknown.returncode == 2 and "Known: " in unknown.stderr
