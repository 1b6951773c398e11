"""The whole chain through Airflow on the test stack, once a run of tests, for all tests that look at its results.

A person delivers files and follows the pipeline by the command line; replication, a restore point, a drill, a restore
into a sandbox and a bad candidate follow by REST. The first delivery has rows whose free-text columns hold canary
values. They stand for personal data, and the tests search for them everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rempart.airflow_api import AirflowApi
from rempart.backup.keys import age
from rempart.cli.demo.demo_run import BAD_PARAMS
from rempart.flows.shared.platform import Platform
from rempart.ingestion.sample import deliveries
from rempart.settings import config, pipelines
from tests.levels import unpaused

PIPELINE = "hotel_bookings"
OF_PIPELINE = ("ingest", "materialize_features", "train", "validate_model", "preview_quarantine", "roll_back_model")
DAGS = (
    *(f"{kind}_{PIPELINE}" for kind in OF_PIPELINE),
    f"profile_data_{PIPELINE}",
    "replicate_primary_to_haven",
    "backup_platform",
    "restore_drill",
    "restore_to_sandbox",
)
REMPART = str(Path(sys.executable).parent / "rempart")
CANARY = "canary_q7x2v9"
LOOKER = age.new_identity()
GOOD, BAD = 5, 3
"""Canary rows that are accepted, and that are quarantined (no adult)."""
ROWS, FIRST_ID = 40, 7_000_001
"""Rows of the person's own file, of which the last has no adult, and the first of their numbers."""
DELIVERED = 15402 + GOOD + BAD + ROWS


@dataclass(frozen=True)
class Chain:
    """Results of one chain: output of its commands, values that its stages returned, and the run of its drill."""

    delivered: str
    followed: str
    ingested: dict[str, Any]
    profiled: dict[str, Any]
    features: dict[str, Any]
    trained: dict[str, Any]
    judged: dict[str, Any]
    refused: dict[str, Any]
    copied: dict[str, Any]
    point: dict[str, Any]
    drill: str
    drilled: dict[str, Any]
    restored_aside: dict[str, Any]
    removed: dict[str, Any]
    looked: dict[str, Any]
    again: dict[str, Any]


def rempart(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REMPART, *arguments], capture_output=True, text=True, check=False, timeout=1500)


