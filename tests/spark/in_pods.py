"""Program for .venv: ingest bookings with Spark in pods, of which one executor is killed half way; print what was left.

Pods run on a double of Kubernetes, whose image is `.venv-spark`, or on the cluster of `make test-k8s`. The platform's
side is that of a task: it makes the driver and its Secret, judges nodes, and lets executors pass their gate.

python -m tests.spark.in_pods FOLDER
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from rempart.flows.distributed import orders
from rempart.flows.distributed.job import RESULT
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.orchestration import runtime
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connection, Connections
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import named
from rempart.sites.port import Site
from rempart.sites.s3.site import S3Site
from rempart.spark.kubernetes import labels, pods
from rempart.spark.order import SparkOrder, SparkResult
from tests import clusters
from tests import pods as declared_pools
from tests.clusters import GPU, POOLS, REGION, Cluster, DoubleCluster
from tests.integration.own_servers import ROOT, own_servers
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import no_connection

FILES, ROWS = 4, 12_000
POOL, NAMESPACE = "gpu-a", "training-gpu-a"
OUTSIDE = "oregon-1"
"""A node of the double where the law does not hold."""
RIGHTS = [
    {
        "apiGroups": [""],
        "resources": ["pods"],
        "verbs": ["create", "get", "list", "watch", "delete", "deletecollection"],
    }
]
"""Of a driver's account, in its namespace."""


def image() -> str:
    """The image of drivers and executors."""
    return os.environ["REMPART_TEST_K8S_SPARK_IMAGE"] if clusters.real() else declared_pools.IMAGE


def project(home: Path, spark_image: str = "", endpoints: Sequence[str] = ()) -> Config:
    """The configuration of a platform whose Spark jobs run in the pool, with this image or that of the run.

    `endpoints`: more addresses of the site, as pods reach it.
    """
    file = declared_pools.project(home) / "rempart.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["sites"]["primary"]["job_credentials"] = {"kind": "platform"}
    data["spark"] = {"backend": "kubernetes", "image": spark_image or image(), "gpu_pools": [POOL], "disk": 2}
    storage = data["operators"]["trial-one"]["services"]["object-storage"]
    storage["endpoints"] = [*storage["endpoints"], *endpoints]
    data["gpu_pools"][POOL] |= {"max_pending": clusters.scaled(900), "price_per_executor_hour": 0.36}
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return configuration.load(file)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The cluster of a pool: a double with two nodes and one outside of the law, or the chosen one."""
    if real := clusters.real():
        with real.fresh({}) as found:
            yield found[POOL]
        return
    with DoubleCluster(POOL, NAMESPACE) as double:
        furnish(double)
        double.add_image(
            declared_pools.IMAGE,
            digest=declared_pools.IMAGE.partition("@")[2],
            env={
                "PATH": os.pathsep.join([str(ROOT / ".venv-spark" / "bin"), "/usr/bin", "/bin"]),
                "PYTHONPATH": f"{ROOT / 'include'}",
                "REMPART_HOME": str(ROOT),
                "KUBERNETES_MASTER": double.url,
                "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",
            },
        )
        yield double


def furnish(double: DoubleCluster) -> None:
    """Give a double two nodes, and one outside of the law."""
    operator, region = POOLS[POOL]
    for name, place in ((f"{POOL}-a", region), (f"{POOL}-b", region), (OUTSIDE, "east")):
        taints = [{"key": GPU, "effect": "NoSchedule"}]
        double.add_node(name, {REGION: place}, taints=taints, provider_id=f"{operator}://{place}/{name}")


def grant(api: Any, namespace: str) -> None:
    """Make the account of drivers, and give it its rights."""
    rbac, name = client.RbacAuthorizationV1Api(api.api_client), {"name": pods.ACCOUNT}
    with suppress(client.ApiException):  # as the manifests of a pool have made it
        api.create_namespaced_service_account(namespace, {"metadata": name})
        rbac.create_namespaced_role(namespace, {"metadata": name, "rules": RIGHTS})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", **name}
        subject = {"kind": "ServiceAccount", "namespace": namespace, **name}
        rbac.create_namespaced_role_binding(namespace, {"metadata": name, "roleRef": role, "subjects": [subject]})


@dataclass
class Watcher:
    """Looks at the pods of a job. If it `kills`, then an executor when the deliveries are judged."""

    cluster: Cluster
    kills: bool = True
    pods: dict[str, Any] = field(default_factory=dict)
    killed: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        api = self.cluster.client()
        while not self.over.wait(0.2):
            for pod in api.list_namespaced_pod(self.cluster.namespace, label_selector=labels.ROLE).items:
                self.pods[pod.metadata.name] = pod
            running = [name for name, pod in self.pods.items() if "-exec-" in name and pod.status.phase == "Running"]
            if self.kills and running and not self.killed and '"judged"' in self._log(api):
                self.killed = running[0]
                with suppress(client.ApiException):  # it has just ended
                    api.delete_namespaced_pod(self.killed, self.cluster.namespace, grace_period_seconds=0)

    def seen(self) -> dict[str, Any]:
        """The pods, as API objects, by name."""
        return {name: client.ApiClient().sanitize_for_serialization(pod) for name, pod in self.pods.items()}

    def _log(self, api: Any) -> str:
        for name in (name for name in self.pods if "-exec-" not in name):
            try:
                answer = api.read_namespaced_pod_log(name, self.cluster.namespace, _preload_content=False)
                return str(answer.data.decode())
            except client.ApiException:  # it has not begun
                return ""
        return ""


@contextmanager
def watched(made: Cluster, *, kills: bool = True) -> Iterator[Watcher]:
    """Watch a cluster while a job runs."""
    watcher = Watcher(made, kills)
    thread = threading.Thread(target=watcher.watch, daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.over.set()
        thread.join()


def taken_in(platform: Platform, site: Site, pipeline: ModelPipeline) -> dict[str, Any]:
    """Deliver bookings, ingest them, and return what the run says."""
    header, *lines = gzip.decompress((ROOT / "data" / "hotel_bookings.csv.gz").read_bytes()).splitlines(keepends=True)
    for i in range(FILES):
        rows = lines[:ROWS][i :: FILES - 1]  # the last file repeats rows of the first one
        site.write("landing", f"{pipeline.source.prefix}{i}.csv", header + b"".join(rows))

    def run_job(order: SparkOrder) -> SparkResult:
        resources = order.resources.model_copy(update={"executors": 2, "memory": 512, "driver_memory": 512})
        return orders.run(platform, pipeline, order.model_copy(update={"resources": resources}))

    result = ingest(platform, pipeline, run_job=run_job)
    found = {name: value for name, value in vars(result).items() if name != "seconds"}
    return json.loads(json.dumps(found, default=str))


def reachable(connections: Connections, host: str = "127.0.0.1") -> Connections:
    """The connections as pods reach them: at `host`, and those of a real cluster at this machine's address."""
    if real := clusters.real():
        host = real.settings.host

    def found(name: str) -> Connection:
        held = connections(name)
        endpoint = str(held.extra["endpoint_url"]).replace("//127.0.0.1:", f"//{host}:")
        return replace(held, extra={**held.extra, "endpoint_url": endpoint})

    return found


