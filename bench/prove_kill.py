"""Proof: each process of the stack is killed while the chain runs; the chain succeeds, at the latest on a re-run.

    make prove-kill

For each process, the proof starts a training (with new parameters, so the work is real), kills the process while the
task runs, then follows training and gate to their end. A run that fails must state the cause, and must succeed when it
is started again.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime

from bench.prove_failover import await_running
from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli import rendering
from rempart.cli.demo import demo_run as demo
from rempart.deployment.embedded import lifecycle, status
from rempart.deployment.setup import paths
from rempart.flows.shared.platform import open_platform
from rempart.settings import config, telemetry

PIPELINE = demo.PIPELINE


def patiently(call: Callable[[], object], seconds: float = 120) -> object:
    """Retry until the API server is back: it may be the killed process."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except AirflowApiError as error:
            if ("no answer" not in error.what and "HTTP 5" not in error.what) or time.monotonic() > deadline:
                raise
            time.sleep(1)


def chain(api: AirflowApi, params: dict[str, float], while_running: Callable[[], None]) -> str:
    """Run one training and its gate. Return the results."""
    since = datetime.now(UTC)
    train, gate = f"train_{PIPELINE}", f"validate_model_{PIPELINE}"
    run_id = api.trigger(train, {"trainer_params": params})
    await_running(api, run_id)
    time.sleep(2)
    while_running()
    patiently(lambda: api.follow(train, run_id, lambda line: None))
    gate_run = patiently(lambda: api.await_run(gate, since))
    patiently(lambda: api.follow(gate, str(gate_run), lambda line: None))
    return "ended well"


def prove(api: AirflowApi, stack: paths.Stack, service: str, number: int) -> tuple[bool, str, float]:
    began = time.monotonic()
    params = {"num_iterations": 40, "lambda_l2": round(time.time() % 1e6 * 1e-9 + number * 1e-3, 12)}

    def kill() -> None:
        (line,) = [s for s in status.services(stack, time.time()) if s.name == service]
        assert line.pid
        os.kill(line.pid, signal.SIGKILL)

    try:
        outcome = chain(api, params, kill)
    except AirflowApiError as error:
        lifecycle.up(stack)
        outcome = f"failed ({error.what[:90]}); the re-run " + chain(api, params, lambda: None)
    lifecycle.up(stack)
    healed = status.all_run(status.services(stack, time.time()))
    return healed, outcome, time.monotonic() - began


@rendering.on_terminal()
def main() -> int:
    stack = paths.current()
    lifecycle.up(stack)
    telemetry.adopt_environment()
    api = AirflowApi(config.environment_connections("airflow_api"))
    demo.Demo(open_platform(), api, print).chain()
    started, checks = time.monotonic(), []
    for number, service in enumerate(stack.services):
        try:
            ok, outcome, seconds = prove(api, stack, service, number)
        except Exception as error:
            ok, outcome, seconds = False, f"{type(error).__name__}: {str(error)[:200]}", time.monotonic() - started
        checks.append(
            {"what": f"kill -9 {service} while a training runs", "ok": ok, "detail": f"{outcome}, {seconds:.0f} s"}
        )
        print(f"{'ok  ' if ok else 'RED '} {service:<24} {outcome} ({seconds:.0f} s)", flush=True)
    good = all(check["ok"] for check in checks)
    folder = config.var_dir() / "proof"
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "name": "kill",
        "ok": good,
        "seconds": round(time.monotonic() - started, 1),
        "checks": checks,
        "figures": {},
    }
    (folder / "kill.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
