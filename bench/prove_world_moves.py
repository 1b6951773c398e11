"""Proof: the world moves (prices × 1.3 from a date), and the platform learns again by itself.

    make prove-world-moves     a picture of the page needs Debian's `chromium` (or CHROMIUM=/path/to/chromium)

On a stack of its own, deliveries of the months before the date land, a model becomes champion, and the scorer answers
with it. Then the deliveries of later months land, with moved prices. After that the proof only looks. The landing watch
starts the ingestion, the time of `schedules.monitor` the watch of the champion, and assets the rest: red verdict,
training, gate, promotion. The scorer swaps the version while requests go on.

In between, the task that publishes the alarm is killed (SIGKILL): after the verdict is on record, and before the asset
is updated. It must be repeated, without a second training. Each link is then read from Airflow, from the ledger and
from the cockpit's pages.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import psutil

from bench.moving_world import (
    FACTORS,
    MOVED_FROM,
    PATIENCE,
    PIPELINE,
    Asking,
    booking,
    deliveries,
    project,
    scorer,
    until,
)
from bench.prove_failover import Check, check
from bench.prove_pods import own_stack, write
from rempart.airflow_api import AirflowApi
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.setup import paths
from rempart.flows.governance import clients
from rempart.flows.prediction_log import keys
from rempart.flows.shared.platform import Platform, open_platform
from rempart.ledger.attributed import Writer, writer
from rempart.ledger.port import Evidence, Kind
from rempart.settings import config, telemetry
from rempart.settings.pipelines import named, with_model

OFFSET, CLIENT = "12000", "proof"
STAGES = ("ingest", "materialize_features", "train", "validate_model", "monitor")
"""DAGs of the chain. The others are paused, so that backups and copies take no time of a small machine."""


@dataclass(frozen=True)
class Looking:
    """Looks at the platform while it works. It starts nothing."""

    platform: Platform
    api: AirflowApi
    stack: paths.Stack

    def record(self, kind: Kind, wanted: Callable[[Mapping[str, Any]], bool], seconds: float = PATIENCE) -> Evidence:
        """Wait for a record of the pipeline, and return it."""

        def found() -> Evidence | None:
            return next((r for r in self.platform.ledger.find(kind, PIPELINE, limit=50) if wanted(r.body)), None)

        seen = until(found, f"a record of kind {kind}", seconds)
        print(f"    {seen.at:%H:%M:%S} record {seen.seq}: {kind}, {_told(seen)}", flush=True)
        return seen

    def task(self, run: Writer, task: str) -> dict[str, Any]:
        path = f"/api/v2/dags/{run.dag}/dagRuns/{run.run}/taskInstances"
        return next(found for found in self.api.every(path, "task_instances") if found["task_id"] == task)

    def kill_task(self, run: Writer, task: str) -> bool:
        """Kill the process of a task (SIGKILL) as soon as it runs. Return whether it had not ended before."""
        title = f"airflow worker -- {self.task(run, task)['id']}"
        (scheduler,) = [found.pid for found in status.services(self.stack, time.time()) if found.name.endswith("uler")]

        def found() -> int | None:
            for process in psutil.Process(scheduler).children(recursive=True):
                with suppress(psutil.Error):
                    if " ".join(process.cmdline()).strip() == title:
                        return process.pid
            return None

        os.kill(until(found, f"task {task} runs"), signal.SIGKILL)
        return self.task(run, task)["state"] == "running"

    def causes(self, run: Writer) -> list[tuple[str, str]]:
        """Return asset and run for each update that started a run."""
        path = f"/api/v2/dags/{run.dag}/dagRuns/{run.run}/upstreamAssetEvents"
        return [(str(event["name"]), str(event["source_run_id"])) for event in self.api.get(path)["asset_events"]]


def _told(record: Evidence) -> str:
    names = ("outcome", "version", "verdict")
    return ", ".join(f"{name} {record.body[name]}" for name in names if record.body.get(name) is not None)


def by(record: Evidence) -> Writer:
    found = writer(record)
    if found is None:
        raise SystemExit(f"record {record.seq} names no run")
    return found


def deliver(platform: Platform, stage: str, files: Mapping[str, bytes]) -> None:
    site, key = platform.active_site(named(PIPELINE).classification), f"{named(PIPELINE).source.prefix}{stage}.csv"
    site.write(platform.config.buckets.landing, key, files[stage], content_type="text/csv")


def prove(stack: paths.Stack, folder: Path) -> tuple[list[Check], dict[str, Any]]:
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    look, files = Looking(platform, api, stack), deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz")
    for stage in STAGES:
        api.await_dag(f"{stage}_{PIPELINE}")

    for dag_id in sorted(set(api.dag_ids()) - {f"{stage}_{PIPELINE}" for stage in STAGES}):
        api._call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", json={"is_paused": True})

    print("--- the months before the world moves land", flush=True)
    deliver(platform, "before", files)
    first = look.record("promotion", lambda body: True)
    old = str(first.body["version"])
    key = clients.issue(platform.ledger, CLIENT, [PIPELINE], 600, [PIPELINE])
    keys.make(platform, with_model(named(PIPELINE)))
    with scorer(stack.scorer_port + 1, folder / "scorer.log") as url:
        asking = Asking(url, key, booking())
        until(lambda: _answers(asking, old), f"the scorer answers with version {old}")
        with asking.going_on():
            calm = look.record("monitoring", lambda body: body["version"] == old)
            print(f"--- prices × {FACTORS['moved']} from {MOVED_FROM} on land, and nothing else is done", flush=True)
            moved = datetime.now(UTC)
            deliver(platform, "moved", files)
            alarm = look.record("monitoring", lambda body: body["outcome"] == "red")
            killed = look.kill_task(by(alarm), "publish_drift")
            print("    killed the task that publishes the alarm", flush=True)
            began = look.record("retraining", lambda body: body["version"] is None)
            candidate = look.record("candidate", lambda body: str(body["version"]) != old)
            gate = look.record("promotion", lambda body: str(body["version"]) != old)
            new = str(gate.body["version"])
            swapped = until(lambda: asking.first(new), f"the scorer answers with version {new}")
            after = look.record("monitoring", lambda body: str(body["version"]) == new)
    chain = Chain(alarm, began, candidate, gate)
    checks = [
        check("before, the watch raised no alarm", calm.body["outcome"] != "red", _verdict(calm)),
        check("the alarm names what moved", bool(alarm.body["reasons"]), _verdict(alarm)),
        check("the publishing task was killed between the verdict's record and the asset's update", killed, by(alarm)),
        *of_airflow(look, chain),
        *of_service(asking, old, new),
        check("the watch raises no alarm on the new champion", after.body["outcome"] != "red", _verdict(after)),
        *of_ledger(platform, chain),
        *of_pages(api, chain, folder),
    ]
    figures = {
        "from_delivery_to_alarm_seconds": _seconds(moved, alarm.at),
        "from_alarm_to_training_seconds": _seconds(alarm.at, began.at),
        "from_training_to_candidate_seconds": _seconds(began.at, candidate.at),
        "from_candidate_to_promotion_seconds": _seconds(candidate.at, gate.at),
        "from_promotion_to_first_answer_seconds": _seconds(gate.at, swapped),
        "from_delivery_to_first_answer_seconds": _seconds(moved, swapped),
        "answers": len(asking.answers),
        "mae_of_champion": gate.body["champion_metrics"]["mae"],
        "mae_of_candidate": gate.body["metrics"]["mae"],
    }
    return checks, figures


@dataclass(frozen=True)
class Chain:
    """The records of the chain: verdict, begin of the training, candidate, promotion."""

    alarm: Evidence
    began: Evidence
    candidate: Evidence
    gate: Evidence


def _answers(asking: Asking, version: str) -> bool:
    with suppress(OSError, ValueError):
        return asking.ask() == version
    return False


def _seconds(since: datetime, at: datetime) -> float:
    return round((at - since).total_seconds(), 1)


def _verdict(record: Evidence) -> str:
    reasons = record.body["reasons"]
    return f"{record.body['outcome']} on version {record.body['version']}: {'; '.join(reasons[:3]) or 'nothing moved'}"


def of_ledger(platform: Platform, chain: Chain) -> list[Check]:
    """Check that one number goes through the whole chain, and that one training was started."""
    number, links = chain.alarm.seq, (chain.began, chain.candidate, chain.gate)
    told = ", ".join(f"{record.kind} {record.seq}" for record in links)
    ledger = platform.ledger
    begun = [r for r in ledger.find("retraining", PIPELINE, limit=50) if r.body["version"] is None]
    trained = ledger.find("candidate", PIPELINE, limit=50)
    return [
        check(
            "each record names the verdict as its cause",
            all(record.body["verdict"] == number for record in links),
            f"verdict {number}: {told}",
        ),
        check("the verdict started one training", len(begun) == 1 and len(trained) == 2, f"{len(begun)} begun"),
    ]


def of_airflow(look: Looking, chain: Chain) -> list[Check]:
    """Check that each run was started by the run before it, and none by a person."""
    watched, trained, judged = by(chain.alarm), by(chain.began), by(chain.gate)
    drift, candidate = look.causes(trained), look.causes(judged)
    published, api = look.task(watched, "publish_drift"), look.api
    runs = [
        run
        for dag in api.dag_ids()
        if dag.endswith(PIPELINE)
        for run in api.every(f"/api/v2/dags/{dag}/dagRuns", "dag_runs")
    ]
    by_hand = [
        run["dag_run_id"]
        for run in runs
        if run["run_type"] == "manual" and not run["dag_run_id"].startswith("landed__")
    ]
    return [
        check(
            "the killed task was repeated",
            (published["state"], published["try_number"]) == ("success", 2),
            f"publish_drift: {published['state']} at try {published['try_number']}",
        ),
        check("the asset of the alarm started the training", (f"drift_{PIPELINE}", watched.run) in drift, drift),
        check(
            "the asset of the candidate started the gate",
            (f"candidate_{PIPELINE}", trained.run) in candidate,
            candidate,
        ),
        check("nobody started a run", not by_hand, f"{len(runs)} runs by time, asset and delivery"),
    ]


def of_service(asking: Asking, old: str, new: str) -> list[Check]:
    """Check that the scorer swapped the version once, and answered each request."""
    versions = [version for _, version in asking.answers]
    swaps = [pair for pair in pairwise(versions) if pair[0] != pair[1]]
    return [
        check("the scorer swapped the version, once", swaps == [(old, new)], swaps),
        check("each request was answered", not asking.lost, f"{len(versions)} answers; {asking.lost[:3]}"),
    ]


def of_pages(api: AirflowApi, chain: Chain, folder: Path) -> list[Check]:
    """Check that the cockpit shows the chain as one story, whose links lead to runs, records and versions."""
    number, version = chain.alarm.seq, str(chain.gate.body["version"])
    told = section(page("monitoring"), number)
    runs = [f"/dags/{by(r).dag}/runs/{by(r).run}" for r in (chain.alarm, chain.began, chain.gate)]
    records = [f"/rempart/ledger/{r.seq}" for r in (chain.alarm, chain.began, chain.gate)]
    wanted = [*runs, *records, f"/rempart/models#{PIPELINE}-{version}", str(chain.alarm.body["reasons"][0])]
    missing = [text for text in wanted if text not in told]
    back = f"/rempart/monitoring#alarm-{number}"
    there = f'id="{PIPELINE}-{version}"' in (models := page("models")) and back in models
    done = subprocess.run(
        [sys.executable, "-m", "rempart.cli", "model", "drift", PIPELINE], capture_output=True, text=True, check=False
    )
    return [
        check("the page Monitoring shows the whole chain", not missing, missing or f"{len(wanted)} texts and links"),
        check("the page Models leads to it, and it to the version", there, back),
        check(
            "`rempart model drift` tells it", f"because of verdict {number}" in done.stdout, done.stdout.strip()[:80]
        ),
        picture(api, number, by(chain.began), folder),
    ]


def page(name: str) -> str:
    """Return a page of the cockpit, as a user of Airflow gets it."""
    login = config.environment_connections("airflow_api")
    with httpx.Client(base_url=f"http://{login.host}:{login.port}", timeout=60, trust_env=False) as http:
        token = http.post("/auth/token", json={"username": login.login, "password": login.password}).json()
        asked = http.get(f"/rempart/{name}", headers={"Authorization": f"Bearer {token['access_token']}"})
        return asked.raise_for_status().text


def section(shown: str, number: int) -> str:
    """Return the chain of a verdict in a page, with readable addresses; empty if it is not there."""
    found = re.search(rf'<ol class="path" id="alarm-{number}".*?</ol>', shown, re.DOTALL)
    return unquote(html.unescape(found[0])) if found else ""


def picture(api: AirflowApi, number: int, run: Writer, folder: Path) -> Check:
    """Look at the chain with a browser, follow its link to Airflow's page of the training, and take a picture."""
    what, chromium = (
        "a browser shows the chain, and its link opens the run",
        os.environ.get("CHROMIUM") or shutil.which("chromium"),
    )
    if not chromium:
        return {"what": what, "ok": None, "detail": "there is no chromium on this machine"}
    from playwright.sync_api import sync_playwright

    login, file = config.environment_connections("airflow_api"), folder / "world-moves.png"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1360, "height": 900}, locale="en")
        page.set_default_timeout(60_000)
        page.goto(f"{api.url}/auth/login")
        page.get_by_label("Username").fill(login.login)
        page.get_by_label("Password").fill(login.password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "login" not in url)
        page.goto(f"{api.url}/rempart/monitoring#alarm-{number}")
        chain = page.locator(f"#alarm-{number}")
        chain.wait_for()
        steps = chain.locator("> li").count()
        page.screenshot(path=file)
        chain.locator(f"a[href*='/dags/{run.dag}/']").first.click()
        page.wait_for_url(lambda url: run.run in unquote(url))
        page.get_by_text(run.dag).first.wait_for()
        browser.close()
    return check(what, steps == 5, f"{steps} steps; {file}")


@rendering.on_terminal()
def main() -> int:
    began, folder = time.monotonic(), config.var_dir() / "prove-world-moves"
    home = folder / "home"
    project(home)
    with own_stack(home, folder / "var", OFFSET, {}) as stack:
        lifecycle.up(stack)
        telemetry.adopt_environment()
        checks, figures = prove(stack, folder)
    return 0 if write("world-moves", checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
