"""Parts that tests of jobs in pods share: a project that declares their pools, and a full run of the operator.

The operator, its triggers, the policy, the site, MLflow and the job's process are real. The clusters are doubles
(tests/kubernetes_double) or, under `make test-k8s`, real (tests/clusters.py). `drive` replaces Airflow's scheduler and
triggerer: it resumes a deferred task as they do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from rempart.flows.shared.platform import Platform
from rempart.flows.training import job_credentials, pod_job, train
from rempart.ledger.memory import MemoryLedger
from rempart.models.tracking import session
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Buckets
from rempart.training.job import JobSpec, Param
from rempart.training.kubernetes import pod
from tests import clusters as chosen
from tests.clusters import GPU, GPU_TYPE, OPERATORS, POOLS, PRODUCT, REGION, Cluster, DoubleCluster, scaled
from tests.unit.training import stage
from tests.unit.training.test_job import result

ROOT = Path(__file__).resolve().parents[1]
COMMAND = pod.COMMAND
IMAGE = f"registry.trial/rempart/trainer@sha256:{'ab' * 32}"
"""The doubles' image."""
NOWHERE = "registry.invalid"
"""A declared registry from which nothing can be pulled: the name is reserved (RFC 2606)."""


def image() -> str:
    """The image of this run's jobs."""
    real = chosen.real()
    return real.settings.image if real else IMAGE


