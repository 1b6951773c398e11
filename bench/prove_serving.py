"""Proof: the scorer is killed twenty times under load, while versions change; each answer is once in the log.

    make prove-serving                     # REMPART_KILLS=3 for a short look

PostgreSQL and two sites run as in `make demo`; Airflow and MLflow do not. Clients send at least 20,000 requests on 32
connections. In each round another version is promoted, or the former one returns, and the scorer is killed (SIGKILL)
after a random number of answers. In every second round, the next scorer starts while ledger and sites are away. At the
end the log is shipped, and each answer is compared with its entry, as a stranger would compare them.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.prove_failover import Check, check
from bench.prove_pods import own_stack, write
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle
from rempart.flows.shared.platform import open_platform
from rempart.settings import config, telemetry
from tests.served import STORES, Answer, Served, served

OFFSET = "8400"
KILLS = int(os.environ.get("REMPART_KILLS") or 20)
RATE, PER_KILL, SEED = 2000.0, 1000, 22


class Round:
    """One life of the scorer: a change of the version under way, then its end after so many answers."""

    def __init__(self, world: Served, version: str | None, until: int) -> None:
        self._world, self._version, self._until = world, version, until
        self._is_killed = False

    def goes_on(self, got: list[Answer]) -> bool:
        if self._is_killed:
            return False
        if self._version and len(got) > 100:
            self._world.promote(self._version)
            self._version = None
        if len(got) >= self._until:
            self._world.kill()
            self._is_killed = True
        return True


def prove(world: Served) -> tuple[list[Check], dict[str, Any]]:
    points, answers, starts = random.Random(SEED), list[Answer](), list[float]()  # noqa: S311 - it is told
    for number in range(KILLS):
        is_alone = number % 2 == 1
        began = time.monotonic()
        world.start(*(STORES if is_alone else ()))
        starts.append(time.monotonic() - began)
        until = points.randrange(PER_KILL, PER_KILL + 500)
        got = world.load(RATE, Round(world, None if is_alone else str(1 + number // 2 % 2), until).goes_on)
        answers += got
        print(f"killed {number + 1} of {KILLS} after {sum(each.status == 200 for each in got)} answers", flush=True)
    world.start()
    world.roll_back("1")
    answers += world.load(300.0, lambda got: not got or got[-1].status != 200 or got[-1].version != "1")
    swapped = across_changes(world)
    answers += swapped
    world.stop()
    shipped = world.ship()
    logged = world.logged()
    answered = [each for each in answers if each.status == 200]
    lost, wrong = world.lost_or_doubled(answers, logged), world.wrong(answers)
    odd = sorted({each.status for each in answers} - {0, 200})
    versions = sorted({each.version for each in swapped if each.status == 200})
    first_kills = f"{len(answered)} answers to {len(answers)} requests, {KILLS} kills, seed {SEED}"
    checks = [
        check("each answer is once in the log, as its client got it", not lost, "; ".join(lost[:3]) or first_kills),
        check("each answer is that of the version that it names", not wrong, "; ".join(wrong[:3]) or "1e-6"),
        check("nothing else is in the log than requests", len(logged) <= len(answers), f"{len(logged)} entries"),
        check("no request was refused", not odd, f"{odd or 'none'}"),
        check(
            "no request is lost across a promotion and a roll back",
            versions == ["1", "2"] and all(each.status == 200 for each in swapped),
            f"{len(swapped)} requests, answered by versions {' and '.join(versions)}",
        ),
        check("a second shipment adds nothing", world.ship()["entries"] == 0, f"{shipped['entries']} entries before"),
    ]
    figures = {
        "requests": len(answers),
        "answers": len(answered),
        "kills": KILLS,
        "unanswered": len(answers) - len(answered),
        "logged_but_not_answered": len(logged) - len(answered),
        "seconds_to_start_median": round(statistics.median(starts), 2),
        "seconds_to_start_most": round(max(starts), 2),
        "across_changes_p99_ms": round(
            1000 * sorted(each.got - each.sent for each in swapped)[-len(swapped) // 100], 1
        ),
    }
    return checks, figures


def across_changes(world: Served) -> list[Answer]:
    """At least 2,000 requests, 300 a second, across a promotion and a roll back."""
    steps = [lambda: world.promote("2"), lambda: world.roll_back("1")]
    seen: list[str] = []

    def goes_on(got: list[Answer]) -> bool:
        seen[:] = [each.version for each in got if each.status == 200]
        if steps and (len(seen) > 300 if len(steps) == 2 else "2" in seen[300:]):
            steps.pop(0)()
        return len(got) < 2000 or bool(steps) or seen[-1] != "1"

    return world.load(300.0, goes_on)


@rendering.on_terminal()
def main() -> int:
    began, folder = time.monotonic(), config.var_dir() / "prove-serving"
    with own_stack(config.project_root(), folder / "var", OFFSET, {}) as stack:
        lifecycle.start_stores(stack)
        telemetry.adopt_environment()
        platform = open_platform()
        sites = [platform.site(name, "public") for name in platform.config.sites]
        proofs = [site.probe(platform.config.buckets.doctor, platform.clock()).as_json() for site in sites]
        with (
            tempfile.TemporaryDirectory(prefix="rempart-proof-") as name,
            served(platform, proofs, Path(name)) as world,
        ):
            checks, figures = prove(world)
    return 0 if write("serving", checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
