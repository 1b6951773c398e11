"""Proof: the demo's chain with its trainings in pods: the first pool is full, the second takes them, the third never.

    make prove-pods            ARGS="--linger 600" keeps the stack up for ten more minutes

The chain of `make demo` runs as it is, with `training.backend: kubernetes`. No cluster can be installed without root,
so each pool is a double that speaks Kubernetes' API and runs containers as processes (tests/kubernetes_double): pool
gpu-a has no free GPU, gpu-b has two, and gpu-us, outside the Union, has plenty. The report tells where each job ran.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from rempart import config
from tests import pods

OFFSET = "4000"
FULL = {"gpu-a": 0, "gpu-b": 2, "gpu-us": 16}


def rempart(*arguments: str, env: dict[str, str]) -> int:
    return subprocess.run([sys.executable, "-m", "rempart.cli", *arguments], env=env, check=False).returncode


def evidence(env: dict[str, str]) -> list[dict[str, Any]]:
    """The ledger's records of placements, oldest first."""
    code = (
        "import json; from rempart.stack import lifecycle; lifecycle.adopt_environment();"
        "from rempart.flows.platform import open_platform;"
        "print(json.dumps([dict(r.body) for r in open_platform().ledger.find('placement')][::-1]))"
    )
    found = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    records: list[dict[str, Any]] = json.loads(found.stdout.splitlines()[-1])
    return records


def checks(report: dict[str, Any], placed: list[dict[str, Any]], clusters: dict[str, Any]) -> list[dict[str, Any]]:
    """What must be true, as a stranger would look: at the report, the ledger, and the clusters themselves."""
    ran = [one["ran"] for one in placed if one["outcome"] == "succeeded"]
    pods_of = {name: double.history for name, double in clusters.items()}
    left = [one.name for double in clusters.values() for one in double.history if one.deleted is None]
    started = [one for one in pods_of["gpu-b"] if one.started]
    told = [
        f"{one['pool']} ({one['operator']}, {one['region']}, node {one['node']}, {one['seconds']} s)" for one in ran
    ]
    return [
        {"what": "the demo's own checks", "ok": bool(report["ok"]), "detail": "; ".join(report["failures"]) or "all"},
        {"what": "trainings ran in pool gpu-b", "ok": len(ran) >= 2, "detail": "; ".join(told)},
        {
            "what": "pool gpu-a was asked first, and had no GPU free",
            "ok": bool(pods_of["gpu-a"]) and not [one for one in pods_of["gpu-a"] if one.node],
            "detail": f"{len(pods_of['gpu-a'])} pods waited there, none got a node",
        },
        {
            "what": "pool gpu-us (US-owned, 16 GPUs free) was never asked",
            "ok": not clusters["gpu-us"].requests,
            "detail": ", ".join(f"{one.method} {one.path}" for one in clusters["gpu-us"].requests) or "no request",
        },
        {
            "what": "each job ran once",
            "ok": len(started) == len(ran),
            "detail": f"{len(started)} containers started for {len(ran)} jobs",
        },
        {"what": "no pod and no process is left", "ok": not left, "detail": ", ".join(left) or "none"},
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_pods", description=__doc__)
    parser.add_argument("--linger", type=int, default=0, help="seconds that the stack stays up afterwards")
    linger = parser.parse_args(arguments).linger
    folder = config.var_dir() / "prove-pods"
    home, var = folder / "home", folder / "var"
    shutil.rmtree(home, ignore_errors=True)
    pods.project(
        home, {"gpu-a": {"max_pending": "15s", "price_per_gpu_hour": 1.9}, "gpu-b": {"price_per_gpu_hour": 2.4}}
    )
    began = time.monotonic()
    with pods.clusters(home, FULL) as clusters:
        own = {"REMPART_HOME": str(home), "REMPART_VAR": str(var), "REMPART_PORT_OFFSET": OFFSET}
        env = dict(os.environ) | own | pods.connections(clusters)
        rempart("down", env=env)
        shutil.rmtree(var, ignore_errors=True)
        try:
            rempart("demo", env=env)
            report = json.loads((var / "demo-report.json").read_text(encoding="utf-8"))
            found = checks(report, placed := evidence(env), clusters)
            time.sleep(linger)
        finally:
            rempart("down", env=env)
    good = all(one["ok"] for one in found)
    for one in found:
        print(f"{'ok ' if one['ok'] else 'RED'} {one['what']}: {one['detail']}")
    seconds = round(time.monotonic() - began, 1)
    result = {
        "name": "pods",
        "ok": good,
        "seconds": seconds,
        "checks": found,
        "figures": {"placements": placed, "demo_seconds": report["seconds"]},
    }
    target = config.var_dir() / "proof" / "pods.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{seconds:.0f} s; written: {target}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
