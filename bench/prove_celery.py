"""Proof: with profiles `celery` and `monitoring`, two workers share the tasks; none is lost if one dies or stops.

    make prove-celery       (needs the same as `make prove-compose`)

The demo's chain runs with two workers, and both run tasks of it. Then the chain runs again, and the worker that trains
is killed (SIGKILL) and stays away: the chain succeeds on the other worker. A worker that is asked to stop finishes its
task first. The metrics server has the metrics that Airflow's processes push, and answers nobody without the password.
State and settings are the proof's own (var/celery-proof); otherwise they are as in `make prove-compose`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.prove_compose import BASE, PORTS, Check, Compose, base_image, check, proven, sizes, tell
from bench.seen import UID, escapes, secrets, shown, users
from rempart.airflow_api import AirflowApi
from rempart.settings import config
from rempart.settings.config import Connection, parse_connection

NAME = "celery"
PROFILES = ("celery", "monitoring")
TRAIN = "train_hotel_bookings"
ONLY_AFTER_A_FAILURE = re.compile("_failed_")
"""Metrics that nobody pushes while everything works."""


def build(compose: Compose, folder: Path) -> None:
    """Write the settings of a platform with both profiles, and build its images."""
    environment = {**os.environ, "REMPART_VAR": str(folder), "REMPART_HOME": str(compose.root)}
    command = [sys.executable, "-m", "rempart.cli", "stack", "init", "--profiles", ",".join(PROFILES)]
    subprocess.run([*command, "--settings", str(folder / "compose.env")], env=environment, cwd=compose.root, check=True)
    found = subprocess.run(["docker", "image", "inspect", base_image()], capture_output=True, check=False)
    if found.returncode and base_image() == BASE:
        subprocess.run([compose.root / "deploy" / "images" / "base.sh", BASE], check=True)
    compose.must("build", timeout=1800)


def start(compose: Compose, folder: Path, workers: int) -> None:
    """Start the platform from nothing."""
    build(compose, folder)
    compose.must("up", "--wait", "--scale", f"worker={workers}")


def given(folder: Path, name: str) -> Connection:
    text = config.read_env_file(folder / "compose" / "secrets.env")[f"AIRFLOW_CONN_{name.upper()}"]
    return parse_connection(name, text)


def api_of(folder: Path) -> AirflowApi:
    """Return a client of Airflow, through the gate."""
    user, port = given(folder, "airflow_api"), int(PORTS["REMPART_AIRFLOW_PORT"])
    return AirflowApi(Connection("gate", "http", "127.0.0.1", port, user.login, user.password, "http"))


def workers(compose: Compose) -> dict[str, dict[str, Any]]:
    """Return the Engine's description of each worker, by the worker's name in Airflow."""
    ids = compose.must("ps", "--all", "--quiet", "worker").split()
    done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
    return {load["Config"]["Hostname"]: load for load in json.loads(done.stdout)}


def tasks(api: AirflowApi, since: datetime) -> list[dict[str, Any]]:
    """Return every task instance that began since a time: the last try of each."""
    path, after = "/api/v2/dags/~/dagRuns/~/taskInstances", f"{since:%Y-%m-%dT%H:%M:%SZ}"
    return api.every(path, "task_instances", order_by="start_date", start_date_gte=after)


def spread(found: list[dict[str, Any]]) -> dict[str, int]:
    """Return the number of tasks of each worker; skipped tasks had none."""
    return dict(Counter(str(task["hostname"]) for task in found if task["hostname"]))


def running(api: AirflowApi, dag: str, since: datetime, patience: float = 400) -> dict[str, Any]:
    """Return the first task of a DAG that is seen running. Ends the proof if there is none."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for task in tasks(api, since):
            if task["dag_id"] == dag and task["state"] == "running" and task["hostname"]:
                return task
        time.sleep(0.5)
    raise SystemExit(f"no task of {dag} was seen running within {patience:.0f} s")


