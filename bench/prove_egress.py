"""Proof: the whole demo, cold, in a network that leads nowhere, tries to reach no other machine. Needs root.

    make prove-egress            ARGS="--linger 600" keeps the stack up for ten more minutes

All of `make demo ARGS=--all` runs in a network namespace that has only loopback and a counting sink (`bench/sink.py`).
So do other things that users do: the checks of the command line, a scheduled run, the pages of the web interfaces.
Every packet that leaves is an attempt, reported with its process; so is every name look-up. Before and after, the proof
makes deliberate attempts, each of which must be counted under the right process: a counter that cannot count proves
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import pages, sink
from rempart.airflow_api import TERMINAL, AirflowApi
from rempart.settings import config

NAME = "egress"
FOLDER = "prove-egress"
LINGER_SECONDS = 30
_NOT_COPIED = shutil.ignore_patterns("var", ".venv*", ".git", ".*_cache", "__pycache__")
_SCHEDULED_SECONDS = 420
"""The shipped configuration replicates every five minutes; the scheduler needs a moment more."""

CONTROLS = {
    "a TCP connection": (
        "import socket\ntry: socket.create_connection(('192.0.2.7', 443), 3)\nexcept OSError: pass",
        "tcp 192.0.2.7:443",
    ),
    "a UDP packet": (
        (
            "import socket\ns = socket.socket(2, 2); s.connect(('192.0.2.8', 8125)); s.send(b'x'); s.settimeout(3)\n"
            "try: s.recv(9)\nexcept OSError: pass"
        ),
        "udp 192.0.2.8:8125",
    ),
    "a look-up of a name": (
        "import socket\ntry: socket.getaddrinfo('control.example.eu', 443)\nexcept OSError: pass",
        f"look-up of control.example.eu (udp {sink.NAMESERVER}:53)",
    ),
    "a look-up of the machine's own name": (
        "import socket\nsocket.getfqdn()",
        f"look-up of {sink.HOSTNAME} (udp {sink.NAMESERVER}:53)",
    ),
    "a connection over IPv6": (
        "import socket\ntry: socket.create_connection(('2001:db8:7::7', 443), 3)\nexcept OSError: pass",
        "tcp [2001:db8:7::7]:443",
    ),
}
"""Actions of a child process in the control, and the destination under which each must be counted."""


@dataclass
class Proof:
    """Checks and figures as they come; `ok` is None for a check that was not run."""

    started: float = field(default_factory=time.monotonic)
    checks: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    watching: bool = False
    """Whether attempts belong to the platform by now, and not to the control."""

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def check(self, what: str, ok: bool | None, detail: str = "") -> None:
        self.checks.append({"what": what, "ok": ok, "detail": detail if ok is not None else f"not run: {detail}"})
        sign = "not run" if ok is None else "ok" if ok else "RED"
        self.tell(f"{sign:<7} {what}" + (f": {detail}" if detail else ""))

    @property
    def ok(self) -> bool:
        """Return whether no check failed and the count exists: without the count nothing is proved."""
        return all(check["ok"] is not False for check in self.checks) and self.figures.get("attempts") == 0

    def report(self) -> dict[str, Any]:
        return {
            "name": NAME,
            "ok": self.ok,
            "seconds": round(time.monotonic() - self.started, 1),
            "checks": self.checks,
            "figures": self.figures,
        }


def by_destination(attempts: Iterable[sink.Attempt]) -> list[dict[str, Any]]:
    """Return how often each process tried each destination, the most frequent first."""
    counted = Counter((a.service, a.process, a.destination) for a in attempts)
    first: dict[tuple[str, str, str], sink.Attempt] = {}
    for attempt in attempts:
        first.setdefault((attempt.service, attempt.process, attempt.destination), attempt)
    return [
        {
            "count": count,
            "destination": key[2],
            "service": key[0],
            "process": key[1],
            "pid": first[key].pid,
            "parents": list(first[key].ancestry),
            "first_at_seconds": first[key].at,
        }
        for key, count in counted.most_common()
    ]


# --- inside the namespace ---------------------------------------------------------------------------------------------


def control(proof: Proof, caught: sink.Sink, when: str) -> None:
    """Check that each deliberate attempt is counted under its process."""
    for what, (code, destination) in CONTROLS.items():
        if "IPv6" in what and not caught.ipv6:
            proof.check(f"control {when}: {what} is counted", None, "this kernel has no IPv6, so nothing can use it")
            continue
        before = len(caught.attempts())
        child = subprocess.Popen([sys.executable, "-c", code])
        child.wait()
        seen = caught.attempts(before)
        right = [a for a in seen if a.destination == destination and a.pid == child.pid]
        told = ", ".join(dict.fromkeys(f"{a.destination} by {a.pid}" for a in seen)) or "nothing was counted"
        proof.check(f"control {when}: {what} is counted, with its process", bool(right), told)


def rempart(
    proof: Proof,
    what: str,
    *arguments: str,
    good: tuple[int, ...] = (0,),
    tries: int = 1,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command of ours, which must succeed within `tries`; its output goes to the user.

    `environment`: more variables.
    """
    command = f"rempart {' '.join(arguments)}"
    proof.tell(command)
    began, variables = time.monotonic(), os.environ | dict(environment or {})
    tried, code = 0, -1
    while tried < tries and code not in good:
        tried += 1
        code = subprocess.run([sys.executable, "-m", "rempart.cli", *arguments], env=variables, check=False).returncode
    ended = f"{command}: exit code {code}, {time.monotonic() - began:.0f} s"
    ended += f", at try {tried} of {tries}" if tried > 1 else ""
    proof.check(what, code in good, ended)


