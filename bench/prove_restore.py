"""Proof: everything is lost except the site `haven` and the escrowed keys; one command restores the platform.

    make prove-restore            ARGS="--killed" kills the command (SIGKILL) at each of its steps and starts it again

The demo runs in a copy of this project, with a server that this proof starts for another operator as `haven`. Then all
of it is destroyed: the stack is stopped, its state and the copy are deleted. Kept outside are an escrow identity, the
ledger's public key, and haven's address and credentials. In a fresh copy, with an environment that holds nothing else,
`rempart restore` runs once. The proof then requests the old DAG runs, the champion and the online features as a user
would, and compares them with their earlier values. A booking that was erased after the restore point must not exist
anywhere. Finally the chain runs again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import yaml

from bench.prove_failover import Check, check
from bench.prove_pods import write
from rempart.airflow_api import AirflowApi
from rempart.backup.keys import age
from rempart.cli import rendering
from rempart.cli.demo import demo_run as demo
from rempart.deployment.embedded import lifecycle
from rempart.deployment.servers import object_sites
from rempart.deployment.setup import credentials, environment, launch, paths, services
from rempart.errors import RempartError
from rempart.features import offline, online
from rempart.features.plan import view_tables
from rempart.flows.restore import restore_checks
from rempart.flows.shared.platform import Platform, open_platform
from rempart.flows.training.materialize import feature_databases
from rempart.ledger.keys import to_pem
from rempart.models import registry
from rempart.settings import config, telemetry
from rempart.settings.pipelines import named

OFFSET = "4600"
PIPELINE = demo.PIPELINE
ENOUGH = 180.0
"""Seconds that the restore of the demo's data may take on two cores."""
KILL_AT = ("--- stores", "--- databases", "ok: database", "--- objects", "--- services", "--- proof")
"""Messages of the command for its steps."""
_LEFT_BEHIND = shutil.ignore_patterns("var", ".venv*", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.pyc")


@dataclass(frozen=True)
class Operator:
    """Operator of a site: a server with its own folder and credentials, which outlive the platform."""

    stack: paths.Stack
    secrets: dict[str, str]
    site: str = "haven"

    @property
    def endpoint(self) -> str:
        return f"http://{self.stack.host(self.site)}:{self.stack.ports[self.site]}"

    def customer(self) -> dict[str, str]:
        """Return the environment variables of the operator's customer."""
        names = (f"AIRFLOW_CONN_S3_{kind}{self.site.upper()}" for kind in ("", "WITNESS_", "WATCH_"))
        return {name: self.secrets[name] for name in names if name in self.secrets}

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the server until the end of the context, or until it is killed."""
        variables = environment.of(self.stack, self.secrets, os.environ, f"site-{self.site}")
        service = services.site(self.stack, self.site)
        with (self.stack.logs / f"{self.site}.log").open("ab") as log:
            process = subprocess.Popen(service.command, env=variables, stdout=log, stderr=log, start_new_session=True)
        try:
            resolve, deadline = credentials.connections(self.stack, self.secrets), time.monotonic() + 60
            while True:
                try:
                    object_sites.check(self.stack, self.site, resolve)
                    break
                except RempartError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise
                    time.sleep(0.5)
            yield process
        finally:
            if process.poll() is None:
                # the process has flushed long before it ends
                launch.end([psutil.Process(process.pid)], service.stop_seconds)
            process.wait()


def operator(
    folder: Path, site: str = "haven", offset: str = OFFSET, kind: type[paths.Stack] = paths.Stack
) -> Operator:
    """Return the operator of a site, with its settings written."""
    stack = kind(config.project_root(), folder, config.load(), int(offset))
    stack.prepare()
    secrets = credentials.plan(stack, {}, credentials.new_token, credentials.new_fernet_key)
    object_sites.write_settings(stack, credentials.connections(stack, secrets), secrets)
    return Operator(stack, secrets, site)


def clone(home: Path, recipient: str, endpoint: str) -> None:
    """Copy this project as a team has it: `haven` at another operator, backups also for an escrow identity."""
    shutil.copytree(config.project_root(), home, ignore=_LEFT_BEHIND)
    file = home / "rempart.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["services"]["haven"] = {"external": {"url": endpoint, "connection": "s3_haven"}}
    data["backup"]["recipients"] = [recipient]
    data["backup"].pop("escrow", None)
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def at(home: Path, var: Path, customer: dict[str, str], offset: str = OFFSET) -> dict[str, str]:
    """Return the environment of a person who works with a copy: only its place, and haven's credentials."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "SSL_CERT_FILE")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **customer,
        "REMPART_HOME": str(home),
        "REMPART_VAR": str(var),
        "REMPART_PORT_OFFSET": offset,
        "PYTHONPATH": str(home / "include"),  # the code of the copy, not of the original project
    }