def in_pods(made: Cluster) -> Any:
    """The backend of a task's Spark jobs, with the API of this cluster."""

    def backend(platform: Platform, site: Site, pipeline: Pipeline) -> Any:
        return replace(runtime.spark_pods(platform, site, pipeline), clients=lambda _: made.client(), every=0.5)

    return backend


def main(folder: Path) -> None:
    told_lines: list[str] = []
    keep = logging.Handler()
    keep.emit = lambda record: told_lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("rempart")
    logger.setLevel(logging.INFO)
    logger.addHandler(keep)
    pipeline, memory = named("hotel_bookings"), MemorySite("primary")
    assert isinstance(pipeline, ModelPipeline)
    pipeline = pipeline.model_copy(update={"max_quarantined": 1.0})
    for bucket in ("landing", "lake"):
        memory.ensure_bucket(bucket, versioned=True)
    now, settings = datetime.now(UTC), configuration.load(ROOT / "rempart.yaml")
    here: Any = Platform(
        settings, no_connection, lambda: now, {settings.active_site: memory}, MemoryLedger(), MemoryContinuity()
    )
    on_duckdb = taken_in(here, memory, pipeline)  # type: ignore[arg-type]  # a site in memory is one
    with own_servers(folder / "var", ("site-primary",)) as servers:
        port = int(str(servers.connections("s3_primary").extra["endpoint_url"]).rpartition(":")[2])
        with clusters.chosen([port], port), cluster() as made, watched(made) as watcher:
            grant(made.client(), made.namespace)
            site, ledger = made_site(servers), MemoryLedger()
            there = Platform(
                project(folder / "project"),
                reachable(servers.connections),
                lambda: now,
                {"primary": site},
                ledger,
                MemoryContinuity(),
                spark_pods=in_pods(made),
            )
            on_spark = taken_in(there, site, pipeline.model_copy(update={"engine": "spark"}))
            versions = [info.key for info in site.versions("lake", "") if not info.key.endswith(RESULT)]
            requests = [
                f"{request.method} {request.path.partition('?')[0]} {request.status}"
                for request in made.requests
                if request.user.endswith(f":{pods.ACCOUNT}")
            ]
            bound = {record.name: record.node for record in made.history}
            (job,) = (record.body for record in ledger.find("spark-job"))
    shown = json.dumps(watcher.seen())
    told = {
        "duckdb": on_duckdb,
        "spark": on_spark,
        "pods": bound,
        "killed": watcher.killed,
        "where": job["where"],
        "shown": str(servers.connections("s3_primary").password) in shown + "".join(told_lines),
        "twice": sorted({key for key in versions if "/parts/" in key and versions.count(key) > 1}),
        "requests": sorted(set(requests)),
        "log": told_lines,
    }
    sys.stdout.write(json.dumps(told) + "\n")


def made_site(servers: Any) -> S3Site:
    """The site of these servers."""
    from rempart.deployment.servers import object_sites

    connection = servers.connections("s3_primary")
    allowed = object_sites.permission(servers.stack, "primary", connection.extra["endpoint_url"])
    return S3Site("primary", connection, "local-1", allowed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