def scheduled(proof: Proof, api: AirflowApi, since: datetime) -> None:
    """Check that a run succeeds that the scheduler starts by the clock, not by a request."""
    deadline = time.monotonic() + _SCHEDULED_SECONDS
    what, told = "a scheduled run ends well", 0.0
    while time.monotonic() < deadline:
        runs = api.every("/api/v2/dags/~/dagRuns", "dag_runs", run_type="scheduled")
        fresh = [run for run in runs if datetime.fromisoformat(run["run_after"]) >= since]
        if ended := [run for run in fresh if run["state"] in TERMINAL]:
            good = all(run["state"] == "success" for run in ended)
            proof.check(what, good, ", ".join(f"{run['dag_id']} {run['state']}" for run in ended))
            return
        if time.monotonic() - told > 30:
            told = time.monotonic()
            proof.tell("waiting for the scheduler to start a run by the clock")
        time.sleep(2)
    proof.check(what, False, f"none ended within {_SCHEDULED_SECONDS} s")


def use_everything(proof: Proof, linger: int) -> None:
    """Use every part of the sealed stack, from nothing to its end."""
    since = datetime.now(UTC) - timedelta(seconds=1)
    evidence = config.var_dir() / "evidence"
    rempart(proof, "the machine is checked", "stack", "preflight")
    rempart(proof, "the configuration is checked", "config", "check")
    rempart(proof, "the whole demo runs, cold", "demo", "--all")
    # of what does not answer a person in time, it says that it is unknown, and to look again
    rempart(proof, "the services are shown", "status", tries=3)
    api = AirflowApi(config.environment_connections("airflow_api"))
    # the clock may not have started it yet, and without its checkpoint no export can be verified
    api.follow("export_evidence", api.trigger("export_evidence"), lambda line: proof.tell(f"export_evidence: {line}"))
    rempart(proof, "the evidence is exported", "ledger", "export", str(evidence))
    rempart(proof, "the evidence is verified", "ledger", "verify", str(evidence), "--key", str(evidence / "public.pem"))
    # exit codes 1 and 2 mean findings, which the audit judges; 3 means that no audit ran
    audited = config.var_dir() / "audit.txt"
    rempart(proof, "the platform is audited", "audit", "run", "--out", str(audited), good=(0, 1, 2))
    proof.tell("reading the web pages")
    proof.figures |= pages.look(
        proof.check,
        server("airflow", pages.AIRFLOW_PAGES),
        server("mlflow", pages.MLFLOW_PAGES),
        "ingest_hotel_bookings",
    )
    scheduled(proof, api, since)
    if linger:
        proof.tell(f"the stack stays up for {linger} s more, for what happens late")
        time.sleep(linger)


def server(name: str, paths: tuple[str, ...]) -> pages.Server:
    connection = config.environment_connections({"airflow": "airflow_api"}.get(name, name))
    url = f"http://{connection.host}:{connection.port}"
    return pages.Server(name, url, connection.login, connection.password, paths)


