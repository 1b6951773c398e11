"""Program for .venv: ingest bookings with Spark in pods, of which one executor is killed half way; print what was left.

Pods run on a double of Kubernetes, whose image is `.venv-spark`, or on the cluster of `make test-k8s`. This program is
the platform's side, as small as it can be: it makes the driver and its Secret, and lets executors pass their gate.

python -m tests.spark.in_pods FOLDER
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client

from rempart.flows.distributed import orders
from rempart.flows.distributed.job import RESULT, stored_result
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import named
from rempart.settings.sections import Pool
from rempart.sites.port import Site
from rempart.sites.s3.site import S3Site
from rempart.spark import credentials
from rempart.spark.kubernetes import labels, pods
from rempart.spark.order import OrderedAt, SparkOrder, SparkResult
from tests import clusters
from tests.clusters import GPU, POOLS, REGION, Cluster, DoubleCluster, patience, until
from tests.integration.own_servers import ROOT, own_servers
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import no_connection

FILES, ROWS = 4, 12_000
POOL, NAMESPACE = "gpu-a", "training-gpu-a"
IMAGE = f"registry.trial/rempart/spark@sha256:{'cd' * 32}"
RIGHTS = [
    {
        "apiGroups": [""],
        "resources": ["pods"],
        "verbs": ["create", "get", "list", "watch", "delete", "deletecollection"],
    }
]
"""Of a driver's account, in its namespace."""
SECONDS = 900.0
"""After which a job counts as hanging."""


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The cluster of a pool: a double with two nodes, or the chosen one."""
    if real := clusters.real():
        with real.fresh({}) as found:
            yield found[POOL]
        return
    with DoubleCluster(POOL, NAMESPACE) as double:
        for node in ("a", "b"):
            double.add_node(f"{POOL}-{node}", {REGION: POOLS[POOL][1]}, taints=[{"key": GPU, "effect": "NoSchedule"}])
        double.add_image(
            IMAGE,
            digest=IMAGE.partition("@")[2],
            env={
                "PATH": os.pathsep.join([str(ROOT / ".venv-spark" / "bin"), "/usr/bin", "/bin"]),
                "PYTHONPATH": f"{ROOT / 'include'}",
                "REMPART_HOME": str(ROOT),
                "KUBERNETES_MASTER": double.url,
                "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",
            },
        )
        yield double


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
class InPods:
    """Runs a job in pods, and kills an executor when the deliveries are judged."""

    cluster: Cluster
    site: Site
    connection: Connection
    seen: dict[str, Any] = field(default_factory=dict)
    executors: dict[str, str] = field(default_factory=dict)
    """Each executor that passed its gate, with the node on which it was bound."""

    def run(self, order: SparkOrder) -> SparkResult:
        real = clusters.real()
        assert order.permission is not None
        permission, connection, image = order.permission, self.connection, IMAGE
        if real:
            image = os.environ["REMPART_TEST_K8S_SPARK_IMAGE"]
            endpoint = str(connection.extra["endpoint_url"]).replace("//127.0.0.1:", f"//{real.settings.host}:")
            connection = replace(connection, extra={**connection.extra, "endpoint_url": endpoint})
            hosts = {name: (*some, real.settings.host) for name, some in permission.hosts.items()}
            permission = permission.model_copy(update={"hosts": hosts})
        body, key = order.to_json(), order.key("order.json")
        self.site.write(order.output.bucket, key, body)
        at = OrderedAt(
            site=order.site,
            classification=order.classification,
            bucket=order.output.bucket,
            key=key,
            sha256=hashlib.sha256(body).hexdigest(),
            permission=permission,
        )
        operator, region = POOLS[POOL]
        pool = Pool(
            operator=operator,
            region=region,
            kubernetes_connection="k8s",
            namespace=self.cluster.namespace,
            tolerations=[{"key": GPU}],
        )
        api, name = self.cluster.client(), labels.name(order.order_id, 1)
        template = pods.executor_template(order, 1, pool, image, seconds=600)
        made = restricted(pods.driver(order, 1, pool, image, at, template, seconds=600))
        driver = api.create_namespaced_pod(pool.namespace, made)
        until(lambda: api.read_namespaced_pod(name, pool.namespace).spec.node_name, 30 * patience())
        assert not self._log(api, name)
        proven = secrets.token_hex(32)
        held = credentials.text(proven, {order.site.connection: connection})
        owner = api.api_client.sanitize_for_serialization(driver)
        api.create_namespaced_secret(pool.namespace, pods.secret(owner, proven, held))
        found = self._follow(api, order, name)
        told = json.dumps([api.api_client.sanitize_for_serialization(pod) for pod in self.seen["pods"].values()])
        self.seen["shown"] = [what for what in (proven, connection.password) if str(what) in told]
        self.seen["phase"] = found.status.phase
        self.seen["log"] = self._log(api, name)
        api.delete_namespaced_pod(name, pool.namespace)
        until(lambda: not api.list_namespaced_pod(pool.namespace).items, 60 * patience())
        result = stored_result(self.site, order)
        assert result is not None, f"{found.status.container_statuses}\n{self.seen['log']}"
        return result

    def _follow(self, api: Any, order: SparkOrder, name: str) -> Any:
        """Let executors pass until the driver has ended; kill one of them once. Return the driver's last state."""
        namespace = self.cluster.namespace
        selector = labels.selector(order.order_id, 1, labels.EXECUTOR)
        everything, gated, deadline = self.seen.setdefault("pods", {}), 0, time.monotonic() + SECONDS * patience()
        while True:
            found = api.read_namespaced_pod(name, namespace)
            everything[name] = found
            if found.status.phase in ("Succeeded", "Failed"):
                self.seen["gated"] = gated
                return found
            assert time.monotonic() < deadline, self._log(api, name)
            for pod in api.list_namespaced_pod(namespace, label_selector=selector).items:
                everything[pod.metadata.name] = pod
                if pod.spec.scheduling_gates:
                    assert not pod.spec.node_name
                    gated += 1
                    self._pass(api, pod.metadata.name)
                elif pod.spec.node_name:
                    self.executors[pod.metadata.name] = pod.spec.node_name
            running = [each.metadata.name for each in everything.values() if each.status.phase == "Running"]
            victims = [each for each in running if each in self.executors]
            if "killed" not in self.seen and victims and '"judged"' in self._log(api, name):
                self.seen["killed"] = victims[0]
                api.delete_namespaced_pod(victims[0], namespace, grace_period_seconds=0)
            time.sleep(0.2)

    def _pass(self, api: Any, name: str) -> None:
        """Pin an executor to the pool's nodes, and let it pass its gate."""
        namespace, nodes = self.cluster.namespace, [node.metadata.name for node in api.list_node().items]
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": nodes[:1]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        api.patch_namespaced_pod(name, namespace, {"spec": {"affinity": {"nodeAffinity": required}}})
        gate = {"op": "test", "path": "/spec/schedulingGates/0/name", "value": labels.GATE}
        api.patch_namespaced_pod(name, namespace, [gate, {"op": "remove", "path": "/spec/schedulingGates/0"}])

    def _log(self, api: Any, name: str) -> str:
        try:
            answer = api.read_namespaced_pod_log(name, self.cluster.namespace, _preload_content=False)
            return str(answer.data.decode())
        except client.ApiException:  # it has not begun
            return ""


