"""Measure many queued trainings: requests to the clusters, cost for the triggerer, fairness of turns.

    make bench BENCH=pods_many                      ARGS="--cluster": 50, on the cluster of KUBECONFIG
                                                    ARGS="--cluster --only turns --seconds 15 --turns 60"

First, 500 pipelines wait for three pools without a free GPU. Second, 500 trainings of 60 pipelines share twelve GPUs.
Ten of the pipelines have most of the trainings, and each pipeline runs one training at a time (`max_active_runs`), as
its DAG does. Third, one job at a time goes through the operator and through a bare KubernetesPodOperator, in turns.
`--only` measures one of the three.

The operator, its triggers, the policy and the record of each job are real. Sites and ledger are in memory, the clusters
are doubles (tests/kubernetes_double), and a job is `sleep`. Triggers run in a process of their own, as in a triggerer;
one worker runs the tasks. Airflow's scheduler and triggerer take no part. A task looks for a free node only if it is
the only waiting job.

`--seconds` is the duration of a training that takes its turn. `--turns` is the number of turns after which the
trainings end. `--cluster` needs the same as `make test-k8s` (docs/how-to/test-on-a-cluster.md); its third node is pool
gpu-c.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import queue
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.lone_triggerer import triggerer
from bench.report import Row, write
from rempart.deployment.setup import paths
from rempart.settings import config, telemetry
from rempart.training.kubernetes import pod
from tests import clusters as chosen
from tests import pods
from tests.api_cluster import small_pod
from tests.clusters import GPU, OPERATORS, POOLS, Cluster, until
from tests.unit.training import stage
from tests.unit.training.test_job import result

MINUTES = 1.5
"""Seconds for which the requests of waiting jobs are counted."""
SOONER = 1.0
"""Minimum deferral in seconds while turns are counted; the guard against a fault of Airflow's scheduler is 10."""
ROUNDS = 10
OURS = {"gpu-a": ("cloud-a", "par"), "gpu-b": ("cloud-b", "fra"), "gpu-c": ("cloud-a", "par")}


@dataclass(frozen=True)
class Size:
    """Size of a measurement: waiting jobs, jobs after which the triggerer's memory counts, pipelines that share a
    pool's GPUs.
    """

    jobs: int
    warm: int
    greedy: tuple[int, int]
    """Pipelines, and trainings of each; the modest ones have as many."""
    modest: tuple[int, int]
    gpus: int
    seconds: int = 1
    """Duration of a training."""
    turns: int | None = None
    """Turns after which the counting ends; None: after the last training."""

    @property
    def trainings(self) -> int:
        """Return the number of trainings of all pipelines that share the GPUs."""
        return sum(count * each for count, each in (self.greedy, self.modest))


ON_DOUBLES = Size(500, 20, (10, 20), (50, 6), 4)
ON_A_CLUSTER = Size(50, 10, (2, 30), (6, 20), 1, seconds=15, turns=60)


@dataclass
class Job:
    """One training: its order, and the state of its task."""

    pipeline: str
    ordered: Any
    context: dict[str, Any] = field(default_factory=pods.context)
    method: str = "execute"
    arguments: dict[str, Any] = field(default_factory=dict)
    asked: float = 0.0
    """Start of its task."""
    place: float = 0.0
    """Time at which it had its node and its credentials."""


