"""Proof: the primary site is killed while the demo's chain runs; the chain ends on `haven`, and returns later.

    make prove-failover

On a stack of its own, the proof ingests deliveries, materializes features and replicates everything. It starts a
training, and kills the site (SIGKILL) in the middle of it; the site stays away. A failover without `accept_loss` is
refused. With it, the chain ends on `haven`. Then the primary returns, with objects that were never replicated, and the
platform fails back. At the end, every object that either site lists is read from both sites and compared with its
earlier content.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.prove_pods import own_stack, write
from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli import rendering
from rempart.cli.demo import demo_run as demo
from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.embedded.supervision import Supervisor
from rempart.deployment.servers import object_sites
from rempart.deployment.setup import paths
from rempart.deployment.setup.credentials import connections
from rempart.errors import FailoverError, RempartError
from rempart.flows.failover.fail_over import SwitchoverResult, fail_back, fail_over
from rempart.flows.shared.platform import Platform, open_platform
from rempart.settings import config, telemetry

OFFSET = "4400"
PIPELINE = demo.PIPELINE
LATE = 5
Check = dict[str, Any]
Held = dict[tuple[str, str], str]


def check(what: str, ok: bool, detail: object) -> Check:
    return {"what": what, "ok": bool(ok), "detail": str(detail)}


def held(platform: Platform, name: str) -> Held:
    """Return the SHA-256 of each object that a site lists in the shared buckets, read from it."""
    site, found = platform.site(name, "personal"), {}
    for bucket in (platform.config.buckets.lake, platform.config.buckets.artifacts):
        for info in site.list(bucket):
            found[bucket, info.key] = hashlib.sha256(site.read(bucket, info.key)).hexdigest()
    return found


def kill_primary(stack: paths.Stack) -> None:
    """Kill the primary (SIGKILL), and keep the supervisor from starting it again: the site is lost."""
    (line,) = [service for service in status.services(stack, time.time()) if service.name == "site-primary"]
    os.kill(line.pid, signal.SIGKILL)
    Supervisor(stack).stop(["site-primary"])


def return_primary(stack: paths.Stack) -> None:
    Supervisor(stack).launch(["site-primary"])
    resolve, deadline = connections(stack, config.read_env_file(stack.secrets)), time.monotonic() + 60
    while True:
        try:
            object_sites.check(stack, "primary", resolve)
            return
        except RempartError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def await_running(api: AirflowApi, run_id: str, seconds: float = 180) -> None:
    """Wait until a training's task runs."""
    path, deadline = f"/api/v2/dags/train_{PIPELINE}/dagRuns/{run_id}/taskInstances", time.monotonic() + seconds
    while not any(task_instance["state"] == "running" for task_instance in api.get(path)["task_instances"]):
        if time.monotonic() > deadline:
            raise AirflowApiError(f"{run_id}: no task runs after {seconds:.0f} s", "Look at Airflow's logs.")
        time.sleep(0.3)


def followed(api: AirflowApi, dag_id: str, run_id: str) -> str:
    try:
        api.follow(dag_id, run_id, print)
    except AirflowApiError as error:
        return f"failed: {error.what[:120]}"
    return "ended well"


def seconds_of(result: SwitchoverResult) -> dict[str, float]:
    return {step: outcome["seconds"] for step, outcome in result.steps.items()}


def timed(act: Callable[[], SwitchoverResult]) -> tuple[SwitchoverResult, float]:
    began = time.monotonic()
    return act(), round(time.monotonic() - began, 1)


