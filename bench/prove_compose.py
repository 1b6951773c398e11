"""Proof: the platform starts in containers, does its work, heals, sends nothing outside, and leaves nothing behind.

    make prove-compose      (needs a Docker Engine, and root to make the base image if it cannot be pulled)

The proof runs `rempart stack init`, builds the images and runs `docker compose up --wait`. It runs the demo's chain
through Airflow's REST API, from a container beside it and through the gate from this machine. While a task runs, it
kills the scheduler (SIGKILL). PostgreSQL is reached only by TLS with a verified certificate (bench.database_tls), also
by a side-by-side restore. Then each container is examined from outside and from inside (bench.seen). State and
settings are the proof's own (var/compose-proof). Two proofs can run at once if each has its own REMPART_PORT_OFFSET
and REMPART_TAG.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import access_attacks, access_compose, audited, database_tls, outside, secrets_held
from bench.prove_pods import write
from bench.seen import GATE, docker, look, own_address
from rempart.airflow_api import TERMINAL, AirflowApi
from rempart.deployment.setup import preflight
from rempart.settings import config
from rempart.settings.config import Connection, parse_connection

NAME, BASE = "compose", "rempart/base:trixie"
OFFSET = preflight.port_offset(os.environ)
PROJECT = f"rempart-proof{'-' + str(OFFSET) if OFFSET else ''}"
PORTS = {
    "REMPART_AIRFLOW_PORT": str(28080 + OFFSET),
    "REMPART_MLFLOW_PORT": str(25000 + OFFSET),
    "REMPART_MONITORING_PORT": str(29090 + OFFSET),
    "REMPART_SCORER_PORT": str(28090 + OFFSET),
}
PERMITTED = 38000 + OFFSET
"""The port of this machine that the proof's own policy allows."""
PATIENCE = 600.0
Check = dict[str, Any]
Prove = Callable[["Compose", Path, list[Check], dict[str, Any]], None]


def why_not() -> str:
    """Return why this machine cannot run the proof; empty if it can."""
    if not shutil.which("docker"):
        return "there is no docker on this machine"
    for words in (["docker", "info"], ["docker", "compose", "version"], ["docker", "buildx", "version"]):
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return f"`{' '.join(words)}` is refused: no Engine runs, or this user may not use it"
    if base_image() == BASE and os.geteuid() != 0 and not has(BASE):
        return "the base image is made by debootstrap, which needs root (or set BASE_IMAGE)"
    return ""


def base_image() -> str:
    """Return the image that BASE_IMAGE names, else the image that this proof makes of Debian packages."""
    return os.environ.get("BASE_IMAGE") or BASE


def has(image: str) -> bool:
    """Return whether this machine's Engine has an image."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


class Compose:
    """`docker compose` on the proof's own project."""

    def __init__(self, root: Path, settings: Path) -> None:
        self.root, self._settings, self.files = root, settings, [root / "docker-compose.yml"]
        self.tag = os.environ.get("REMPART_TAG") or "local"
        self.environment = {**os.environ, **PORTS, "BASE_IMAGE": base_image()}

    def command(self, *words: str) -> list[str]:
        whole = words[0] in ("build", "down", "config")  # for other commands, the settings name the profiles
        profiles = ["--profile", "*"] if whole else []
        # without its files, a project that is named is read off its containers, and a service that is external has none
        files = [word for file in self.files for word in ("--file", str(file))]
        return ["docker", "compose", "-p", PROJECT, *files, "--env-file", str(self._settings), *profiles, *words]

    def run(self, *words: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run one command and return its output, which is not shown."""
        return subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def must(self, *words: str, timeout: float = PATIENCE) -> str:
        done = self.run(*words, timeout=timeout)
        if done.returncode:
            raise SystemExit(
                f"docker compose {words[0]} ended with {done.returncode}:\n{_last(done.stdout + done.stderr)}"
            )
        return done.stdout

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the Engine's description of each container, by service."""
        ids = self.must("ps", "--all", "--quiet").split()
        found = json.loads(docker("inspect", *ids)) if ids else []
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in found}

    def running(self) -> dict[str, dict[str, Any]]:
        return {name: container for name, container in self.containers().items() if container["State"]["Running"]}

    def inside(self, service: str, script: str) -> tuple[int, str]:
        done = self.run("exec", "-T", service, "bash", "-c", script, timeout=60)
        return done.returncode, (done.stdout + done.stderr).strip()


