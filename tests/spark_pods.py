"""A pool with a driver that stands in for Spark's: what the platform does with pods needs no JVM to be tested.

The stand-in does by Kubernetes' API what Spark does: with its account's token it makes gated executors from the
template that the platform gave it, waits until those that the cluster takes run, stores a result, and ends. Files of a
folder tell it when.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rempart.errors import ObjectMissing
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Connection, load
from rempart.sites.port import Site
from rempart.spark.kubernetes import pods as shape
from rempart.spark.order import OutputPlace, SparkOrder, SparkResult
from tests import pods
from tests.clusters import REGION, DoubleCluster, until
from tests.memory_site import MemorySite
from tests.unit.spark.orders import order
from tests.unit.training import stage

NAMESPACE, POOL = "training-gpu-a", "gpu-a"
KEY = "SECRET-key-5d1c"
"""Password of the site's connection: it may appear in no record, log or pod."""
HEEDS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
"""The first process of a container takes no SIGTERM that it does not handle."""
EXECUTOR = ("python", "-c", f"{HEEDS}; import time; time.sleep(120)")
DRIVER = (
    f"{HEEDS}\n"
    """
import json, os, pathlib, sys, time, urllib.error, urllib.request
folder = pathlib.Path(os.environ["FOLDER"])
token = pathlib.Path(os.environ["KUBERNETES_AUTH_SERVICEACCOUNT_TOKEN"]).read_text()
held = json.loads(pathlib.Path(os.environ["REMPART_SPARK_CREDENTIALS"]).read_text())
ordered = json.loads(os.environ["REMPART_SPARK_ORDER"])
template = json.loads(os.environ["REMPART_SPARK_EXECUTOR_TEMPLATE"])
me = os.environ["REMPART_SPARK_POD"]
base = f"{os.environ['API']}/api/v1/namespaces/{os.environ['REMPART_SPARK_NAMESPACE']}/pods"

def ask(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    heads = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, heads, method=method)
    return json.load(urllib.request.urlopen(request))

def runs(name):
    try:
        return ask("GET", f"{base}/{name}")["status"].get("phase") == "Running"
    except urllib.error.HTTPError as refused:
        if refused.code != 404:
            raise
        return False

def tell(stage, **facts):
    print(json.dumps({"at": "2026-11-30T12:00:00+00:00", "stage": stage, **facts}), flush=True)

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.05)

tell("started", secret=len(held["secret"]))
if (folder / "fail").exists():
    tell("failed", error="SparkError", what="the rows are odd", hint="Mend them.")
    sys.exit(1)
if os.environ.get("PACED"):
    wait_for("go")
uid = ask("GET", f"{base}/{me}")["metadata"]["uid"]
owner = {"apiVersion": "v1", "kind": "Pod", "name": me, "uid": uid, "controller": True}
made = []
for number in (1, 2):
    name = f"{me}-exec-{number}"
    metadata = template["metadata"] | {"name": name, "ownerReferences": [owner]}
    try:
        ask("POST", base, template | {"metadata": metadata})
        made.append(name)
    except urllib.error.HTTPError as refused:
        tell("refused", status=refused.code)
while not all(map(runs, made)):
    time.sleep(0.05)
tell("running", executors=len(made))
if os.environ.get("PACED"):
    wait_for("finish")
(folder / "result.json").write_text(os.environ["RESULT"])
tell("done")
"""
)