def restricted(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as the policy lets it be made."""
    spec = pod["spec"]
    spec["securityContext"] |= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in spec["containers"]:
        own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container["securityContext"] |= own
    return pod


def taken_in(site: Site, pipeline: ModelPipeline, backend: InPods | None, connections: Any) -> dict[str, Any]:
    """Deliver bookings, ingest them, and return what the run says."""
    header, *lines = gzip.decompress((ROOT / "data" / "hotel_bookings.csv.gz").read_bytes()).splitlines(keepends=True)
    for i in range(FILES):
        rows = lines[:ROWS][i :: FILES - 1]  # the last file repeats rows of the first one
        site.write("landing", f"{pipeline.source.prefix}{i}.csv", header + b"".join(rows))
    config = configuration.load(ROOT / "rempart.yaml")
    now, sites = datetime.now(UTC), {config.active_site: site}
    platform = Platform(config, connections, lambda: now, sites, MemoryLedger(), MemoryContinuity())
    declared = pipeline.model_copy(update={"engine": "spark" if backend else "duckdb", "max_quarantined": 1.0})

    def run_job(order: SparkOrder) -> SparkResult:
        resources = order.resources.model_copy(update={"executors": 2, "memory": 512, "driver_memory": 512})
        return orders.run(platform, declared, order.model_copy(update={"resources": resources}), backend)

    result = ingest(platform, declared, run_job=run_job)
    found = {name: value for name, value in vars(result).items() if name != "seconds"}
    return json.loads(json.dumps(found, default=str))


def main(folder: Path) -> None:
    logging.getLogger("rempart").setLevel(logging.WARNING)
    pipeline, memory = named("hotel_bookings"), MemorySite("primary")
    assert isinstance(pipeline, ModelPipeline)
    for bucket in ("landing", "lake"):
        memory.ensure_bucket(bucket, versioned=True)
    here = taken_in(memory, pipeline, None, no_connection)  # type: ignore[arg-type]  # a site in memory is one
    with own_servers(folder / "var", ("site-primary",)) as servers:
        connection = servers.connections("s3_primary")
        port = int(str(connection.extra["endpoint_url"]).rpartition(":")[2])
        with clusters.chosen([port], port), cluster() as made:
            grant(made.client(), made.namespace)
            site: Site = made_site(servers)
            backend = InPods(made, site, connection)
            there = taken_in(site, pipeline, backend, servers.connections)
            versions = [info.key for info in site.versions("lake", "") if not info.key.endswith(RESULT)]
            requests = [
                f"{request.method} {request.path.partition('?')[0]} {request.status}"
                for request in made.requests
                if request.user.endswith(f":{pods.ACCOUNT}")
            ]
    seen = backend.seen
    told = {
        "duckdb": here,
        "spark": there,
        "executors": backend.executors,
        "killed": seen.get("killed"),
        "gated": seen["gated"],
        "phase": seen["phase"],
        "shown": seen["shown"],
        "twice": sorted({key for key in versions if "/parts/" in key and versions.count(key) > 1}),
        "requests": sorted(set(requests)),
        "stages": [json.loads(line)["stage"] for line in seen["log"].splitlines() if line.startswith("{")],
        "log": seen["log"],
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