def _last(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def tell(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S}  {line}", flush=True)


def check(checks: list[Check], what: str, ok: bool, detail: str) -> None:
    checks.append({"what": what, "ok": ok, "detail": detail})
    tell(f"{'ok ' if ok else 'RED'} {what}")


def heal(compose: Compose, api: AirflowApi, checks: list[Check], figures: dict[str, Any]) -> None:
    """Kill the scheduler and its running task with SIGKILL; the container must come back and the run succeed."""
    dag, before = "ingest_hotel_bookings", compose.containers()["scheduler"]
    run = running(api, dag)
    os.kill(before["State"]["Pid"], 9)  # at once: a task that ended meanwhile would not be healed
    killed = time.monotonic()
    while not (back := _is_back(compose.containers()["scheduler"], before)):
        if time.monotonic() - killed > PATIENCE:
            break
        time.sleep(1)
    figures["scheduler back after"] = round(time.monotonic() - killed, 1)
    told = "healthy" if back else "not restarted, or not healthy,"
    check(checks, "the killed scheduler is back", back, f"{told} after {figures['scheduler back after']} s")
    api.follow(dag, run, lambda line: tell(f"healing: {line}"))
    figures["its run ended after"] = round(time.monotonic() - killed, 1)
    check(checks, "the run that it was killed in succeeded", True, f"{figures['its run ended after']} s after the kill")


def running(api: AirflowApi, dag: str) -> str:
    """Start runs of a DAG until a task of one is seen running: on a busy machine a task may end between two looks.

    Return that run's id.
    """
    began, run = time.monotonic(), api.trigger(dag)
    while True:
        state = api.get(f"/api/v2/dags/{dag}/dagRuns/{run}")["state"]
        if state == "failed":
            raise SystemExit(f"run {run} of {dag} failed before it was seen running")
        if "running" in _states(api, dag, run):
            return run
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"no task of {dag} was seen running within {PATIENCE:.0f} s")
        if state in TERMINAL:
            run = api.trigger(dag)
        time.sleep(0.3)