class SharedSite(MemorySite):
    """A site in memory that shows the result that the stand-in wrote into a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__("primary")
        self.folder = folder
        self.ensure_bucket("lake", versioned=True)

    def read(self, bucket: str, key: str, **how: Any) -> bytes:
        if key.endswith("/result.json"):
            try:
                return (self.folder / "result.json").read_bytes()
            except FileNotFoundError:
                raise ObjectMissing(f"get {bucket}/{key}", "It is not there.") from None
        return super().read(bucket, key, **how)


@dataclass
class SparkTrial:
    """A pool, a platform, an order and the folder by which a test talks to the stand-in."""

    double: DoubleCluster
    platform: Platform
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    site: Site
    ordered: SparkOrder
    pipeline: Any = field(
        default_factory=lambda: SimpleNamespace(name="stays_test", spark=SimpleNamespace(timeout=timedelta(minutes=5)))
    )

    def run(self, **how: Any) -> SparkResult:
        """Run the order as a task does, looking ten times a second."""
        from rempart.orchestration import runtime

        backend = runtime.spark_pods(self.platform, self.site, self.pipeline)
        result: SparkResult = dataclasses.replace(backend, **{"every": 0.1, **how}).run(self.ordered)
        return result

    def pace(self) -> None:
        """From now on drivers wait for the files `go` and `finish`."""
        self.double.add_image(pods.IMAGE, pods.IMAGE.partition("@")[2], env=self._variables() | {"PACED": "1"})

    def shorten(self, wait: str) -> None:
        """From now on a first executor waits this long for a node, and a driver as long as it takes."""
        from rempart.orchestration.spark.attempt import Attempt

        pool, over = self.platform.config.gpu_pools[POOL], Attempt._over
        object.__setattr__(pool, "max_pending", timedelta(seconds=float(wait.removesuffix("s"))))

        def patient(attempt: Attempt, driver: dict[str, Any], now: datetime) -> Any:
            ended = over(attempt, driver, now)
            return None if ended and ended[0] == "capacity" else ended

        self.monkeypatch.setattr(Attempt, "_over", patient)

    def say(self, *names: str) -> None:
        for name in names:
            (self.folder / name).touch()

    def _variables(self) -> dict[str, str]:
        result = SparkResult(order_id=self.ordered.order_id, status="succeeded", decision="d" * 64)
        return {"API": self.double.url, "FOLDER": str(self.folder), "RESULT": result.to_json().decode()}

    def publish(self) -> None:
        self.double.add_image(pods.IMAGE, pods.IMAGE.partition("@")[2], env=self._variables())

    def pods(self) -> dict[str, Any]:
        """The pods that are there, by name."""
        return {pod.metadata.name: pod for pod in self.double.client().list_namespaced_pod(NAMESPACE).items}

    def secrets(self) -> list[str]:
        return [each.metadata.name for each in self.double.client().list_namespaced_secret(NAMESPACE).items]

    def running(self, count: int) -> Callable[[], bool]:
        return lambda: sum(pod.status.phase == "Running" for pod in self.pods().values()) == count

    def gone(self) -> None:
        """Wait until no pod and no Secret of the job is left."""
        until(lambda: not self.pods() and not self.secrets(), 60)

    def records(self, kind: Any) -> list[Mapping[str, Any]]:
        return [record.body for record in reversed(self.platform.ledger.find(kind))]


@contextmanager
def spark_trial(home: Path, monkeypatch: pytest.MonkeyPatch, **spark: Any) -> Iterator[SparkTrial]:
    """A pool with one node where the law holds and one where it does not, whose jobs are the stand-in's."""
    project = pods.project(home / "project", {POOL: {"tolerations": [], "price_per_executor_hour": 0.36}})
    file = project / "rempart.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["sites"]["primary"]["job_credentials"] = {"kind": "platform"}
    data["spark"] = {"backend": "kubernetes", "image": pods.IMAGE, "gpu_pools": [POOL], **spark}
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    held = Connection("s3_primary", "aws", login="platform", password=KEY, extra={"endpoint_url": "http://127.0.0.1:1"})
    folder = home / "told"
    folder.mkdir()
    site = SharedSite(folder)
    platform = stage.platform_in_memory(load(file), lambda name: held)
    monkeypatch.setattr(shape, "COMMAND", ("python", "-c", DRIVER))
    monkeypatch.setattr(shape, "EXECUTOR_COMMAND", EXECUTOR)
    resources = {"executors": 2, "memory": 512, "driver_memory": 512}
    ordered = order(output=OutputPlace(bucket="lake", prefix="spark/stays_test/ingest/"), resources=resources)
    with DoubleCluster(POOL, NAMESPACE) as double:
        extra = {"kube_config": json.dumps(double.kubeconfig())}
        monkeypatch.setenv("AIRFLOW_CONN_K8S_GPU_A", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        double.add_node("gpu-a-1", {REGION: "par"}, provider_id="cloud-a://par/gpu-a-1")
        double.add_node("oregon-1", {REGION: "east"}, provider_id="cloud-us://east/oregon-1")
        trial = SparkTrial(double, platform, folder, monkeypatch, site, ordered)
        trial.publish()
        yield trial