def done(*arguments: str) -> str:
    """The output of a command that must succeed."""
    found = rempart(*arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


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


def with_canaries(body: bytes) -> bytes:
    """A delivery with canary values in the agent and company of rows appended to it."""
    lines = body.decode().splitlines()
    names, template = lines[0].split(","), lines[1].split(",")
    for i in range(GOOD + BAD):
        row = dict(zip(names, template, strict=True))
        row |= {"booking_id": str(900001 + i), "agent": CANARY, "company": CANARY, "adults": "2" if i < GOOD else "0"}
        lines.append(",".join(row[name] for name in names))
    return ("\n".join(lines) + "\n").encode()


def landed(platform: Platform) -> dict[str, bytes]:
    site, bucket = platform.active_site(pipelines.named(PIPELINE).classification), platform.config.buckets.landing
    prefix = pipelines.named(PIPELINE).source.prefix
    return {info.key.removeprefix(prefix): site.read(bucket, info.key) for info in site.list(bucket, prefix)}


def deliver(platform: Platform, folder: Path) -> str:
    """Deliver the sample with its canaries and a file of the person's own; return what the command told.

    A wrong file beside it and another file of its name are refused, and change nothing.
    """
    (name, first), *rest = sample()
    own = rows(ROWS, FIRST_ID, without_adults=1).encode()
    files = {"own.csv": own, name: with_canaries(first), **dict(rest)}
    for file, body in files.items():
        (folder / file).write_bytes(body)
    wrong = folder / "wrong.csv"
    wrong.write_text("booking_id,colour\n1,red\n")
    refused = rempart("pipeline", "deliver", PIPELINE, str(folder / "own.csv"), str(wrong))
    assert refused.returncode == 1 and "own.csv" not in landed(platform)
    assert "nothing was uploaded. wrong.csv: it lacks columns" in refused.stderr
    assert "columns that the pipeline file does not have: 1" in refused.stderr and "colour" not in refused.stderr
    told = done("pipeline", "deliver", PIPELINE, *(str(folder / file) for file in files))
    (folder / "own.csv").write_text(rows(ROWS, FIRST_ID + 1000, without_adults=0))
    taken = rempart("pipeline", "deliver", PIPELINE, str(folder / "own.csv"))
    assert taken.returncode == 1 and "another delivery of that name waits" in taken.stderr
    assert landed(platform) == files
    return told


def first_delivery(platform: Platform) -> str:
    """The SHA-256 of the delivery with the canaries, as the cockpit's page has it."""
    told = [
        delivery for record in platform.ledger.find("deliveries", PIPELINE) for delivery in record.body["deliveries"]
    ]
    return str(max(told, key=lambda delivery: delivery["quarantined"])["sha256"])


def run(platform: Platform, folder: Path) -> Chain:
    """Deliver and follow the pipeline; then replicate, back up, drill, and a bad model. `folder` is empty."""
    with unpaused(AirflowApi(config.environment_connections("airflow_api")), *DAGS) as api:
        return _run(platform, api, folder)


def _run(platform: Platform, api: AirflowApi, folder: Path) -> Chain:
    ingest, since = f"ingest_{PIPELINE}", datetime.now(UTC)

    def finish(dag_id: str, task: str, run_id: str) -> dict[str, Any]:
        api.follow(dag_id, run_id, lambda line: None)
        return api.result(dag_id, run_id, task)

    def by_asset(dag_id: str, task: str) -> dict[str, Any]:
        return finish(dag_id, task, api.await_run(dag_id, since))

    delivered = deliver(platform, folder)
    followed = done("pipeline", "run", PIPELINE, "--follow")
    # usually the command's own run, but the one that Airflow starts at its hour may have been faster
    runs = api.get(f"/api/v2/dags/{ingest}/dagRuns?order_by=-run_after&limit=10")["dag_runs"]
    ingested = next(result for run in runs if (result := finish(ingest, "ingest", run["dag_run_id"]))["deliveries"])
    features = by_asset(f"materialize_features_{PIPELINE}", "materialize")
    profiled = by_asset(f"profile_data_{PIPELINE}", "profile")
    trained = by_asset(f"train_{PIPELINE}", "train")
    gate = api.await_run(f"validate_model_{PIPELINE}", since)
    judged = finish(f"validate_model_{PIPELINE}", "validate", gate)
    point = finish("backup_platform", "back_up", api.await_run("backup_platform", since, source_run=gate))
    copied = api.run("replicate_primary_to_haven", "conclude")
    asked = {"delivery": first_delivery(platform), "recipient": LOOKER.recipient}
    looked = api.run(f"preview_quarantine_{PIPELINE}", "preview", asked)
    again = api.run(ingest, "ingest", {"again": asked["delivery"]})
    bad_since, validate = datetime.now(UTC), f"validate_model_{PIPELINE}"
    bad = api.trigger(f"train_{PIPELINE}", {"trainer_params": BAD_PARAMS})  # trains beside the drill and the restore
    drill = api.trigger("restore_drill", {"point": point["id"]})
    drilled = finish("restore_drill", "report", drill)
    message = {"aside": "e2e", "parts": ["database:feast_registry", f"dataset:{PIPELINE}"], "dry_run": False}
    restored_aside = api.run("restore_to_sandbox", "restore_to_sandbox", message)
    removed = api.run("restore_to_sandbox", "restore_to_sandbox", message | {"remove": True})
    api.follow(f"train_{PIPELINE}", bad, lambda line: None)
    refused = finish(validate, "validate", api.await_run(validate, bad_since))
    return Chain(
        delivered, followed, ingested, profiled, features, trained, judged, refused, copied,
        point, drill, drilled, restored_aside, removed, looked, again,
    )  # fmt: skip