class Many:
    """Jobs of many pipelines, the worker that runs their tasks, and the triggerer."""

    def __init__(self, platform: Any, home: Path, made: Mapping[str, Cluster]) -> None:
        self.platform, self.clusters, self.home = platform, made, home
        self.pipelines: dict[str, Any] = {}
        self.jobs: list[Job] = []
        self.table = stage.table()
        self.begin()

    def begin(self) -> None:
        """Start a triggerer that has no work yet."""
        spawned = multiprocessing.get_context("spawn")
        self.inbox, self.outbox = spawned.Queue(), spawned.Queue()
        self.triggerer = spawned.Process(target=triggerer, args=(self.inbox, self.outbox), daemon=True)
        self.triggerer.start()

    def end(self) -> None:
        """End the triggerer, and everything that it waits for."""
        self.inbox.put(None)
        self.triggerer.join(30)

    def order(self, name: str, seed: int) -> Job:
        """Order a training of a pipeline; pipelines name the pools in different orders."""
        from rempart.flows.training import train
        from rempart.flows.training.pod_job import Ordered
        from rempart.training.attempts.record import Record

        if name not in self.pipelines:
            offset = len(self.pipelines) % len(OURS)
            order = [*list(OURS)[offset:], *list(OURS)[:offset]]
            made = stage.pipeline(name)
            trainer = made.trainer.model_copy(update={"gpu_pools": order, "gpus": 1})
            self.pipelines[name] = made.model_copy(update={"trainer": trainer})
        pipeline = self.pipelines[name]
        params = {"l2_regularization": seed * 1e-6}
        spec = train.order(self.platform, pipeline, self.table, "s1", params=params)
        key = Record(self.platform.active_site("personal"), spec).order()
        return Job(name, Ordered(spec.job_id, spec.output.bucket, key, {}, {}))

    def operator(self, job: Job) -> Any:
        from rempart.orchestration.training.training import operator_for

        pipeline = self.pipelines[job.pipeline]
        order = dataclasses.asdict(job.ordered)
        return operator_for(pipeline)(task_id="run", pipeline=pipeline, order=order, execution_timeout=None)

    def step(self, job: Job) -> bool:
        """Run a job's task until it defers (return False) or ends (return True)."""
        from airflow.sdk.exceptions import TaskDeferred
        from airflow.sdk.execution_time.context import set_current_context

        job.asked = job.asked or time.monotonic()
        job.context["task"] = operator = self.operator(job)
        try:
            with set_current_context(job.context):  # type: ignore[arg-type] # what of it is read here
                getattr(operator, job.method)(job.context, **job.arguments)
            return True
        except TaskDeferred as pause:
            path, arguments = pause.trigger.serialize()
            if arguments.get("await_node") is False and not job.place:
                job.place = time.monotonic()
                self._leave_result(job)
            job.method = pause.method_name
            self.jobs.append(job)
            self.inbox.put((len(self.jobs) - 1, path, arguments))
            return False

    def resumed(self, seconds: float) -> Job | None:
        """Return the next job whose trigger fired."""
        try:
            number, payload = self.outbox.get(timeout=seconds)
        except queue.Empty:
            return None
        job = self.jobs[number]
        job.arguments = {"event": payload}
        return job

    def overtaken(self, job: Job, placed: Iterable[Job]) -> int:
        """Return how many of the `placed` jobs overtook a job: they asked later for the same pool."""

        def pool(placed_job: Job) -> str:
            return str(self.pipelines[placed_job.pipeline].trainer.gpu_pools[0])

        later = [placed_job for placed_job in placed if placed_job.asked > job.asked and pool(placed_job) == pool(job)]
        return len([placed_job for placed_job in later if not job.place or placed_job.place < job.place])

    def memory(self) -> float:
        """Return the resident memory of the triggerer in MB. No trigger may fire meanwhile."""
        self.inbox.put("memory")
        what, found = self.outbox.get(timeout=60)
        assert what == "memory", what
        return float(found)

    def asked(self) -> Counter[str]:
        """Return how many watches, and how many other requests, the pools' accounts sent to the clusters so far."""
        found: Counter[str] = Counter()
        for each in self.clusters.values():
            for request in each.requests:
                # requests of a double's administrator do not count; the proxy of a real cluster sees only ours
                if not request.user or request.user.endswith(f":{each.namespace}:airflow"):
                    found["watches" if "watch=" in request.path else "requests"] += 1
        return found

    def _leave_result(self, job: Job) -> None:
        body = json.dumps(json.loads(result()) | {"job_id": job.ordered.job_id})
        site = self.platform.active_site("personal")
        site.write(job.ordered.bucket, job.ordered.key.replace("order.json", "result.json"), body.encode())


