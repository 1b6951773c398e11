"""Proof: the operator of S3, PostgreSQL, Airflow and MLflow is lost in the middle of a chain; `haven` carries on.

    make prove-operator-loss      (as root: a network namespace)

The demo runs in a copy of this project, with its two sites at operators that this proof plays. A training begins, and a
backup is made while it runs. Then everything except `haven` is killed (SIGKILL) and deleted, and the watch reports it.
The rest runs in a network namespace that reaches only `haven`, with the escrowed keys and haven's content: the bundle
is fetched and installed, `rempart restore --active haven` runs once, and Airflow finishes the interrupted training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench import slow_training
from bench.lone_network import HOST, PATH, doorway, inside, namespace, reaches, why_not
from bench.prove_failover import LATE, Check, await_running, check
from bench.prove_pods import write
from bench.prove_restore import PIPELINE, Operator, Seen, at, clone, look, operator, working
from rempart.airflow_api import AirflowApi
from rempart.backup.bundle import open_bundle
from rempart.backup.databases import postgresql
from rempart.backup.keys import age
from rempart.backup.points import points
from rempart.cli import rendering
from rempart.cli.demo import demo_run as demo
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup import launch, paths
from rempart.flows.bundle.bundle import opener_sha256
from rempart.flows.shared.platform import Platform, open_platform
from rempart.ledger.keys import to_pem
from rempart.settings import config, telemetry

NAME, OFFSET = "operator-loss", "5500"
LONG = {"max_iter": 8000, "learning_rate": 0.01}
"""Parameters of a training that lasts longer than a backup."""
LOOK_EVERY = 5.0
PATIENCE = 600.0
PROGRAMS = ("curl", "make")


# --- the platform that is lost ----------------------------------------------------------------------------------------


def declare(home: Path, primary: str, haven: str) -> None:
    """Declare the copy's sites at other operators' servers, with replication each minute and a lag objective of 3."""
    file = home / "rempart.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["services"]["primary"] = {"external": {"url": primary, "connection": "s3_primary"}}
    data["services"]["haven"]["external"]["url"] = haven
    data["operators"]["trial-two"]["services"]["object-storage"]["endpoints"] = f"http://{HOST}"
    data["replication"][0] |= {"every": "1m", "lag_objective": "3m"}
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def through(customer: Mapping[str, str], port: int) -> dict[str, str]:
    """Return a customer's connections by the address that both sides of the proof can reach."""
    return {name: value.replace(f"127.0.0.1:{port}", f"{HOST}:{port}") for name, value in customer.items()}


