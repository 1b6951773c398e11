"""Proof: which layer stops a task that connects to a denied host: the audit hook, the network's rules, both, or none.

    make prove-egress-layers     ARGS="--docs" writes docs/reference/egress-layers.md from the run

A stack of its own runs three rounds of the same attempts, from a task of a real DAG:

1. the hook alone: in the task's own process, without rules on the network;
2. the network alone: from a child process without the hook, with the rendered nftables rules loaded;
3. both.

Two counters see every packet to the denied host: one as a process hands it to the network (nftables, before any rule),
one after it has left (`bench/sink.py`). As root, all this runs in a network namespace that leads nowhere. Without root,
only the hook is tested, and the network's column says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import sink
from bench.egress_cases import (
    ALLOWED,
    ALLOWED_NAME,
    ALLOWED_PORT,
    CASES,
    COUNTER,
    DECLARED,
    DECLARED_NAME,
    DECLARED_PORT,
    DENIED,
    DENIED_NAME,
    NAME,
    PARSE_PORT,
    PARTS,
    TEST_PORT,
    TRIGGER_PORT,
    Case,
    port_of,
)
from bench.egress_layers_page import document, table
from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup import environment, paths
from rempart.flows.shared.platform import open_platform
from rempart.settings import config, telemetry


@dataclass
class Proof:
    """Checks and figures as they come; `ok` is None for a check that was not run."""

    network: bool
    """Whether this run has its own network, on which rules can be set."""
    started: float = field(default_factory=time.monotonic)
    checks: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def check(self, what: str, ok: bool | None, detail: str = "") -> None:
        self.checks.append({"what": what, "ok": ok, "detail": detail})
        sign = "not run" if ok is None else "ok" if ok else "RED"
        print(f"{time.monotonic() - self.started:6.1f} s  {sign:<7} {what}: {detail}", flush=True)

    def report(self) -> dict[str, Any]:
        ok = bool(self.checks) and all(check["ok"] is not False for check in self.checks)
        seconds = round(time.monotonic() - self.started, 1)
        base = {"name": NAME, "ok": ok, "seconds": seconds, "checks": self.checks, "figures": self.figures}
        return base | {"rows": self.rows, "network": self.network}


# --- the project of the proof -----------------------------------------------------------------------------------------


def make_project(root: Path, folder: Path) -> None:
    """Create a project with our library and configuration, the proof's DAGs, an allowed host and a refused one."""
    folder.mkdir(parents=True)
    for name in ("include", "data"):
        (folder / name).symlink_to(root / name)
    data = yaml.safe_load((root / "rempart.yaml").read_text(encoding="utf-8"))
    service = {"runs_on": "this-machine", "technology": []}
    data["operators"]["this-machine"]["services"]["api"] = service
    data["operators"]["abroad"] = {
        "jurisdiction": "US",
        "owner_jurisdiction": "US",
        "regions": {"local": {"country": "US"}},
        "services": {"api": {"runs_on": "abroad"}},
    }
    place = {"operator": "this-machine", "service": "api", "region": "local"}
    data["hosts"] = {
        f"{ALLOWED_NAME}:{ALLOWED_PORT}": place,
        f"{DECLARED_NAME}:{DECLARED_PORT}": place | {"operator": "abroad"},
    }
    (folder / "rempart.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    for kind, names in {
        "dags": ("egress_layers.py", "egress_attempts.py", "egress_at_parse.py"),
        "plugins": ("egress_trigger.py",),
    }.items():
        (folder / kind).mkdir()
        for name in names:
            shutil.copy(PARTS / name, folder / kind / name)


# --- counters ---------------------------------------------------------------------------------------------------------