def sealed(arguments: argparse.Namespace) -> int:
    """Run the part inside the namespace."""
    proof = Proof()

    def tell_attempt(attempt: sink.Attempt) -> None:
        if proof.watching:
            proof.tell(f"ATTEMPT {attempt.destination} by {attempt.service or 'no service'}: {attempt.process}")

    with sink.Sink(on_attempt=tell_attempt) as caught:
        control(proof, caught, "before")
        if arguments.control:
            write(arguments.result, proof.report())
            return int(any(check["ok"] is False for check in proof.checks))
        begin, proof.watching = len(caught.attempts()), True
        try:
            use_everything(proof, arguments.linger)
        except Exception as error:
            proof.check("every step could be taken", False, f"{type(error).__name__}: {error}")
        finally:
            rempart(proof, "the stack is stopped", "down")
        attempts, proof.watching = caught.attempts(begin), False
        control(proof, caught, "after")
    proof.figures |= {
        "attempts": len(attempts),
        "destinations": len({attempt.destination for attempt in attempts}),
        "processes": len({(attempt.pid, attempt.process) for attempt in attempts}),
    }
    proof.check("no attempt to reach another machine", not attempts, f"{len(attempts)} packets wanted to leave")
    write(arguments.result, proof.report() | {"attempts": by_destination(attempts)})
    return 0


# --- outside ----------------------------------------------------------------------------------------------------------


def write(file: Path, report: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    part.replace(file)


def processes_left(var: Path) -> list[int]:
    """Return processes of the proof's stack that this machine still shows."""
    from rempart.deployment.setup import launch, preflight

    found = [*launch.marked(f"{preflight.stack_id(var)}:"), *launch.databases(var / "postgresql" / "data")]
    return [process.pid for process in found]


def not_run(result: Path, reason: str) -> int:
    proof = Proof()
    proof.check("no attempt to reach another machine", None, reason)
    write(result, proof.report())
    print(f"\nThe proof was NOT RUN: {reason}.\nNothing is proved. {result} says so.", file=sys.stderr)
    return 1


def table(report: dict[str, Any]) -> list[str]:
    lines = [
        f"  {a['count']:>5} x {a['destination']:<58} {a['service'] or '-'}: {a['process'][:90]}"
        for a in report["attempts"]
    ]
    return ["", "attempts", *(lines or ["  none"])]


def red(report: dict[str, Any]) -> list[str]:
    """Return the failed checks once more, so that the last lines tell why."""
    return [f"\nRED: {c['what']}: {c['detail']}" for c in report["checks"] if c["ok"] is False]


def finish(inner: Path, result: Path, var: Path, code: int, began: float) -> int:
    """Judge from outside and write the result. Return the exit code."""
    proof = Proof(began)
    listed: list[dict[str, Any]] = []
    if inner.is_file():
        report = json.loads(inner.read_text(encoding="utf-8"))
        proof.checks, proof.figures, listed = report["checks"], report["figures"], report["attempts"]
    else:
        proof.check("the proof came to its end", False, f"its process ended with {code} before it could report")
    left = processes_left(var)
    proof.check("no process is left", not left, f"{len(left)} of the proof's stack")
    report = proof.report() | {"attempts": listed}
    write(result, report)
    print("\n".join([*table(report), *red(report)]))
    print(
        f"\n{'ok' if report['ok'] else 'RED'}: {proof.figures.get('attempts', 'an unknown number of')} attempts, "
        f"{report['seconds']:.0f} s; {result}"
    )
    return 0 if report["ok"] else 1


def stop(number: int, frame: object) -> None:
    """SIGTERM: end at once. The namespace ends with this process, and everything in it."""
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make prove-egress", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--linger", type=int, default=LINGER_SECONDS, help="seconds that the stack stays up at the end")
    parser.add_argument("--control", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if sink.inside():
        return sealed(arguments)
    result = config.var_dir().absolute() / "proof" / f"{NAME}.json"
    if reason := sink.why_not():
        return not_run(result, reason)
    var = config.var_dir().absolute() / FOLDER
    if left := processes_left(var):
        raise SystemExit(f"another proof of egress runs on this machine (process {left[0]}): wait for it, or stop it")
    result.unlink(missing_ok=True)  # an earlier result is none of this run
    if var.exists():
        shutil.rmtree(var)
    var.mkdir(parents=True)
    home = var / "project"  # the demo's second part adds pipelines to its project
    shutil.copytree(config.project_root(), home, ignore=_NOT_COPIED, symlinks=True)
    began, inner = time.monotonic(), var / f"{NAME}.json"
    signal.signal(signal.SIGTERM, stop)
    print(f"The demo runs sealed off, cold, with its state in {var}. It takes about ten minutes.", flush=True)
    code = sink.Namespace().run(
        "bench.prove_egress",
        ["--linger", str(arguments.linger), "--result", str(inner)],
        {"REMPART_VAR": str(var), "REMPART_HOME": str(home)},
    )
    return finish(inner, result, var, code, began)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. Nothing is proved; the namespace and every process in it have gone.", file=sys.stderr)
        sys.exit(130)