def _is_back(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Return whether a container was restarted since `before`, and is healthy."""
    is_restarted: bool = now["RestartCount"] > before["RestartCount"]
    return is_restarted and now["State"].get("Health", {}).get("Status") == "healthy"


def _states(api: AirflowApi, dag: str, run: str) -> list[str]:
    found = api.every(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances", "task_instances")
    return [str(container["state"]) for container in found]


def left(compose: Compose) -> list[str]:
    """Return everything of the project that the Engine still has."""
    label = f"label=com.docker.compose.project={PROJECT}"
    listings = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
    return [
        f"{words[0]} {identity}"
        for words in listings
        for identity in docker(*words, "--quiet", "--filter", label).split()
    ]


def sizes(images: Sequence[str]) -> dict[str, float]:
    """Return the size of each image in MB; shared layers count in each."""
    return {name: round(json.loads(docker("image", "inspect", name))[0]["Size"] / 1e6, 1) for name in images}


# --- the proof --------------------------------------------------------------------------------------------------------


def prove(compose: Compose, var: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    root, settings, began = compose.root, var / "compose.env", time.monotonic()

    def step(name: str) -> None:
        nonlocal began
        figures[f"seconds: {name}"] = round(time.monotonic() - began, 1)
        tell(f"{name}: {figures[f'seconds: {name}']} s")
        began = time.monotonic()

    home = outside.project(root, var / "home", f"{own_address()}:{PERMITTED}")
    environment = {**os.environ, "REMPART_VAR": str(var), "REMPART_HOME": str(home)}
    command = [sys.executable, "-m", "rempart.cli", "stack", "init", "--settings", str(settings)]
    command += ["--profiles", "serving"]
    subprocess.run(command, env=environment, cwd=root, check=True)
    compose.files.append(database_tls.override(root, var))
    step("init")
    if base_image() == BASE and not has(BASE):
        subprocess.run([root / "deploy" / "images" / "base.sh", BASE], check=True)
        step("base image")
    compose.must("build")
    step("build")
    compose.must("up", "--wait")
    step("up")
    check(
        checks,
        "docker compose up --wait",
        True,
        f"{len(compose.running())} containers in {figures['seconds: up']:.0f} s",
    )
    figures["MB"] = sizes(
        [
            *sorted({container["Config"]["Image"] for container in compose.containers().values()}),
            f"rempart/trainer:{compose.tag}",
        ]
    )

    done = compose.run("run", "--rm", "--no-deps", "-T", "cli", "rempart", "demo", timeout=900)
    (var / "demo.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    facts = done.stdout.count("✓")
    detail = f"{facts} facts" if not done.returncode else _last(done.stdout + done.stderr, 4)
    check(checks, "the demo's chain through REST, in containers", done.returncode == 0, detail)
    step("demo")
    figures["seconds: a restore by TLS"] = database_tls.look(compose, partial(check, checks))
    step("PostgreSQL by TLS")

    given = config.read_env_file(var / "compose" / "secrets.env")["AIRFLOW_CONN_AIRFLOW_API"]
    user = parse_connection("airflow_api", given)
    port = int(PORTS["REMPART_AIRFLOW_PORT"])
    api = AirflowApi(Connection("gate", "http", "127.0.0.1", port, user.login, user.password, "http"))
    errors = api.import_errors()
    check(
        checks,
        "Airflow answers through the gate",
        not errors,
        f"{len(api.dag_ids())} DAGs, {len(errors)} import errors",
    )
    heal(compose, api, checks, figures)
    step("healing")
    noting = partial(check, checks)
    figures["secrets looked for"] = look(compose, var / "compose", PORTS, f"{PROJECT}_outward", PERMITTED, noting)
    written = config.read_env_file(var / "compose" / "secrets.env")
    secrets_held.look(compose, config.load(home / "rempart.yaml"), written, noting)
    audited.look(compose, home / "rempart.yaml", noting)
    step("looking")
    ports = access_compose.attack(compose.running(), root)
    access_attacks.keep(ports, config.var_dir() / "proof" / access_compose.FILE)
    open_ports = [f"{row.endpoint}, {row.who}: {', '.join(row.let_in)}" for row in ports if not row.ok]
    tried = f"{sum(row.tries for row in ports)} tries at {len({row.endpoint for row in ports})} ports"
    check(checks, "no port of a container lets in who has no right", not open_ports, "; ".join(open_ports) or tried)
    step("attacking ports")
    pair = outside.make_pair(var, "127.0.0.1")
    with_pair = [*command, "--certificate", str(pair.certificate), "--key", str(pair.key)]
    subprocess.run(with_pair, env=environment, cwd=root, check=True)
    compose.must("up", "--wait", "--no-deps", GATE)
    pages = {"Airflow": (port, "/api/v2/version"), "MLflow": (int(PORTS["REMPART_MLFLOW_PORT"]), "/health")}
    outside.look_at_pages(pages, pair.certificate, partial(check, checks))
    step("TLS")


def proven(name: str, what: str, prove: Prove, folder: Path) -> int:
    """Run a proof in containers of its own, from nothing to nothing; `folder` has its state. Return the exit code."""
    if why := why_not():
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(name, [{"what": what, "ok": None, "detail": f"not run: {why}"}], 0, {})
        return 1
    began, compose = time.monotonic(), Compose(config.project_root().resolve(), folder / "compose.env")
    if (folder / "compose.env").is_file():
        compose.run("down", "--volumes", "--remove-orphans")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    try:
        prove(compose, folder, checks, figures)
    except (Exception, SystemExit) as error:
        check(checks, "every step could be taken", False, f"{type(error).__name__}: {error}")
        logs = compose.run("logs", "--tail", "80")
        (folder / "containers.log").write_text(logs.stdout + logs.stderr, encoding="utf-8")
        print(f"what the containers said: {folder / 'containers.log'}", file=sys.stderr)
    finally:
        compose.run("down", "--volumes", "--remove-orphans")
    remains = left(compose)
    check(checks, "docker compose down --volumes leaves nothing", not remains, ", ".join(remains) or "none left")
    for figure, value in figures.items():
        print(f"     {figure}: {value}")
    return 0 if write(name, checks, round(time.monotonic() - began, 1), figures) else 1


def main() -> int:
    return proven(NAME, "the platform works in containers", prove, config.var_dir().absolute() / "compose-proof")


if __name__ == "__main__":
    sys.exit(main())