@contextmanager
def working(variables: dict[str, str]) -> Iterator[paths.Stack]:
    """Let this process work with a copy; its stack is stopped at the end."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ |= variables
    telemetry.adopt_environment()
    stack = paths.current()
    try:
        yield stack
    finally:
        lifecycle.down(stack)
        os.environ.clear()
        os.environ |= before


@dataclass(frozen=True)
class Seen:
    """The platform as its users see it: ended DAG runs, the champion, online features, objects.

    `erased`: a booking that was erased after the restore point.
    """

    runs: dict[tuple[str, str], str]
    champion: str | None
    rows: list[Any]
    objects: dict[tuple[str, str], str]
    erased: int = 0


def look(platform: Platform, api: AirflowApi, where: str = "primary") -> Seen:
    listed = api.every("/api/v2/dags/~/dagRuns", "dag_runs")
    runs = {(run["dag_id"], run["dag_run_id"]): run["state"] for run in listed if run["state"] in ("success", "failed")}
    pipeline, rows = named(PIPELINE), []
    for table in view_tables(pipeline):
        keys = [key for key, _ in restore_checks.newest(feature_databases(platform).offline, pipeline, table)]
        with online.reader(feature_databases(platform), pipeline, table.view) as opened:
            rows.append(opened.read(keys))
    site, objects = platform.site(where, "personal"), {}
    for bucket in (platform.config.buckets.lake, platform.config.buckets.artifacts):
        for info in site.list(bucket):
            objects[bucket, info.key] = hashlib.sha256(site.read(bucket, info.key)).hexdigest()
    return Seen(runs, registry.champion(platform.tracking(), PIPELINE), rows, objects)


def holders(platform: Platform, booking: int) -> list[str]:
    """Return the places of a booking: versions of objects at every site, rows and values of the feature stores."""
    pipeline, found = named(PIPELINE), []
    for name in platform.config.sites:
        site, bucket = platform.site(name, "personal"), platform.config.buckets.lake
        for info in [version for version in site.versions(bucket) if not version.marker]:
            body = site.read(bucket, info.key, version_id=info.version_id)
            if holds(gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body, booking):
                found.append(f"{info.key} at {name}")
    if booking in [key[0] for key in offline.keys(feature_databases(platform), pipeline)]:
        found.append("offline store")
    with online.reader(feature_databases(platform), pipeline, "booking") as opened:
        (row,) = opened.read([{"booking_id": booking}])
    return found + ["online store"] * any(value is not None for name, value in row.items() if name != "booking_id")


def holds(body: bytes, booking: int) -> bool:
    """Return whether a delivery, rows in Parquet, or the statistics of a Delta log's checkpoint contain a booking."""
    if not body.startswith(b"PAR1"):
        return f"\n{booking},".encode() in body
    table = pq.read_table(io.BytesIO(body))
    if "booking_id" in table.column_names:
        return booking in table["booking_id"].to_pylist()
    if "add" in table.column_names:
        return any("booking_id" in (added or {}).get("stats", "") for added in table["add"].to_pylist())
    return any((text or "").startswith(f"{booking},") for text in table["raw"].to_pylist())


def erase(platform: Platform) -> int:
    """Erase a booking as an operator would, and return it. It must exist before, and nowhere afterwards."""
    pipeline = named(PIPELINE)
    (view,) = (table for table in view_tables(pipeline) if table.view == "booking")
    booking = int(
        next(iter(restore_checks.newest(feature_databases(platform).offline, pipeline, view)))[0]["booking_id"]
    )
    had = holders(platform, booking)
    command = [sys.executable, "-m", "rempart.cli", "pipeline", "erase", PIPELINE, "--file", "-", "--yes"]
    command += ["--role", "data-protection-officer", "--reason", "objection"]
    subprocess.run(command, input=f"{booking}\n", text=True, check=True)
    if left := holders(platform, booking):
        raise SystemExit(f"the erasure itself left something: {left[:3]}")
    print(f"--- erased since the restore point: a booking that was in {len(had)} places")
    return booking


def before(stack: paths.Stack, outside: Path) -> tuple[Seen, dict[str, Any]]:
    """Run the demo, write a restore point of it, erase a booking, and return the things that are kept outside."""
    if not demo.run(lambda: lifecycle.up(stack)):
        raise SystemExit("the demo itself is red: nothing to restore")
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    seen = look(platform, api)
    point = demo.Demo(platform, api, print).run("backup", "backup_platform", "back_up")
    erased = erase(platform)
    after = look(platform, api)
    seen = Seen(seen.runs, seen.champion, after.rows, after.objects, erased)
    (outside / "public.pem").write_text("".join(map(to_pem, platform.trusted_keys().values())), encoding="ascii")
    return seen, point