def waiting(many: Many, size: Size) -> dict[str, float]:
    """Measure the requests and the memory of jobs that wait."""
    before, memory = many.asked(), 0.0
    for number in range(size.jobs):
        many.step(many.order(f"waits_{number}", number))
        if number + 1 == size.warm:
            time.sleep(20)
            memory = many.memory()
    time.sleep(20)
    asking = (many.asked() - before)["requests"] / size.jobs
    before = many.asked()
    time.sleep(60 * MINUTES)
    found = many.asked()
    grown = many.memory() - memory
    return {
        "jobs": size.jobs,
        "requests_to_ask_a_pool": round(asking, 1),
        "requests_per_job_and_minute": round((found - before)["requests"] / size.jobs / MINUTES, 2),
        "watches_opened_in_that_time": (found - before)["watches"],
        "triggerer_mb_per_job": round(grown / (size.jobs - size.warm), 3),
        "triggerer_mb": round(many.memory(), 1),
    }


def fairness(many: Many, size: Size) -> dict[str, Any]:
    """Return the number of turns of each pipeline while every pipeline had trainings left."""
    many.inbox.put(SOONER)
    left: dict[str, deque[int]] = {}
    for kind, (pipelines, trainings) in {"greedy": size.greedy, "modest": size.modest}.items():
        for number in range(pipelines):
            left[f"{kind}_{number}"] = deque(range(trainings))
    jobs = [many.order(name, seeds.popleft()) for name, seeds in left.items()]
    ready = deque(jobs)
    everybody, done, placed, began = True, 0, list[Job](), time.monotonic()
    while done < size.trainings and len(placed) != size.turns:
        job = ready.popleft() if ready else many.resumed(120 + size.seconds)
        assert job is not None, f"nothing happens any more: {done} of {size.trainings} are done"
        had = job.place
        over = many.step(job)
        if job.place and not had and everybody:
            placed.append(job)
        if over:
            done += 1
            if seeds := left[job.pipeline]:
                jobs.append(many.order(job.pipeline, seeds.popleft()))
                ready.append(jobs[-1])
            else:
                everybody = False
    turns = Counter(placed_job.pipeline for placed_job in placed)
    share = len(placed) / len(left)
    waited = sorted(placed_job.place - placed_job.asked for placed_job in placed)
    return {
        "seconds_of_a_training": size.seconds,
        "pipelines": len(left),
        "turns_while_all_had_work": len(placed),
        "most_turns_by_share": round(max(turns.values()) / share, 2),
        "fewest_turns_by_share": round(min(turns[name] for name in left) / share, 2),
        "turns": {name: turns[name] for name in left},
        "seconds_waited": [round(seconds) for seconds in (statistics.median(waited), waited[-1])],
        "most_overtaken": max(many.overtaken(placed_job, placed) for placed_job in jobs),
        "seconds": round(time.monotonic() - began),
    }


def overhead(many: Many) -> dict[str, list[float]]:
    """Return the seconds of one job through the operator, and of the same pod through the provider's operator, in
    turns.
    """
    from rempart.orchestration.training.pod_triggers import MINIMUM_SECONDS

    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(ROUNDS + 1):
        job = many.order("alone", number)
        began = time.monotonic()
        leave = lambda _, trigger: None if trigger.await_node else many._leave_result(job)  # noqa: B023, E731
        pods.drive(partial(many.operator, job), pods.context(), leave, MINIMUM_SECONDS)
        found["ours"].append(time.monotonic() - began)
        began = time.monotonic()
        pods.drive(partial(_bare, many, number), pods.context())
        found["bare"].append(time.monotonic() - began)
    return {name: seconds[1:] for name, seconds in found.items()}


def _bare(many: Many, number: int) -> Any:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    body = small_pod(pods.image(), "", "", gpus=1)
    del body["spec"]["nodeName"]
    body["metadata"] = {"labels": {"rempart.eu/classification": "personal"}}
    body["spec"]["containers"][0] |= {"name": "base", "command": ["sleep", "1"]}
    return KubernetesPodOperator(
        task_id="run",
        name=f"bare-{number}",
        namespace=many.clusters["gpu-a"].namespace,
        kubernetes_conn_id="k8s_gpu_a",
        pod_template_dict=body,
        deferrable=True,
        random_name_suffix=False,
        get_logs=True,
        on_finish_action="delete_pod",
    )