def prove(stack: paths.Stack) -> tuple[list[Check], dict[str, Any]]:
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    run = demo.Demo(platform, api, print)
    checks: list[Check] = []

    print("--- the chain begins at the primary site")
    run.deliver()
    since = datetime.now(UTC) - timedelta(seconds=1)
    run.run("ingest", f"ingest_{PIPELINE}", "ingest")
    run.run("features", f"materialize_features_{PIPELINE}", "materialize", since=since)
    training = api.await_run(f"train_{PIPELINE}", since)
    api.follow(f"train_{PIPELINE}", training, print)
    judging = api.await_run(f"validate_model_{PIPELINE}", since)
    api.follow(f"validate_model_{PIPELINE}", judging, print)
    copied = run.run("replicate", "replicate_primary_to_haven", "conclude")
    checks.append(
        check(
            "everything is replicated before the fault",
            copied["verified"] == copied["objects"] > 0,
            f"{copied['verified']} of {copied['objects']} objects verified",
        )
    )
    record = platform.ledger.find("replication", "primary->haven", limit=1)[0]
    before = held(platform, "primary")

    print("--- a training runs, and the primary site is killed")
    params = {"num_iterations": 60, "lambda_l2": round(time.time() % 1e6 * 1e-9, 12)}
    training = api.trigger(f"train_{PIPELINE}", {"trainer_params": params})
    await_running(api, training)
    time.sleep(2)
    late = datetime.now(UTC)
    for number in range(LATE):
        bucket, key, body = platform.config.buckets.lake, f"proof/late-{number}", b"%d" % number
        platform.site("primary", "personal").write(bucket, key, body)
        before[bucket, key] = hashlib.sha256(body).hexdigest()
    kill_primary(stack)
    gone = time.monotonic()
    plan = fail_over(platform, "haven")
    try:
        fail_over(platform, "haven", dry_run=False)
        refused = "it went through"
    except FailoverError as error:
        refused = error.what
    checks.append(check("without the operator's word it is refused", "does not answer" in refused, refused))
    over, over_seconds = timed(lambda: fail_over(platform, "haven", dry_run=False, accept_loss=True))
    away = round(time.monotonic() - gone, 1)
    drain = over.steps["drain"]
    newest = platform.ledger.find("replication", "primary->haven", limit=1)[0]
    known = datetime.fromisoformat(drain["lag_known_at"])
    checks += [
        check("failover ends at haven", over.done and platform.active().site == "haven", f"{over_seconds} s"),
        check(
            "the reported lag is that of the last replication, and what is not known is said",
            drain["lag_seconds"] == newest.body["lag_seconds"] and known == newest.at and bool(over.unknown),
            f"lag {drain['lag_seconds']:.0f} s as of {known:%H:%M:%S}, written unseen after {late:%H:%M:%S}: {LATE}",
        ),
        check(
            "what was written after that replication is not at haven, as reported",
            known <= late
            and not [version for version in held(platform, "haven") if version[1].startswith("proof/late-")],
            f"{LATE} objects; plan told: {plan.plan[0]}",
        ),
    ]

    print("--- the chain is finished on haven")
    interrupted = followed(api, f"train_{PIPELINE}", training)
    since = datetime.now(UTC)
    fresh = {**params, "num_iterations": 61}
    trained = run.run("train", f"train_{PIPELINE}", "train", conf={"trainer_params": fresh})
    judged = run.run("validate", f"validate_model_{PIPELINE}", "validate", since=since)
    finished = round(time.monotonic() - gone, 1)
    on_haven = held(platform, "haven")
    checks += [
        check(
            "a training and its gate end on haven",
            judged["version"] == trained["version"],
            f"version {judged['version']}, mae {judged['metrics']['mae']:.2f}, champion {judged['champion']}",
        ),
        check(
            "its artifacts are at haven", len(on_haven) > len(before) - LATE, f"{len(on_haven)} objects, read from it"
        ),
    ]

    print("--- the primary site comes back, and the platform goes home")
    return_primary(stack)
    diff = fail_back(platform)
    back, back_seconds = timed(lambda: fail_back(platform, dry_run=False))
    at_home, at_haven = held(platform, "primary"), held(platform, "haven")
    wanted = {**before, **on_haven}
    lost = [f"{bucket}/{key}" for (bucket, key), digest in wanted.items() if at_home.get((bucket, key)) != digest]
    missing = [f"{bucket}/{key}" for (bucket, key) in wanted if (bucket, key) not in at_haven]
    run.run("ingest", f"ingest_{PIPELINE}", "ingest")
    checks += [
        check("failback ends at home", back.done and platform.active().site == "primary", f"{back_seconds} s"),
        check(
            "what nobody had replicated is taken over",
            back.steps["diff"]["adopted_count"] >= LATE,
            f"{back.steps['diff']['adopted_count']} objects, {LATE} of them ours; the plan had {len(diff.plan)} lines",
        ),
        check("no conflict", not back.conflicts, ", ".join(back.conflicts) or "none"),
        check(
            "nothing is lost", not lost and not missing, ", ".join([*lost, *missing][:5]) or f"{len(wanted)} objects"
        ),
        check("both sites show the same bytes", at_home == at_haven, f"{len(at_home)} and {len(at_haven)} objects"),
        check("pipelines work at home", True, "ingest ended well"),
        check(
            "the published state is at both sites",
            _is_published(platform),
            f"generation {platform.active().generation}",
        ),
    ]
    figures = {
        "failover_seconds": over_seconds,
        "failover_steps": seconds_of(over),
        "seconds_from_kill_to_active": away,
        "seconds_from_kill_to_the_end_of_the_chain": finished,
        "failback_seconds": back_seconds,
        "failback_steps": seconds_of(back),
        "the_training_that_was_interrupted": interrupted,
        "objects": len(at_home),
        "bytes_replicated_before": copied["bytes"],
        "replication_record": record.seq,
    }
    return checks, figures


def _is_published(platform: Platform) -> bool:
    from rempart.flows.failover import published_state

    generation = platform.active().generation
    return all(
        isinstance(state, dict) and state["generation"] == generation
        for state in published_state.read(platform).values()
    )


@rendering.on_terminal()
def main() -> int:
    began, folder = time.monotonic(), config.var_dir() / "prove-failover"
    with own_stack(config.project_root(), folder / "var", OFFSET, {}) as stack:
        lifecycle.up(stack)
        telemetry.adopt_environment()
        checks, figures = prove(stack)
    for name in ("failover_steps", "failback_steps"):
        print(f"{name}: " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in figures[name].items()))
    return 0 if write("failover", checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