def restored(variables: dict[str, str], outside: Path, kill_at: str = "") -> int:
    """Run the one command and return its exit code. It is killed a moment after a line that begins with `kill_at`."""
    command = [sys.executable, "-u", "-m", "rempart.cli", "restore", "--yes"]
    command += ["--identity", str(outside / "escrow.key"), "--trust", str(outside / "public.pem")]
    home = variables["REMPART_HOME"]
    with subprocess.Popen(command, env=variables, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if kill_at and line.startswith(kill_at):
                time.sleep(0.5)
                process.kill()
                break
        return process.wait()


def killed(variables: dict[str, str], outside: Path) -> Check:
    """Kill the command at each step in turn; the next run has to continue."""
    codes = [restored(variables, outside, mark) for mark in KILL_AT]
    return check("killed at each step, the next run goes on", set(codes) == {-signal.SIGKILL}, f"{len(codes)} times")


def compared(
    was: Seen, point: dict[str, Any], began: datetime, destroyed: datetime
) -> tuple[list[Check], dict[str, Any]]:
    """Compare the users' view now with their earlier view; then run the chain again."""
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    now = look(platform, api)
    (record, *_) = platform.ledger.find("restore", point["id"])
    lost = [run for run, state in was.runs.items() if now.runs.get(run) != state]
    missing = [name for name, digest in was.objects.items() if now.objects.get(name) != digest]
    rows = sum(map(len, was.rows))
    checks = [
        check("the newest restore point was taken", record.subject == point["id"], point["id"]),
        check("its own checks", record.body["ok"] is True, f"{len(record.body['checks'])} checks"),
        check("Airflow shows the old DAG runs", not lost and bool(was.runs), f"{len(was.runs)} runs, {len(lost)} lost"),
        check("MLflow has the champion", now.champion == was.champion is not None, f"version {now.champion}"),
        check("Feast gives the same online rows", now.rows == was.rows and rows > 0, f"{rows} rows"),
        check(
            "every object is back at the primary", not missing, f"{len(was.objects)} objects, {len(missing)} missing"
        ),
    ]
    left = holders(platform, was.erased)
    checks.append(check("the erased booking did not come back", not left, f"{len(left)} places have it"))
    run = demo.Demo(platform, api, print)
    since = datetime.now(UTC)
    run.run("ingest", f"ingest_{PIPELINE}", "ingest")
    trained = run.run("train", f"train_{PIPELINE}", "train", conf={"trainer_params": {"num_iterations": 61}})
    judged = run.run("gate", f"validate_model_{PIPELINE}", "validate", since=since)
    again = run.run("backup", "backup_platform", "back_up")
    checks += [
        check("the chain runs again", judged["version"] == trained["version"], f"version {judged['version']}"),
        check("and is backed up again", again["id"] > point["id"] and not again["dangling"], again["id"]),
    ]
    return checks, {
        "steps": record.body["steps"],
        "rto_seconds": record.body["rto_seconds"],
        "point_age_at_the_restore_seconds": record.body["rpo_seconds"],
        "lost_between_point_and_destruction_seconds": round(
            (destroyed - datetime.fromisoformat(point["created_at"])).total_seconds(), 1
        ),
        "objects_served_by": record.body["served"],
        "databases": len(record.body["databases"]),
        "objects": record.body["objects"],
        "object_bytes": record.body["object_bytes"],
        "began": began.isoformat(),
    }


@rendering.on_terminal()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_restore", description=__doc__)
    parser.add_argument("--killed", action="store_true", help="kill the command at each of its steps, and go on")
    kill = parser.parse_args(arguments).killed
    started, folder = time.monotonic(), config.var_dir() / "prove-restore"
    shutil.rmtree(folder, ignore_errors=True)
    outside = folder / "outside"
    outside.mkdir(parents=True)
    escrow, haven = age.new_identity(), operator(folder / "haven")
    age.write_identity_file(outside / "escrow.key", escrow, datetime.now(UTC))
    first, second = at(folder / "one", folder / "one-var", haven.customer()), {}
    clone(folder / "one", escrow.recipient, haven.endpoint)
    with haven.serving(), working(first) as stack:
        was, point = before(stack, outside)
    print("--- everything is destroyed but haven's data and what was kept outside")
    destroyed = datetime.now(UTC)
    shutil.rmtree(folder / "one")
    shutil.rmtree(folder / "one-var")
    with haven.serving():
        print("--- a fresh copy, and one command")
        clone(folder / "two", escrow.recipient, haven.endpoint)
        second = at(folder / "two", folder / "two-var", haven.customer())
        began = datetime.now(UTC)
        broken_off = [killed(second, outside)] if kill else []
        code = restored(second, outside)
        seconds = round((datetime.now(UTC) - began).total_seconds(), 1)
        with working(second):
            checks, figures = compared(was, point, began, destroyed) if code == 0 else ([], {})
    limit = f"{seconds} s on {os.cpu_count()} cores; the aim is {ENOUGH:.0f} s"
    checks = [check("one command restores the platform", code == 0, limit), *broken_off, *checks]
    figures |= {"command_seconds": seconds, "within_the_aim": seconds <= ENOUGH}
    print(", ".join(f"{step} {took:.1f} s" for step, took in figures.get("steps", {}).items()))
    return 0 if write("restore", checks, round(time.monotonic() - started, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