@contextmanager
def _set_up(folder: Path, *, real: bool) -> Iterator[Many]:
    from rempart.flows.training import job_credentials
    from rempart.flows.training.job_credentials import Granted

    with ExitStack() as ending:
        ending.enter_context(patch.dict(POOLS, OURS, clear=True))
        if real:
            os.environ[chosen.CHOSEN] = "yes"
            ending.enter_context(chosen.chosen([], paths.current().ports["mlflow"]))
        home = pods.project(folder / "home", {name: {"max_pending": "2h"} for name in OURS}, deadline="1d")
        clusters = ending.enter_context(pods.pools(home, dict.fromkeys(OURS, 0)))
        ending.enter_context(patch.dict(os.environ, pods.connections(clusters) | {"REMPART_HOME": str(home)}))
        platform = stage.platform_in_memory(config.load(home / "rempart.yaml"), config.environment_connections)
        many = Many(platform, home, clusters)
        for changed in (
            patch("rempart.orchestration.runtime.platform", lambda: platform),
            patch("rempart.orchestration.runtime.pipeline", lambda name: many.pipelines[name]),
            patch.object(job_credentials, "grant", lambda *_: Granted({}, "none")),
            patch.object(job_credentials, "release", lambda *_: None),
            patch.object(pod, "COMMAND", ("sleep", "1")),
        ):
            ending.enter_context(changed)
        try:
            yield many
        finally:
            many.end()


def _cleared(many: Many) -> None:
    """Wait until no job waits or runs, and start a triggerer that has no work yet."""
    many.end()
    for each in many.clusters.values():
        each.client().delete_collection_namespaced_pod(each.namespace, grace_period_seconds=0)
        until(lambda: not each.client().list_namespaced_pod(each.namespace).items, 120)  # noqa: B023 - called at once
    many.begin()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pods_many", description=__doc__)
    parser.add_argument("--cluster", action="store_true", help="on the cluster of KUBECONFIG")
    parser.add_argument("--only", choices=("waiting", "turns", "alone"))
    parser.add_argument("--seconds", type=int, help="of each training that takes its turn")
    parser.add_argument("--turns", type=int, help="how many count")
    asked = parser.parse_args(arguments)
    size = ON_A_CLUSTER if asked.cluster else ON_DOUBLES
    size = dataclasses.replace(size, seconds=asked.seconds or size.seconds, turns=asked.turns or size.turns)
    parts = (asked.only,) if asked.only else ("waiting", "turns", "alone")
    telemetry.adopt_environment()
    assert OPERATORS.keys() >= {operator for operator, _ in OURS.values()}
    rows, figures = list[Row](), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder, _set_up(Path(folder), real=asked.cluster) as many:
        with patch("rempart.orchestration.training.training_pod.PAUSES", ()):
            if "waiting" in parts:
                figures["waiting"] = waiting(many, size)
                print(figures["waiting"], flush=True)
                _cleared(many)
            for each in many.clusters.values():
                each.offer(size.gpus)
            if "turns" in parts:
                with patch.object(pod, "COMMAND", ("sleep", str(size.seconds))):
                    figures["fairness"] = fairness(many, size)
                print(figures["fairness"], flush=True)
                _cleared(many)
        if "alone" in parts:
            figures["seconds"] = alone = overhead(many)
            part = {name: statistics.quantiles(seconds, n=20) for name, seconds in alone.items()}
            rows = [
                Row(
                    f"one job, p{(at + 1) * 5} of {ROUNDS}",
                    "s",
                    part["ours"][at],
                    part["bare"][at],
                    "bare KPO",
                    "lower",
                )
                for at in (9, 18)
            ]
    name = "pods_many_cluster" if asked.cluster else "pods_many"
    write(name, rows, **figures, gpus=size.gpus * len(OURS), gpu=GPU)


if __name__ == "__main__":
    main()