def project(home: Path, declared: Mapping[str, Mapping[str, Any]] | None = None, /, **training: Any) -> Path:
    """A project folder like this one, whose jobs run in pods; `declared` adds to what is declared of each pool."""
    data = yaml.safe_load((ROOT / "rempart.yaml").read_text(encoding="utf-8"))
    kinds = ("managed-kubernetes", "container-registry")
    for name, (seat, owner, regions) in OPERATORS.items():
        data["operators"][name] = {
            "as_of": "2026-11-24",
            "jurisdiction": seat,
            "owner_jurisdiction": owner,
            "regions": {region: {"country": country} for region, country in regions.items()},
            "services": {kind: {"runs_on": name} for kind in kinds},
        }
    registry = {"operator": "cloud-a", "region": "par"}
    data["registries"] = {image().partition("/")[0]: registry, NOWHERE: registry}
    if real := chosen.real():  # pods reach the site at this machine's address
        data["operators"]["trial-one"]["services"]["object-storage"]["endpoints"] = [
            "http://127.0.0.1",
            f"http://{real.settings.host}",
        ]
    data["gpu_pools"] = {
        name: {
            "operator": operator,
            "region": region,
            "kubernetes_connection": f"k8s_{name.replace('-', '_')}",
            "namespace": f"training-{name}",
            "tolerations": [{"key": GPU}],
            "max_pending": scaled(60),
            "price_per_gpu_hour": 3.6,
            **(declared or {}).get(name, {}),
        }
        for name, (operator, region) in POOLS.items()
    }
    data["training"] = {
        "backend": "kubernetes",
        "image": image(),
        "gpu_pools": list(POOLS),
        "pause": "2s",
        "log_every": "5s",
        "resources": {"cpu": "500m", "memory": "1Gi"},
        **training,
    }
    home.mkdir(parents=True, exist_ok=True)
    for name in ("include", "dags", "plugins", "data", "docs", "pyproject.toml"):
        if not (home / name).exists():
            (home / name).symlink_to(ROOT / name)
    (home / "rempart.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return home


def image_environment(home: Path) -> dict[str, str]:
    """The variables of a trainer's image, whose folder has the project's code and, as it is built, no rempart.yaml."""
    folder = home / "image"
    folder.mkdir(exist_ok=True)
    if not (folder / "include").exists():
        (folder / "include").symlink_to(ROOT / "include")
    return {"REMPART_HOME": str(folder)}


@contextmanager
def clusters(home: Path, gpus: Mapping[str, int] | None = None) -> Iterator[dict[str, DoubleCluster]]:
    """A double of each pool's cluster, with one node that has this many GPUs (2 unless told)."""
    made: dict[str, DoubleCluster] = {}
    declared = config.load(home / "rempart.yaml").gpu_pools
    with ExitStack() as ending:
        for name, (operator, region) in POOLS.items():
            double = made[name] = ending.enter_context(DoubleCluster(name, declared[name].namespace))
            amount = (gpus or {}).get(name, 2)
            double.add_node(
                double.node,
                {REGION: region, PRODUCT: GPU_TYPE},
                {GPU: str(amount)} if amount else {},
                taints=[{"key": GPU, "effect": "NoSchedule"}],
                provider_id=f"{operator}://{region}/{double.node}",
            )
            double.add_image(IMAGE, digest=IMAGE.partition("@")[2], env=image_environment(home))
        yield made


@contextmanager
def pools(home: Path, gpus: Mapping[str, int] | None = None) -> Iterator[Mapping[str, Cluster]]:
    """The pools' clusters as `clusters` makes them, or the same on the real cluster of this run."""
    if real := chosen.real():
        with real.fresh(gpus or {}) as found:
            yield found
    else:
        with clusters(home, gpus) as made:
            yield made


def connections(made: Mapping[str, Any]) -> dict[str, str]:
    """The pools' Airflow connections, as environment variables."""
    return {
        f"AIRFLOW_CONN_K8S_{name.replace('-', '_').upper()}": json.dumps(
            {"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(cluster.kubeconfig())}}
        )
        for name, cluster in made.items()
    }


@contextmanager
def connected(monkeypatch: pytest.MonkeyPatch, made: Mapping[str, Any]) -> Iterator[None]:
    """Airflow's connections to the clusters, in the environment."""
    with monkeypatch.context() as patched:
        for name, value in connections(made).items():
            patched.setenv(name, value)
        yield


def log_of(trial: Trial, pool: str) -> str:
    """What the newest pod of a pool has printed so far."""
    from kubernetes.client import ApiException

    cluster = trial.clusters[pool]
    if not (made := cluster.history):
        return ""
    try:
        found = cluster.client().read_namespaced_pod_log(made[-1].name, cluster.namespace, _preload_content=False)
        return str(found.data.decode())
    except ApiException:
        return ""


def progress(cluster: Any, trial: Trial) -> int | None:
    """The newest step that the job in a cluster told of."""
    pool = next(name for name, candidate in trial.clusters.items() if candidate is cluster)
    steps = [json.loads(line)["step"] for line in log_of(trial, pool).splitlines() if '"stage": "progress"' in line]
    return steps[-1] if steps else None


@dataclasses.dataclass
class Trial:
    """A pipeline, its platform and its clusters."""

    platform: Platform
    pipeline: ModelPipeline
    clusters: Mapping[str, Any]
    home: Path
    command: tuple[str, ...] = ()
    """What pods run instead of the job's command."""

    def order(self, params: Mapping[str, Param] | None = None) -> pod_job.Ordered:
        """Order a training on the small data set."""
        with self.here():
            return pod_job.place(self.platform, self.pipeline, self.spec(params))

    def spec(self, params: Mapping[str, Param] | None = None) -> JobSpec:
        return train.order(self.platform, self.pipeline, stage.table(), "s1", params=params or {})

    def job(self, ordered: pod_job.Ordered) -> pod_job.PodJob:
        return pod_job.ordered_job(self.platform, self.pipeline, ordered.bucket, ordered.key)

    def finish(self, ordered: pod_job.Ordered) -> train.TrainResult:
        return pod_job.finish(self.platform, self.pipeline, ordered.bucket, ordered.key)

    def attempts(self, ordered: pod_job.Ordered) -> list[tuple[str, str | None]]:
        """Pool and outcome of each attempt."""
        return [(attempt.pool, attempt.outcome) for attempt in self.job(ordered).attempts()]

    def evidence(self, ordered: pod_job.Ordered) -> list[tuple[str, str, str]]:
        """Pool, node and outcome of each attempt that had a node, as the ledger says."""
        found = [record.body for record in reversed(self.platform.ledger.find("placement"))]
        mine = [record for record in found if record["job_id"] == ordered.job_id]
        return [(attempt["ran"]["pool"], attempt["ran"]["node"], attempt["outcome"]) for attempt in mine]

    def pods(self, pool: str) -> list[Any]:
        """Every pod that was ever made in a pool."""
        return self.clusters[pool].history

    def stub(self, code: str) -> None:
        """From now on pods run this code instead of the job."""
        self.command = ("python", "-c", code)

    def instead(self, ordered: pod_job.Ordered, pool: str = "") -> Callable[[int, Any], None]:
        """Pods end at once; what is returned leaves a result once an attempt is under way (in that pool), for `run`."""
        self.stub("pass")

        def leave(number: int, trigger: Any) -> None:
            attempts = self.attempts(ordered)
            if attempts and attempts[-1] == (pool or attempts[-1][0], None):
                body = json.dumps(json.loads(result()) | {"job_id": ordered.job_id})
                key = ordered.key.replace("order.json", "result.json")
                self.platform.active_site("personal").write(ordered.bucket, key, body.encode())

        return leave

    @contextmanager
    def here(self) -> Iterator[None]:
        real = chosen.real()
        with (
            patch("rempart.orchestration.runtime.platform", lambda: self.platform),
            patch("rempart.orchestration.runtime.model_pipeline", lambda name: self.pipeline),
            patch.object(pod, "COMMAND", self.command or COMMAND),
            patch.object(job_credentials, "grant", self._granted(job_credentials.grant)) if real else nullcontext(),
        ):
            yield

    def _granted(self, grant: Callable[..., Any]) -> Callable[..., Any]:
        """What jobs on a real cluster get: the site and MLflow at an address that pods reach."""
        if grant.__name__ == "_elsewhere":  # a run beside a run
            return grant

        def _elsewhere(*given: Any, **named: Any) -> Any:
            granted, real = grant(*given, **named), chosen.real()
            assert real
            return dataclasses.replace(granted, variables=real.variables(granted.variables))

        return _elsewhere

    def run(
        self,
        ordered: pod_job.Ordered,
        *,
        deferred: Callable[[int, Any], None] | None = None,
        minimum: float = 1.0,
    ) -> Any:
        """Run the operator to its end as Airflow does; `deferred` is told of each deferral, before its trigger runs.

        The least that a deferral lasts guards against a fault of Airflow's scheduler, which is not here.
        """
        with self.here():
            return drive(lambda: self.operator(ordered), context(), deferred, minimum)

    def operator(self, ordered: pod_job.Ordered) -> Any:
        from rempart.orchestration.training.training import operator_for

        sooner = {"poll": 0.5} if self.pipeline.trainer.nodes > 1 else {}
        return operator_for(self.pipeline)(
            task_id="run", pipeline=self.pipeline, order=dataclasses.asdict(ordered), execution_timeout=None, **sooner
        )


@contextmanager
def trial(platform: Platform, home: Path, made: Mapping[str, Any], name: str = "") -> Iterator[Trial]:
    """A pipeline with buckets, ledger and MLflow names of its own on the running stack's servers."""
    mark = name or f"pods-{secrets.token_hex(4)}"
    buckets = Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts")
    settings = config.load(home / "rempart.yaml").model_copy(update={"buckets": buckets})
    own = dataclasses.replace(platform, config=settings, ledger_=MemoryLedger(), sites={})
    site = own.active_site("personal")
    for bucket in (buckets.lake, buckets.artifacts):
        site.ensure_bucket(bucket, versioned=True)
    pipeline = stage.pipeline(mark.replace("-", "_"))
    try:
        yield Trial(own, pipeline, made, home)
    finally:
        for bucket in (buckets.lake, buckets.artifacts):
            site.drop_bucket(bucket)
        with session(platform.tracking()) as client:
            if client.search_registered_models(filter_string=f"name = '{pipeline.name}'"):
                client.delete_registered_model(pipeline.name)
            if experiment := client.get_experiment_by_name(pipeline.name):
                client.delete_experiment(experiment.experiment_id)


class TaskState:
    """What a task keeps from one try to the next, by key: Airflow's task state store in a task's context."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self._values[key]) if key in self._values else default

    def set(self, key: str, value: Any, **_: Any) -> None:
        self._values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self._values.pop(key, None)


def context() -> dict[str, Any]:
    """What the operator reads of a running task."""
    told: dict[str, Any] = {}
    instance = SimpleNamespace(
        dag_id="train_trial",
        run_id=f"run-{secrets.token_hex(3)}",
        task_id="run",
        map_index=-1,
        try_number=1,
        start_date=datetime.now(UTC),
        xcom_push=lambda key, value: told.update({key: value}),
    )
    return {
        "ti": instance,
        "task_instance": instance,
        "run_id": instance.run_id,
        "params": {},
        "task_state_store": TaskState(),
        "dag": SimpleNamespace(dag_id="train_trial", tags=set(), parent_dag=None, is_subdag=False),
    }


def drive(
    make: Callable[[], Any],
    running: dict[str, Any],
    deferred: Callable[[int, Any], None] | None = None,
    minimum: float = 1.0,
) -> Any:
    """Execute; for each deferral run its trigger in an event loop and resume a fresh operator, as Airflow does."""
    from airflow.sdk.exceptions import TaskDeferred
    from airflow.sdk.execution_time.context import set_current_context
    from airflow.sdk.module_loading import import_string

    def resumed() -> Any:
        running["task"] = make()  # whose connection the policy of pods asks for
        return running["task"]

    method, arguments = resumed().execute, {}
    with patch("rempart.orchestration.training.pod_triggers.MINIMUM_SECONDS", minimum):
        for number in range(1, 500):
            try:
                with set_current_context(running):  # type: ignore[arg-type] # what of it is read here
                    return method(running, **arguments)
            except TaskDeferred as pause:
                path, kwargs = pause.trigger.serialize()
                if deferred:
                    deferred(number, pause.trigger)
                event = asyncio.run(_first(import_string(path)(**kwargs)))
                method, arguments = getattr(resumed(), pause.method_name), {"event": event.payload}
    raise AssertionError("500 deferrals, and no end")


async def _first(trigger: Any) -> Any:
    async for event in trigger.run():
        return event
    raise AssertionError("a trigger ended without an event")
