"""Proof: the shipped pipelines give the same snapshots on Spark as on DuckDB, and Spark reaches no other machine.

    make prove-spark             # needs `make setup-spark`, and root for the count of packets

The demo with both parts runs twice from nothing, in a network that leads nowhere: once as it is shipped, and once with
`engine: spark` in each of its pipeline files (two executors as processes). Snapshots must have the same ids; both
models must become champion, and their errors on the held-out rows are told side by side. Packets that leave are counted
as in `make prove-egress`, and so are those of control processes, before and after.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench import sink
from bench.prove_egress import Proof, by_destination, control, processes_left, rempart, stop, table, write
from rempart.errors import SparkError
from rempart.ledger import files
from rempart.settings import config
from rempart.spark import environment

NAME, FOLDER = "spark", "prove-spark"
ENGINES = ("duckdb", "spark")
RESOURCES = {"executors": 2, "cores": 1, "memory": 1024, "driver_memory": 1024}
FILES = ("include/pipelines", "data/flights")
_NOT_COPIED = shutil.ignore_patterns("var", ".venv*", ".git", ".*_cache", "__pycache__")


def project(home: Path, engine: str) -> None:
    """Copy the project, with this engine in each of its pipeline files."""
    shutil.copytree(config.project_root(), home, ignore=_NOT_COPIED, symlinks=True)
    (home / environment.FOLDER).symlink_to(environment.python().parent.parent)
    if engine != "duckdb":
        told = yaml.safe_dump({"engine": engine, "spark": RESOURCES}, sort_keys=False)
        for file in (each for folder in FILES for each in (home / folder).glob("*.yaml")):
            file.write_text(f"{file.read_text(encoding='utf-8').rstrip()}\n\n{told}", encoding="utf-8")


def run_demo(proof: Proof, root: Path, engine: str) -> dict[str, Any]:
    """Run the demo on an engine from nothing to its end. Return what it left: snapshots, champions, Spark's jobs."""
    home, var = root / engine / "project", root / engine / "var"
    variables = {"REMPART_HOME": str(home), "REMPART_VAR": str(var), "PYTHONPATH": str(home / "include")}
    proof.tell(f"--- engine: {engine}")
    began = time.monotonic()
    try:
        rempart(proof, f"the whole demo runs with engine: {engine}", "demo", "--all", environment=variables)
        seconds = round(time.monotonic() - began, 1)
        found = {"seconds": seconds, "pipelines": {}, "jobs": []}
        for each in shown(variables, "pipeline", "list", "--json")["pipelines"]:
            found["pipelines"][each["name"]] = {"snapshot": each["snapshot"], "champion": each["champion"]}
        rempart(proof, "the evidence is exported", "ledger", "export", str(var / "evidence"), environment=variables)
        records = [json.loads(line)["record"] for line in files.lines(files.segments(var / "evidence"))]
        found["jobs"] = [each["body"] for each in records if each["kind"] == "spark-job"]
        return found
    finally:
        rempart(proof, "the stack is stopped", "down", environment=variables)


def shown(variables: Mapping[str, str], *arguments: str) -> Any:
    """Return the JSON that a command of ours shows."""
    command = [sys.executable, "-m", "rempart.cli", *arguments]
    return json.loads(subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, check=True).stdout)


def compare(proof: Proof, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that both engines left the same snapshots, and that Spark made them."""
    duckdb, spark = (found[engine] for engine in ENGINES)
    names = sorted(duckdb["pipelines"])
    proof.check("the demo left pipelines on both engines", bool(names) and names == sorted(spark["pipelines"]))
    for name in names:
        ours, other = (each["pipelines"].get(name, {}) for each in (spark, duckdb))
        told = [(each.get("snapshot") or {}).get("id") for each in (ours, other)]
        proof.check(f"{name}: Spark's snapshot is DuckDB's", told[0] is not None and told[0] == told[1], str(told[0]))
        if other.get("champion"):
            held = [(each.get("champion") or {}).get("metrics") for each in (ours, other)]
            proof.check(f"{name}: a champion on both engines", None not in held, f"Spark {held[0]}, DuckDB {held[1]}")
    does = {(job["do"]) for job in spark["jobs"]}
    proof.check(
        "Spark did the work", does == {"derive", "ingest", "training_set"}, f"{len(spark['jobs'])} jobs: {sorted(does)}"
    )
    proof.check("DuckDB's demo ran no job of Spark", not duckdb["jobs"])


def sealed(arguments: argparse.Namespace) -> int:
    """Run the part inside the namespace."""
    proof, root = Proof(), Path(arguments.root)
    found: dict[str, dict[str, Any]] = {}
    with sink.Sink() as caught:
        control(proof, caught, "before")
        begin = len(caught.attempts())
        for engine in ENGINES:
            try:
                found[engine] = run_demo(proof, root, engine)
            except Exception as error:
                proof.check(f"every step could be taken with {engine}", False, f"{type(error).__name__}: {error}")
        attempts = caught.attempts(begin)
        control(proof, caught, "after")
    if len(found) == len(ENGINES):
        compare(proof, found)
    proof.figures |= {"attempts": len(attempts), "engines": found}
    proof.check("no attempt to reach another machine", not attempts, f"{len(attempts)} packets wanted to leave")
    write(arguments.result, proof.report() | {"attempts": by_destination(attempts)})
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make prove-spark", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if sink.inside():
        return sealed(arguments)
    root = config.var_dir().absolute() / FOLDER
    result = config.var_dir().absolute() / "proof" / f"{NAME}.json"
    if reason := sink.why_not() or _missing():
        proof = Proof()
        proof.check("no attempt to reach another machine", None, reason)
        write(result, proof.report())
        print(f"\nThe proof was NOT RUN: {reason}.\nNothing is proved. {result} says so.", file=sys.stderr)
        return 1
    shutil.rmtree(root, ignore_errors=True)
    result.unlink(missing_ok=True)  # an earlier result is none of this run
    for engine in ENGINES:
        project(root / engine / "project", engine)
    began, inner = time.monotonic(), root / f"{NAME}.json"
    signal.signal(signal.SIGTERM, stop)
    print(f"The demo runs twice, sealed off and cold, with its state in {root}. It takes about 20 minutes.", flush=True)
    code = sink.Namespace().run("bench.prove_spark", ["--root", str(root), "--result", str(inner)])
    return finish(inner, result, root, code, began)


def _missing() -> str:
    try:
        environment.python()
    except SparkError as error:
        return error.what
    return ""


def finish(inner: Path, result: Path, root: Path, code: int, began: float) -> int:
    """Judge from outside and write the result. Return the exit code."""
    proof, listed = Proof(began), list[dict[str, Any]]()
    if inner.is_file():
        report = json.loads(inner.read_text(encoding="utf-8"))
        proof.checks, proof.figures, listed = report["checks"], report["figures"], report["attempts"]
    else:
        proof.check("the proof came to its end", False, f"its process ended with {code} before it could report")
    left = [process for engine in ENGINES for process in processes_left(root / engine / "var")]
    proof.check("no process is left", not left, f"{len(left)} of the proof's stacks")
    report = proof.report() | {"name": NAME, "attempts": listed}
    write(result, report)
    print("\n".join(table(report)))
    print(f"\n{'ok' if report['ok'] else 'RED'}: {report['seconds']:.0f} s; {result}")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. Nothing is proved; the namespace and every process in it have gone.", file=sys.stderr)
        sys.exit(130)