@contextmanager
def demo(compose: Compose, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demo's chain through REST, in a container beside the platform."""
    with log.open("wb") as out:
        command = compose.command("run", "--rm", "--no-deps", "-T", "cli", "rempart", "demo")
        process = subprocess.Popen(command, cwd=compose.root, env=compose.environment, stdout=out, stderr=out)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(30)


def share(compose: Compose, api: AirflowApi, folder: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Run the chain with both workers."""
    since, log = datetime.now(UTC), folder / "demo.log"
    with demo(compose, log) as process:
        code = process.wait(900)
    text = log.read_text(encoding="utf-8", errors="replace")
    told = text[-600:] if code else f"{text.count('✓')} facts"
    check(checks, "the demo's chain with two workers", code == 0, told)
    figures["tasks by worker"] = by = spread(found := tasks(api, since))
    both = set(by) == set(workers(compose)) and len(by) == 2
    check(checks, "its tasks ran on both workers, and nowhere else", both, f"{len(found)} tasks: {by}")


def kill(compose: Compose, api: AirflowApi, folder: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Run the chain once more; the worker that trains dies for good, as a lost machine does."""
    since, log = datetime.now(UTC), folder / "demo-killed.log"
    with demo(compose, log) as process:
        victim = running(api, TRAIN, since)
        dead = workers(compose)[victim["hostname"]]
        subprocess.run(["docker", "update", "--restart=no", dead["Id"]], capture_output=True, check=True)
        os.kill(dead["State"]["Pid"], 9)
        killed = datetime.now(UTC)
        tell(f"killed {victim['hostname']} in {victim['dag_id']}.{victim['task_id']}")
        code = process.wait(1200)
    figures["chain ended after the kill"] = round((datetime.now(UTC) - killed).total_seconds(), 1)
    text = log.read_text(encoding="utf-8", errors="replace")
    told = text[-600:] if code else f"{figures['chain ended after the kill']} s after the kill"
    check(checks, "the chain whose worker was killed ended well", code == 0, told)
    path = f"/api/v2/dags/{victim['dag_id']}/dagRuns/{victim['dag_run_id']}/taskInstances/{victim['task_id']}"
    again = api.get(path)
    moved = again["state"] == "success" and again["hostname"] != victim["hostname"] and again["try_number"] > 1
    detail = f"try {again['try_number']} on {again['hostname']}: {again['state']}"
    check(checks, "the killed task was done by the other worker", moved, detail)
    later = spread(tasks(api, killed))
    check(checks, "nothing went to the dead one", victim["hostname"] not in later, str(later))
    subprocess.run(["docker", "update", "--restart=unless-stopped", dead["Id"]], capture_output=True, check=True)
    compose.must("up", "--wait", "--scale", "worker=2")
    check(checks, "two workers are healthy again", len(workers(compose)) == 2, ", ".join(workers(compose)))


def stop(compose: Compose, api: AirflowApi, checks: list[Check], figures: dict[str, Any]) -> None:
    """Ask a worker to stop while it trains."""
    since = datetime.now(UTC)
    run = api.trigger(TRAIN)
    task = running(api, TRAIN, since)
    worker, asked = workers(compose)[task["hostname"]], time.monotonic()
    subprocess.run(["docker", "stop", worker["Id"]], capture_output=True, check=True)
    took = figures["stopped after"] = round(time.monotonic() - asked, 1)
    api.follow(TRAIN, run, lambda line: tell(f"stopping: {line}"))
    (done,) = [each for each in tasks(api, since) if each["dag_run_id"] == run and each["task_id"] == task["task_id"]]
    first = done["try_number"] == 1 and done["hostname"] == task["hostname"]
    check(checks, "a worker asked to stop ended its task first", first, f"stopped after {took} s, {done['state']}")


def look(compose: Compose, folder: Path, checks: list[Check]) -> None:
    """Check the containers of the profiles, and their messages."""
    containers = {
        name: container for name, container in compose.running().items() if name in ("broker", "worker", "monitoring")
    }
    roots = {name: uids for name, uids in users(containers).items() if uids != {UID}}
    check(checks, "broker, worker and metrics run as one user, who is not root", not roots, str(roots or f"uid {UID}"))
    reached, refusal = escapes(compose, sorted(containers))
    check(checks, "none of them reaches this machine's own address", not reached, refusal or str(reached))
    code, told = compose.inside("scheduler", "getent hosts primary haven")
    check(checks, "the scheduler knows no site", code != 0, told or "no such host")
    texts = {f"docker inspect {name}": json.dumps(container) for name, container in containers.items()}
    texts |= {f"log of {name}": compose.must("logs", "--no-log-prefix", name) for name in compose.containers()}
    found = shown(secrets(folder / "compose"), texts)
    check(checks, "no secret in docker inspect or logs", not found, str(found or f"{len(texts)} texts"))


def measured(folder: Path, root: Path, checks: list[Check]) -> None:
    """Check that every metric of the page was pushed, and that only a client with the password can read them."""
    user, url = given(folder, "monitoring"), f"http://127.0.0.1:{PORTS['REMPART_MONITORING_PORT']}"
    page = (root / "deploy" / "images" / "monitoring.html").read_text(encoding="utf-8")
    wanted = {f"airflow_{name}_heartbeat_total" for name in ("scheduler", "dag_processor", "triggerer")}
    asked = set(re.findall(r"airflow_\w+\w", page))
    wanted |= {name for name in asked if not ONLY_AFTER_A_FAILURE.search(name)}
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as anybody:
        codes = [anybody.get(path).status_code for path in ("/", "/api/v1/label/__name__/values", "/metrics")]
    with httpx.Client(base_url=url, trust_env=False, timeout=30, auth=(user.login, user.password)) as known:
        shown_page = known.get("/").text == page
        names = set(known.get("/api/v1/label/__name__/values").json()["data"])
        answer = known.get("/api/v1/label/instance/values").json()["data"]
    check(checks, "metrics are told to nobody without the password", set(codes) == {401}, str(codes))
    check(checks, "with it the page comes", shown_page, f"{url}/")
    missing = sorted(wanted - names)
    told = f"{len(wanted)} of {len(names)} metrics; missing: {', '.join(missing) or 'none'}"
    check(checks, "all that the page shows was pushed", not missing, told)
    check(checks, "each component pushes as itself", all("@" in name for name in answer), ", ".join(sorted(answer)))


def prove(compose: Compose, folder: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    began = time.monotonic()

    def step(name: str) -> None:
        nonlocal began
        figures[f"seconds: {name}"] = round(time.monotonic() - began, 1)
        tell(f"{name}: {figures[f'seconds: {name}']} s")
        began = time.monotonic()

    start(compose, folder, 2)
    step("start")
    up = sorted(compose.running())
    check(checks, "docker compose up --wait --scale worker=2", len(workers(compose)) == 2, ", ".join(up))
    figures["MB"] = sizes([f"rempart/{name}:{compose.tag}" for name in ("broker", "monitoring")])
    api = api_of(folder)
    share(compose, api, folder, checks, figures)
    step("demo")
    kill(compose, api, folder, checks, figures)
    step("kill")
    stop(compose, api, checks, figures)
    step("stop")
    measured(folder, compose.root, checks)
    look(compose, folder, checks)
    step("look")


def main() -> int:
    return proven(NAME, "two workers share the work", prove, config.var_dir().absolute() / "celery-proof")


if __name__ == "__main__":
    sys.exit(main())