NFT = shutil.which("nft", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def nft(*words: str, text: str | None = None) -> str:
    return subprocess.run([str(NFT), *words], input=text, capture_output=True, text=True, check=True).stdout


def handed_over() -> Counter[tuple[str, int]]:
    """Return packets that processes handed to the network, by destination, before any rule."""
    found: Counter[tuple[str, int]] = Counter()
    listed = nft("list", "set", "inet", "proof", "tried")
    for address, port, packets in re.findall(r"([\d.]+) \. (\w+) counter packets (\d+)", listed):
        number = {"https": 443, "domain": 53, "http": 80}.get(port) or int(port)
        found[(address, number)] += int(packets)
    return found


def refused() -> int:
    """Return the number of packets that the rendered rules have refused so far."""
    found = re.search(r"packets (\d+)", nft("list", "counter", "inet", "rempart_egress", "refused"))
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Count:
    """Packets of one attempt: handed to the network, and left. None if nothing counts."""

    tried: int | None
    left: int | None


def counts(caught: sink.Sink | None, case: Case, port: int, since: int, before: Counter[tuple[str, int]]) -> Count:
    if caught is None:
        return Count(None, None)
    address = {DENIED_NAME: DENIED, ALLOWED_NAME: ALLOWED, DECLARED_NAME: DECLARED}.get(case.host, case.host)
    if case.way == "child_lookup":
        gone = [a for a in caught.attempts(since) if a.lookup == case.host and "getent" in a.process]
        return Count(len(gone), len(gone))
    key = (address, port)
    gone = [a for a in caught.attempts(since) if (a.address, a.port) == key]
    return Count(handed_over()[key] - before[key], len(gone))


# --- rounds -----------------------------------------------------------------------------------------------------------


def run_attempts(api: AirflowApi, attempts: list[dict[str, Any]]) -> tuple[str, list[dict[str, str]]]:
    """Run the DAG once. Return the run's id, and the result of each attempt."""
    run = api.trigger("egress_layers", {"attempts": attempts})
    api.follow("egress_layers", run, lambda line: None)
    return run, list(api.result("egress_layers", run, "attempt_all"))


def play(proof: Proof, api: AirflowApi, caught: sink.Sink | None, stage: str) -> str:
    """Run one round of every case, add it to the rows, and return the run's id."""
    since = len(caught.attempts()) if caught else 0
    before = handed_over() if caught else Counter[tuple[str, int]]()
    asked = [
        {"way": c.way, "host": c.host, "port": port_of(c, n, stage), "child": stage == "network"}
        for n, c in enumerate(CASES)
    ]
    run, results = run_attempts(api, asked)
    for number, (case, told) in enumerate(zip(CASES, results, strict=True)):
        count = counts(caught, case, asked[number]["port"], since, before)
        proof.rows[number][stage] = told | {"tried": count.tried, "left": count.left}
    return run


def judge_hook(proof: Proof, case: Case, seen: dict[str, Any]) -> None:
    if seen["result"] == "not installed":
        proof.check(f"hook: {case.title}", None, seen["told"])
        return
    stopped = seen["result"] == "refused by the hook"
    right = stopped == case.hook and (seen["tried"] is None or (seen["tried"] == 0) == case.hook)
    what = "refuses it, nothing is sent" if case.hook else "lets it pass"
    proof.check(f"hook {what}: {case.title}", right, f"{seen['result']}, {_packets(seen)}")


def judge_network(proof: Proof, case: Case, seen: dict[str, Any], stage: str) -> None:
    if seen["result"] == "not installed":
        proof.check(f"{stage}: {case.title}", None, seen["told"])
        return
    hooked = stage == "both" and case.hook
    sent = hooked or seen["tried"] > 0
    right = sent and (seen["left"] == 0) == (case.network or hooked)
    what = "nothing leaves" if case.network or hooked else "it leaves"
    proof.check(f"{stage}, {what}: {case.title}", right, f"{seen['result']}, {_packets(seen)}")


def _packets(seen: dict[str, Any]) -> str:
    return "packets not counted" if seen["tried"] is None else f"{seen['tried']} packets sent, {seen['left']} left"


def elsewhere(proof: Proof, stack: paths.Stack, api: AirflowApi) -> None:
    """Test the hook in other processes with user code: the dag-processor, the triggerer, `dag.test()`."""
    deadline = time.monotonic() + 60
    found = ""
    while not found and time.monotonic() < deadline:
        errors = api.every("/api/v2/importErrors", "import_errors")
        found = next((e["stack_trace"] for e in errors if e["filename"].endswith("egress_at_parse.py")), "")
        time.sleep(1)
    message = next((line for line in found.splitlines() if "EgressDenied" in line), "no such import error")
    what = "dag-processor: a DAG file that connects as it is read is an import error"
    proof.check(what, f"connection to {DENIED}:{PARSE_PORT} refused" in message, message[:200])
    run = api.trigger("egress_in_trigger", {"host": DENIED, "port": TRIGGER_PORT})
    api.follow("egress_in_trigger", run, lambda line: None)
    told = api.result("egress_in_trigger", run, "ask")
    proof.check(
        "triggerer: a trigger that connects is refused", told["result"] == "refused by the hook", told["told"][:200]
    )
    file = stack.var / "attempts.json"
    file.write_text(json.dumps([{"way": "plain_socket", "host": DENIED, "port": TEST_PORT, "child": False}]), "utf-8")
    variables = environment.airflow(stack, config.read_env_file(stack.secrets), os.environ, "airflow-scheduler")
    done = subprocess.run(
        [stack.python, stack.root / "dags" / "egress_layers.py", file],
        env=variables,
        cwd=stack.root,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = f"connection to {DENIED}:{TEST_PORT} refused" in done.stdout + done.stderr
    proof.check("dag.test(): a task that connects is refused", refused, f"exit code {done.returncode}")
    if not refused:
        print(done.stdout[-2000:], done.stderr[-2000:])


def evidence(proof: Proof, api: AirflowApi, run: str) -> None:
    """Check the traces of a refusal: a line in the task's log although the task swallowed the error, and one record
    each.
    """
    path = f"/api/v2/dags/egress_layers/dagRuns/{run}/taskInstances/attempt_all/logs/1?full_content=true"
    log = json.dumps(api.get(path))
    hooked = [(n, case) for n, case in enumerate(CASES) if case.hook]
    where = [f"{case.host}:{port_of(case, n, 'hook')}" for n, case in hooked]
    silent = [attempt for attempt in where if f"{attempt} refused" not in log]
    proof.check(
        "each refusal stands in the task's log, with the remedy",
        not silent and "What to do" in log,
        ", ".join(silent) or f"{len(where)} lines",
    )
    declared = next(port for n, case in hooked if case.host == DECLARED_NAME for port in [port_of(case, n, "hook")])
    rule = f"{DECLARED_NAME}:{declared} refused: policy."
    proof.check("the line names the rule that refused", rule in log, rule)
    records = open_platform().ledger.find("egress-denial", limit=500)
    subjects = Counter(record.subject for record in records)
    wanted = [*where, *(f"{DENIED}:{port}" for port in (TRIGGER_PORT, TEST_PORT))]
    missing = [subject for subject in wanted if not subjects[subject]]
    proof.check(
        "each refusal is one record in the ledger",
        not missing,
        f"missing: {missing}" if missing else f"{len(records)} records",
    )
    # DECLARED_PORT is tried in two rounds, and a file is parsed again and again, each time in a new process
    often = {s: n for s, n in subjects.items() if n > 1 and not s.endswith((f":{DECLARED_PORT}", f":{PARSE_PORT}"))}
    proof.check("no refusal is recorded twice by one process", not often, str(often) if often else "none")
    parsed = subjects[f"{DENIED}:{PARSE_PORT}"]
    proof.check("the refusal at parse is in the ledger", parsed > 0, f"{parsed} records, one per parsing process")


@contextmanager
def running(stack: paths.Stack) -> Iterator[AirflowApi]:
    try:
        lifecycle.up(stack)
        telemetry.adopt_environment()
        yield AirflowApi(config.environment_connections("airflow_api"))
    finally:
        lifecycle.down(stack)


def rounds(proof: Proof, caught: sink.Sink | None) -> None:
    stack = paths.current()
    proof.rows = [{"title": case.title, "allowed": case.host == ALLOWED_NAME} for case in CASES]
    with running(stack) as api:
        run = play(proof, api, caught, "hook")
        for case, row in zip(CASES, proof.rows, strict=True):
            judge_hook(proof, case, row["hook"])
        elsewhere(proof, stack, api)
        if caught:
            rules = stack.var / "rules"
            words = ["policy", "render", "nftables", "--out", str(rules), "--resolver", sink.NAMESERVER]
            # declared.test is refused by the policy, so only allowed.test is looked up
            done = subprocess.run([sys.executable, "-m", "rempart.cli", *words], check=False)
            proof.check(
                "`rempart policy render nftables` writes the rules",
                done.returncode == 0,
                f"exit code {done.returncode}",
            )
            nft("-f", str(rules / "rempart-egress.nft"))
            for stage in ("network", "both"):
                before = refused()
                play(proof, api, caught, stage)
                proof.figures[f"packets_refused_{stage}"] = refused() - before
                for case, row in zip(CASES, proof.rows, strict=True):
                    judge_network(proof, case, row[stage], stage)
        else:
            proof.check("network: every case", None, "it needs root, a TUN device and nftables")
        evidence(proof, api, run)
    proof.figures |= {"ways": len(CASES), "stopped_by_the_hook": sum(c.hook for c in CASES)}


def sealed(result: Path) -> int:
    """Run the part inside the namespace."""
    proof = Proof(network=True)
    nft("-f", "-", text=COUNTER)
    names = {DENIED_NAME: DENIED, ALLOWED_NAME: ALLOWED, DECLARED_NAME: DECLARED}
    with sink.Sink(names=names) as caught:
        _guarded(proof, caught)
    _write(result, proof.report())
    return 0


def _guarded(proof: Proof, caught: sink.Sink | None) -> None:
    try:
        rounds(proof, caught)
    except (AirflowApiError, subprocess.CalledProcessError, OSError, KeyError) as error:
        output = getattr(error, "stderr", "") or ""
        proof.check("every step could be taken", False, f"{type(error).__name__}: {error} {output}")


def _write(file: Path, report: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def why_no_network() -> str:
    if reason := sink.why_not():
        return reason
    return "" if NFT else "there is no `nft` on this machine: install nftables"


@rendering.on_terminal()
def main() -> int:
    parser = argparse.ArgumentParser(prog="make prove-egress-layers")
    parser.add_argument("--docs", action="store_true", help="write docs/reference/egress-layers.md from this run")
    parser.add_argument("--hook-only", action="store_true", help="as without root: leave the network out")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if sink.inside():
        return sealed(arguments.result)
    root, var = config.project_root().resolve(), config.var_dir().absolute() / "prove-egress-layers"
    shutil.rmtree(var, ignore_errors=True)
    make_project(root, var / "project")
    inner = var / f"{NAME}.json"
    settings = {"REMPART_HOME": str(var / "project"), "REMPART_VAR": str(var / "state")}
    if arguments.hook_only or (reason := why_no_network()):
        print(f"The network layer is NOT RUN: {'left out on request' if arguments.hook_only else reason}.", flush=True)
        os.environ |= settings | {"REMPART_PORT_OFFSET": os.environ.get("REMPART_PORT_OFFSET") or "3000"}
        proof = Proof(network=False)
        _guarded(proof, None)
        _write(inner, proof.report())
    else:
        keep = (root, var, Path(sys.prefix), Path(sys.base_prefix))
        code = sink.Namespace(keep).run("bench.prove_egress_layers", ["--result", str(inner)], settings)
        if not inner.is_file():
            print(f"RED: the proof ended with {code} before it could report", file=sys.stderr)
            return 1
    report = json.loads(inner.read_text(encoding="utf-8"))
    result = var.parent / "proof" / f"{NAME}.json"
    _write(result, report)
    print("\n".join(["", *table(report["rows"]), "", f"{'ok' if report['ok'] else 'RED'}: {result}"]))
    if arguments.docs and report["ok"] and report["network"]:
        (root / "docs" / "reference" / "egress-layers.md").write_text(document(report), encoding="utf-8")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
