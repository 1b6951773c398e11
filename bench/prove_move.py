"""Proof: a restore point moves from the embedded stack into containers, and from containers back.

    make prove-move      (needs the same as prove-compose)

The demo runs embedded, with a server that this proof starts for another operator as `haven`, and is backed up there.
Then everything is deleted except haven's data, an escrow identity and the ledger's public key. `rempart stack init
--from-point`, the stores, `rempart restore` and `docker compose up --wait` bring the platform back in containers, where
it ingests and is backed up. The containers are removed, and one `rempart restore` brings the platform back as an
embedded stack.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from bench.prove_compose import BASE, PORTS, Compose, base_image, left, why_not
from bench.prove_failover import Check, check
from bench.prove_pods import write
from bench.prove_restore import PIPELINE, Operator, Seen, at, clone, look, operator, restored, working
from bench.seen import own_address
from rempart.airflow_api import AirflowApi
from rempart.backup.keys import age
from rempart.cli import rendering
from rempart.cli.demo import demo_run as demo
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup import paths, preflight
from rempart.flows.shared.platform import open_platform
from rempart.ledger.keys import to_pem
from rempart.models import registry
from rempart.settings import config
from rempart.settings.config import Connection, parse_connection

NAME, OFFSET = "move", str(4800 + preflight.port_offset(os.environ))
FINISHED = "MLflow and Airflow are not running yet"
"""Message of a restore into containers when the stores are filled."""


@dataclass(frozen=True)
class Reachable(paths.Stack):
    """An operator's server on this machine's own address, which containers reach, too."""

    @property
    def listen(self) -> str:
        return own_address()

    def host(self, service: str) -> str:
        return own_address()


def stated(home: Path) -> None:
    """Declare the operator's address in a copy's rempart.yaml, as a team does: the policy knows no other."""
    file = home / "rempart.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    services = data["operators"]["trial-two"]["services"]
    services["object-storage"]["endpoints"].append(f"http://{own_address()}")
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def allowed(unchanged: Operator) -> Operator:
    """Let the operator check its own server, which asks the same policy."""
    loaded = unchanged.stack.config
    theirs = loaded.operators["trial-two"]
    service = theirs.services["object-storage"]
    known = service.model_copy(update={"endpoints": [*service.endpoints, f"http://{own_address()}"]})
    theirs = theirs.model_copy(update={"services": {**theirs.services, "object-storage": known}})
    changed = loaded.model_copy(update={"operators": {**loaded.operators, "trial-two": theirs}})
    return replace(unchanged, stack=replace(unchanged.stack, config=changed))


def embedded(stack: paths.Stack, outside: Path) -> Seen:
    """Run the demo on the embedded stack, and write a restore point of all of it."""
    if not demo.run(lambda: lifecycle.up(stack)):
        raise SystemExit("the demo itself is red: nothing to move")
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    seen = look(platform, api)
    demo.Demo(platform, api, print).run("backup", "backup_platform", "back_up")
    (outside / "public.pem").write_text("".join(map(to_pem, platform.trusted_keys().values())), encoding="ascii")
    return seen


def into_containers(
    home: Path, var: Path, haven: Operator, outside: Path
) -> tuple[Compose, list[Check], dict[str, Any]]:
    """Restore into containers as the how-to says; the containers run afterwards."""
    variables, figures = at(home, var, haven.customer(), "0"), dict[str, Any]()
    compose = Compose(home, home / ".env")

    def took(name: str, began: float) -> None:
        figures[name] = round(time.monotonic() - began, 1)
        print(f"    {name}: {figures[name]} s", flush=True)

    began = time.monotonic()
    command = [sys.executable, "-m", "rempart.cli", "stack", "init", "--from-point"]
    command += ["--identity", str(outside / "escrow.key"), "--trust", str(outside / "public.pem")]
    subprocess.run(command, env=variables, cwd=home, check=True)
    compose.must("build")
    took("init and images", began)
    began = time.monotonic()
    compose.must("up", "--detach", "--wait", "postgres", "primary", "egress")
    took("stores", began)
    began = time.monotonic()
    trust = ("--volume", f"{outside / 'public.pem'}:/run/public.pem:ro")
    words = ("run", "--rm", "--no-deps", "-T", *trust, "restore")
    words += ("rempart", "restore", "--yes", "--trust", "/run/public.pem")
    first = compose.run(*words, timeout=600)
    took("restore into the stores", began)
    if FINISHED not in first.stderr:
        raise SystemExit(f"the stores were not filled:\n{first.stdout[-1500:]}\n{first.stderr[-1500:]}")
    filled = check("the stores are filled, and it says what comes next", True, FINISHED)
    began = time.monotonic()
    compose.must("up", "--wait")
    took("services", began)
    began = time.monotonic()
    second = compose.run(*words, timeout=600)
    took("proof", began)
    print(second.stdout)
    told = second.stdout.strip().splitlines()[-1:] or [second.stderr[-200:]]
    return compose, [filled, check("the restore in containers proves itself", second.returncode == 0, told[0])], figures


def through_the_gate(var: Path) -> AirflowApi:
    """Return Airflow's REST API as a user of the containers reaches it."""
    given = config.read_env_file(var / "compose" / "secrets.env")["AIRFLOW_CONN_AIRFLOW_API"]
    user = parse_connection("airflow_api", given)
    port = int(PORTS["REMPART_AIRFLOW_PORT"])
    return AirflowApi(Connection("gate", "http", "127.0.0.1", port, user.login, user.password, "http"))