def cli(variables: Mapping[str, str], *words: str, before: Sequence[str] = (), quiet: bool = False) -> tuple[int, str]:
    """Run `rempart` as a process of a copy. Return its exit code and output."""
    home = Path(variables["REMPART_HOME"])
    python = home / ".venv" / "bin" / "python"
    command = [*before, str(python if python.exists() else sys.executable), "-u", "-m", "rempart.cli", *words]
    told = []
    with subprocess.Popen(
        command, env=dict(variables), cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            told.append(line)
            if not quiet:
                print(line, end="", flush=True)
    return process.returncode, "".join(told)


def rows(platform: Platform) -> dict[str, int]:
    """Return the number of rows of each database, all tables together."""
    found = {}
    for name in config.DATABASES:
        connection = postgresql.for_database(platform.database("backup"), name)
        with postgresql.session(connection, "count rows") as opened:
            found[name] = sum(postgresql.row_counts(opened).values())
    return found


def runs(api: AirflowApi) -> dict[str, str]:
    listed = api.every("/api/v2/dags/~/dagRuns", "dag_runs")
    return {f"{run['dag_id']} {run['dag_run_id']}": str(run["state"]) for run in listed}


def interrupted(stack: paths.Stack, outside: Path, wheels: Path) -> tuple[dict[str, Any], Seen]:
    """Run the demo, store its bundle, start a training, write a restore point meanwhile, and write more afterwards."""
    lifecycle.up(stack)
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    run = demo.Demo(platform, api, print)
    run.report = {"ok": False, "seconds": {}}
    print("--- the bundle, the chain, and the watch")
    began = time.monotonic()
    code, told = cli(dict(os.environ), "bundle", "store", "--wheels", str(wheels))
    bundled = round(time.monotonic() - began, 1)
    since = run.chain()
    run.run("backup", "backup_platform", "back_up", since=since, source=run.by_asset)
    run.run("replicate", "replicate_primary_to_haven", "conclude")
    again = cli(dict(os.environ), "bundle", "store", "--wheels", str(wheels))
    (outside / "public.pem").write_text("".join(map(to_pem, platform.trusted_keys().values())), encoding="ascii")
    cli(dict(os.environ), "watch", "init", "--out", str(outside / "watch.yaml"))
    watched = yaml.safe_load((outside / "watch.yaml").read_text(encoding="utf-8"))
    del watched["kinds"]["drill"]  # a platform as young as this has no drill yet
    (outside / "watch.yaml").write_text(yaml.safe_dump(watched), encoding="utf-8")
    print("--- a training begins, a backup is made, and more is written")
    params = {**LONG, "l2_regularization": round(time.time() % 1e6 * 1e-9, 12)}
    training = api.trigger(f"train_{PIPELINE}", {"trainer_params": params})
    await_running(api, training)
    ended = [name for name, state in runs(api).items() if state in ("success", "failed")]
    point = run.run("backup", "backup_platform", "back_up")
    for number in range(LATE):
        platform.site("primary", "personal").write(platform.config.buckets.lake, f"proof/late-{number}", b"%d" % number)
    seen = look(platform, api)
    state = api.get(f"/api/v2/dags/train_{PIPELINE}/dagRuns/{training}")["state"]
    return {
        "bundle": {"code": code, "seconds": bundled, "again": again[1], "told": told},
        "training": training,
        "training_state": state,
        "point": point,
        "rows": rows(platform),
        "runs": runs(api),
        "ended": ended,
    }, seen


def kill(stack: paths.Stack, primary: subprocess.Popen[bytes]) -> int:
    """Kill every process of the platform and the primary's server (SIGKILL). Return their number."""
    doomed = [*launch.leftovers(stack), psutil.Process(primary.pid)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    primary.wait()
    psutil.wait_procs(doomed, timeout=10)
    return len(doomed)


def watch(variables: Mapping[str, str], outside: Path) -> tuple[int, str]:
    """Run `rempart watch --once` with only its file and its key."""
    return cli(variables, "watch", "--once", "--file", str(outside / "watch.yaml"), quiet=True)


def detected(variables: Mapping[str, str], outside: Path, since: float) -> tuple[float | None, str]:
    """Return the seconds until the watch is red, and its message."""
    while time.monotonic() - since < PATIENCE:
        code, told = watch(variables, outside)
        if code:
            red = [line for line in told.splitlines() if line.startswith("RED")]
            return round(time.monotonic() - since, 1), "; ".join(red) or told
        time.sleep(LOOK_EVERY)
    return None, "it stayed green"


# --- where only haven is left -----------------------------------------------------------------------------------------


def installed(machine: Path, outside: Path, endpoint: str, key: Mapping[str, str], region: str) -> tuple[int, str]:
    """Fetch the program that opens the bundle with curl, compare it and run it. Return its exit code and SHA-256."""
    opener = machine / "open_bundle.py"
    login, password = key["login"], key["password"]
    variables = {"PATH": PATH, "HOME": str(machine), "AWS_ACCESS_KEY_ID": login, "AWS_SECRET_ACCESS_KEY": password}
    settings = f'user = "{login}:{password}"\naws-sigv4 = "aws:amz:{region}:s3"\noutput = "{opener}"\n'
    fetch = ["curl", "--fail", "--silent", "--show-error", "--config", "-", f"{endpoint}/backups/bundle/open_bundle.py"]
    subprocess.run([*inside(), *fetch], input=settings, text=True, env=variables, check=True)
    python = Path(sys.base_prefix) / "bin" / "python3"
    words = ["--endpoint", endpoint, "--region", region, "--trust", str(outside / "public.pem"), str(machine)]
    done = subprocess.run([*inside(), python, opener, *words], env=variables, check=False)
    return done.returncode, open_bundle.sha256_of(opener)


def plain(views: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[list[str]]]:
    """Return online rows in a form that can be compared after JSON."""
    return [[[f"{name}={value}" for name, value in row.items()] for row in view] for view in views]


def carry_on(told: Path, out: Path) -> int:
    """Run the restored project's own programs in the namespace: its users' view, and the end of the chain."""
    telemetry.adopt_environment()
    was = json.loads(told.read_text(encoding="utf-8"))
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    since = time.monotonic()
    api.follow(f"train_{PIPELINE}", was["training"], print)
    trained = platform.ledger.find("candidate", PIPELINE, limit=1)[0]
    validation = api.newest_run(f"validate_model_{PIPELINE}", trained.at) or api.await_run(
        f"validate_model_{PIPELINE}", trained.at, 120
    )
    api.follow(f"validate_model_{PIPELINE}", validation, print)
    finished = round(time.monotonic() - since, 1)
    judged = api.result(f"validate_model_{PIPELINE}", validation, "validate")
    seen = look(platform, api, "haven")
    (record, *_) = platform.ledger.find("restore", was["point"]["id"])
    bucket, haven = platform.config.buckets.backups, platform.site("haven", "personal")
    manifest = points.read(haven, bucket, was["point"]["id"], record.body["manifest_sha256"])
    switched = [entry.body["step"] for entry in platform.ledger.find("failover", "primary->haven")]
    report = {
        "active": platform.active().site,
        "chain_seconds": finished,
        "version": judged["version"],
        "trained": str(trained.body["version"]),
        "champion": seen.champion,
        "runs": runs(api),
        "online": plain(seen.rows),
        "objects": {f"{bucket}/{key}": digest for (bucket, key), digest in seen.objects.items()},
        "record": dict(record.body),
        "failover": switched,
        "held": {f"{obj.bucket}/{obj.key}": obj.sha256 for obj in manifest.objects},
        "held_rows": {database.name: sum(database.tables.values()) for database in manifest.databases},
    }
    out.write_text(json.dumps(report, default=str), encoding="utf-8")
    return 0


def judged(was: dict[str, Any], seen: Seen, now: dict[str, Any]) -> list[Check]:
    record, held, online = now["record"], now["held"], plain(seen.rows)
    missing = [name for name, digest in held.items() if now["objects"].get(name) != digest]
    gone = [name for name in was["ended"] if now["runs"].get(name) != was["runs"][name]]
    evidence = ", ".join(reversed(now["failover"]))
    return [
        check("its own checks", record["ok"] is True, f"{len(record['checks'])} checks"),
        check("haven is the active site", now["active"] == "haven", f"evidence: {evidence}"),
        check("every object of the point is at haven", not missing, f"{len(held)} objects, {len(missing)} missing"),
        check("Airflow shows what had ended before the point", not gone, f"{len(was['ended'])} runs, lost: {gone}"),
        check("Feast gives the same online rows", now["online"] == online, f"{sum(map(len, online))} rows"),
        check("the interrupted training is ended", now["version"] == now["trained"], "by the restored Airflow"),
        check("and judged, with its artifacts at haven", now["champion"] is not None, f"version {now['version']}"),
    ]


def lost(was: dict[str, Any], seen: Seen, now: dict[str, Any]) -> dict[str, Any]:
    """Return the changes of each store after the restore point, as far as rows and names show."""
    objects = {f"{bucket}/{key}": digest for (bucket, key), digest in seen.objects.items()}
    before, after = (list(chain.from_iterable(views)) for views in (plain(seen.rows), now["online"]))
    return {
        "database_rows": {name: max(count - now["held_rows"].get(name, 0), 0) for name, count in was["rows"].items()},
        "dag_runs": sorted(set(was["runs"]) - set(now["runs"])),
        "objects": sorted(name for name, digest in objects.items() if now["objects"].get(name) != digest),
        "online_rows": sum(row not in after for row in before),
    }


@rendering.on_terminal()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_operator_loss", description=__doc__)
    parser.add_argument("--inside", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.inside:
        return carry_on(*chosen.inside)
    started, folder = time.monotonic(), config.var_dir().absolute() / "prove-operator-loss"
    if why := why_not(PROGRAMS):
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(NAME, [{"what": "haven carries on", "ok": None, "detail": f"not run: {why}"}], 0, {})
        return 1
    wheels = folder / "wheels"
    for left in ("one", "one-var", "haven", "primary", "outside", "machine"):
        shutil.rmtree(folder / left, ignore_errors=True)
    outside, machine = folder / "outside", folder / "machine"
    outside.mkdir(parents=True)
    machine.mkdir()
    escrow = age.new_identity()
    age.write_identity_file(outside / "escrow.key", escrow, datetime.now(UTC))
    haven, primary = (operator(folder / name, name, OFFSET) for name in ("haven", "primary"))
    port = haven.stack.ports["haven"]
    endpoint, customer = f"http://{HOST}:{port}", through(haven.customer(), port)
    with namespace(port), doorway(port), haven.serving():
        clone(folder / "one", escrow.recipient, endpoint)
        declare(folder / "one", primary.endpoint, endpoint)
        slow_training.declare(folder / "one")
        variables = at(folder / "one", folder / "one-var", {**customer, **primary.customer(), **_index()}, OFFSET)
        with primary.serving() as server, working(variables) as stack:
            was, seen = interrupted(stack, outside, wheels)
            watcher = {**at(folder / "one", folder / "watch", {}, OFFSET), **_watching(customer)}
            green = watch(watcher, outside)
            print("--- the operator of everything but haven is gone")
            gone = time.monotonic()
            dead = kill(stack, server)
        for left in ("one-var", "primary"):
            shutil.rmtree(folder / left)
        seconds, red = detected(watcher, outside, gone)
        shutil.rmtree(folder / "one")
        checks, figures = recovered(folder, haven, customer, was, seen)
    checks = [
        check("a bundle was stored, and the second time nothing was sent", *_stored(was["bundle"])),
        check("the watch was green before", green[0] == 0, green[1].strip().splitlines()[-1][:100]),
        check("a training was interrupted", was["training_state"] == "running", f"{dead} processes were killed"),
        check("the watch is red", seconds is not None, f"after {seconds} s: {red[:200]}"),
        *checks,
    ]
    figures |= {"seconds_to_detect": seconds, "detected_by": red, "bundle_store_seconds": was["bundle"]["seconds"]}
    return 0 if write(NAME, checks, round(time.monotonic() - started, 1), figures) else 1


def _index() -> dict[str, str]:
    """Return this machine's settings of its package index; only the making of the bundle needs them."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}


def _watching(customer: Mapping[str, str]) -> dict[str, str]:
    key = json.loads(customer["AIRFLOW_CONN_S3_WATCH_HAVEN"])
    return {"REMPART_WATCH_ACCESS_KEY": key["login"], "REMPART_WATCH_SECRET_KEY": key["password"]}


def _stored(bundle: Mapping[str, Any]) -> tuple[bool, str]:
    good = bundle["code"] == 0 and "nothing was sent" in bundle["again"] and opener_sha256() in bundle["told"]
    return good, f"{bundle['seconds']} s; {' '.join(bundle['told'].strip().splitlines()[-2:])}"


def recovered(
    folder: Path, haven: Operator, customer: Mapping[str, str], was: dict[str, Any], seen: Seen
) -> tuple[list[Check], dict[str, Any]]:
    """Run everything from the bare machine on. Return checks and figures."""
    outside, machine, port = folder / "outside", folder / "machine", haven.stack.ports["haven"]
    elsewhere = [("1.1.1.1", 443), (HOST, 22), (HOST, port + 1), ("8.8.8.8", 53)]
    sealed = reaches(HOST, port) and not any(reaches(*address) for address in elsewhere)
    checks = [check("the namespace reaches haven, and nothing else", sealed, f"{HOST}:{port}; tried {elsewhere}")]
    print("--- a bare machine: the bundle")
    began = time.monotonic()
    key = json.loads(customer["AIRFLOW_CONN_S3_HAVEN"])
    code, digest = installed(machine, outside, f"http://{HOST}:{port}", key, haven.stack.config.sites["haven"].region)
    figures: dict[str, Any] = {"seconds_to_install": round(time.monotonic() - began, 1)}
    checks.append(check("the bundle installs offline", code == 0 and digest == opener_sha256(), f"exit code {code}"))
    home = machine / "rempart"
    variables = at(home, machine / "var", dict(customer), OFFSET) | {"HOME": str(machine), "PATH": PATH}
    keys = ("--identity", str(outside / "escrow.key"), "--trust", str(outside / "public.pem"))
    command = ("restore", "--active", "haven", *keys)
    try:
        print("--- look, then one command")
        began = time.monotonic()
        code, told = cli(variables, *command, before=inside())
        figures["seconds_to_decide"] = round(time.monotonic() - began, 1)
        good = code == 0 and was["point"]["id"] in told and "Nothing was changed" in told
        checks.append(check("it is read, verified and explained", good, f"exit code {code}"))
        began = time.monotonic()
        code, told = cli(variables, *command, "--yes", before=inside())
        figures["seconds_to_restore"] = round(time.monotonic() - began, 1)
        checks += [
            check("one command restores at haven", code == 0, f"exit code {code}"),
            check("it says that nothing backs it up", "NO BACKUP while 'haven'" in told, told.strip()[-150:]),
        ]
        status, lines = cli(variables, "status", before=inside(), quiet=True)
        checks.append(check("so does `rempart status`", status == 1 and "NO BACKUP" in lines, f"exit code {status}"))
        checks += chain_ended(folder, variables, was, seen, figures)
    finally:
        cli(variables, "down", before=inside())
    return checks, figures


def chain_ended(
    folder: Path,
    variables: dict[str, str],
    was: dict[str, Any],
    seen: Seen,
    figures: dict[str, Any],
) -> list[Check]:
    """Return the users' view of the restored platform, asked in the namespace by the restored code."""
    told, out, home = folder / "was.json", folder / "now.json", Path(variables["REMPART_HOME"])
    out.unlink(missing_ok=True)
    told.write_text(json.dumps(was, default=str), encoding="utf-8")
    command = [str(home / ".venv/bin/python"), "-u", "-m", "bench.prove_operator_loss", "--inside", str(told), str(out)]
    look_with = variables | {"PYTHONPATH": f"{home / 'include'}:{config.project_root()}"}  # this proof is in no bundle
    code = subprocess.run([*inside(), *command], env=look_with, cwd=folder, check=False).returncode
    if code or not out.is_file():
        return [check("the interrupted chain is finished", False, f"exit code {code}")]
    now = json.loads(out.read_text(encoding="utf-8"))
    record = now["record"]
    figures |= {
        "restore_steps": record["steps"],
        "rto_seconds": record["rto_seconds"],
        "point_age_at_the_restore_seconds": record["rpo_seconds"],
        "objects_served_by": record["served"],
        "seconds_to_the_end_of_the_chain": now["chain_seconds"],
        "lost": lost(was, seen, now),
        "databases": len(now["held_rows"]),
        "objects": len(now["held"]),
    }
    return judged(was, seen, now)


if __name__ == "__main__":
    raise SystemExit(main())