def runs_of(api: AirflowApi) -> dict[tuple[str, str], str]:
    listed = api.every("/api/v2/dags/~/dagRuns", "dag_runs")
    return {(run["dag_id"], run["dag_run_id"]): run["state"] for run in listed if run["state"] in ("success", "failed")}


def same_runs(was: dict[tuple[str, str], str], now: dict[tuple[str, str], str], where: str) -> Check:
    lost = [run for run, state in was.items() if now.get(run) != state]
    return check(f"{where}, Airflow shows the old DAG runs", not lost and bool(was), f"{len(was)}, {len(lost)} lost")


@rendering.on_terminal()
def main() -> int:
    if why := why_not():
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(NAME, [{"what": "a restore point moves into containers and back", "ok": None, "detail": why}], 0, {})
        return 1
    started, folder = time.monotonic(), config.var_dir().absolute() / "prove-move"
    shutil.rmtree(folder, ignore_errors=True)
    outside = folder / "outside"
    outside.mkdir(parents=True)
    if base_image() == BASE and subprocess.run(["docker", "image", "inspect", BASE], capture_output=True).returncode:
        subprocess.run([config.project_root() / "deploy" / "images" / "base.sh", BASE], check=True)
    escrow, haven = age.new_identity(), allowed(operator(folder / "haven", offset=OFFSET, kind=Reachable))
    age.write_identity_file(outside / "escrow.key", escrow, datetime.now(UTC))
    for name in ("one", "two", "three"):
        clone(folder / name, escrow.recipient, haven.endpoint)
        stated(folder / name)
    checks: list[Check] = []
    compose: Compose | None = None
    try:
        with haven.serving():
            with working(at(folder / "one", folder / "one-var", haven.customer(), OFFSET)) as stack:
                was = embedded(stack, outside)
            shutil.rmtree(folder / "one-var")
            print("--- gone but haven's data and what was kept outside; now into containers")
            var = folder / "two" / "var"
            compose, found, figures = into_containers(folder / "two", var, haven, outside)
            checks += found
            api = through_the_gate(var)
            checks.append(same_runs(was.runs, runs_of(api), "in containers"))
            for dag in (f"ingest_{PIPELINE}", "backup_platform"):
                api.follow(dag, api.trigger(dag), print)
            between = runs_of(api)
            checks.append(
                check(
                    "in containers, it ingests and is backed up", len(between) > len(was.runs), f"{len(between)} runs"
                )
            )
            compose.must("down", "--volumes")
            print("--- the containers are gone; now embedded again")
            variables = at(folder / "three", folder / "three-var", haven.customer(), OFFSET)
            began = time.monotonic()
            code = restored(variables, outside)
            figures["back: the one command"] = round(time.monotonic() - began, 1)
            checks.append(
                check("one command brings it back embedded", code == 0, f"{figures['back: the one command']} s")
            )
            with working(variables):
                platform, back = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
                runs = {run: state for run, state in between.items() if run[0] != "backup_platform"}
                checks.append(same_runs(runs, runs_of(back), "embedded again"))
                champion = registry.champion(platform.tracking(), PIPELINE)
                checks.append(check("MLflow has the champion", champion == was.champion, f"version {champion}"))
    finally:
        if compose:
            compose.run("down", "--volumes", "--remove-orphans")
    checks.append(check("nothing of the containers is left", not left(compose), "") if compose else checks[-1])
    return 0 if write(NAME, checks, round(time.monotonic() - started, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
