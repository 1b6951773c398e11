"""Proof: the image of Spark jobs ingests bookings with a driver and executors, each a container with its pod's spec.

    make prove-spark-image    (needs a Docker Engine, and root; it builds the image)

The platform's own code makes the driver's pod, Spark in it makes executors, and the policy's gate lets them go, on a
double of Kubernetes. Its nodes run each pod as a container: with the pod's command, variables, user, limits, volumes
and read-only root, in a network that leads nowhere but to the S3 site of this machine and, by TLS, to the double's API.
DuckDB takes the same deliveries in, and both snapshots must have one id.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from bench import prove_compose
from bench.ingest import FIRST_ID, multiplied
from bench.outside import make_pair
from bench.prove_compose import Check, Compose, check, sizes, tell
from bench.prove_pods import write
from bench.seen import docker
from rempart.flows.distributed import orders
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import named
from rempart.sites.port import Site
from rempart.sovereignty.pool_pods import USER
from rempart.spark.kubernetes import labels
from rempart.spark.order import SparkOrder, SparkResult
from tests.api_proxy import Forwarder, Loop
from tests.clusters import DoubleCluster, until
from tests.integration.own_servers import Servers, own_servers
from tests.kubernetes_double.containers import Engine, Ran, options
from tests.memory_site import MemorySite
from tests.spark import in_pods
from tests.unit.ingestion.conftest import no_connection

NAME, ENGINE = "spark-image", "rempart-prove-spark-image"
IMAGE = f"rempart/spark:{os.environ.get('REMPART_TAG') or 'local'}"
FILES, ROWS, EXECUTORS, HEAP = 8, 200_000, 2, 1024
DRIVER = labels.DRIVER
LEFT_OUT = "/opt/rempart/rempart.yaml /opt/rempart/dags"


def why_not() -> str:
    """Return why this machine cannot run the proof; empty if it can."""
    if why := prove_compose.why_not():
        return why
    return "a kubelet gives files of volumes to a group, which needs root" if os.geteuid() else ""


def reserved(folder: Path | None = None) -> TextIO | None:
    """Reserve the names of network and image here until the file is closed; None if another run has them."""
    file = ((folder or Path(tempfile.gettempdir())) / f"{ENGINE}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def build(folder: Path, figures: dict[str, Any]) -> None:
    """Build the image as `make images SPARK=yes` does, from the base image of this machine."""
    root, began = config.project_root().resolve(), time.monotonic()
    variables = {**os.environ, "REMPART_VAR": str(folder), "REMPART_HOME": str(root)}
    settings = folder / "compose.env"
    command = [sys.executable, "-m", "rempart.cli", "stack", "init", "--images", "--settings", str(settings)]
    subprocess.run(command, env=variables, cwd=root, check=True, stdout=subprocess.DEVNULL)
    if prove_compose.base_image() == prove_compose.BASE and not prove_compose.has(prove_compose.BASE):
        subprocess.run(["deploy/images/base.sh", prove_compose.BASE], cwd=root, check=True)
    compose = Compose(root, settings)
    compose.files.append(root / "deploy" / "images" / "spark.yaml")
    compose.must("build", "spark", timeout=1800)
    figures["seconds: build"] = round(time.monotonic() - began, 1)
    tell(f"built in {figures['seconds: build']} s")


def taken_in(platform: Platform, site: Site, rows: int, engine: str, folder: Path) -> dict[str, Any]:
    """Deliver bookings, ingest them, and return what the run says."""
    pipeline, file = named("hotel_bookings"), folder / "delivery.csv"
    assert isinstance(pipeline, ModelPipeline)
    resources = {"executors": EXECUTORS, "cores": 1, "memory": HEAP, "driver_memory": HEAP}
    spark = pipeline.spark.model_copy(update=resources)
    pipeline = pipeline.model_copy(update={"engine": engine, "spark": spark})
    for number in range(FILES):
        multiplied(rows // FILES, file, first=FIRST_ID + number * (rows // FILES))
        site.write("landing", f"{pipeline.source.prefix}{number}.csv", file.read_bytes())
    file.unlink()

    def run_job(order: SparkOrder) -> SparkResult:
        return orders.run(platform, pipeline, order)

    result = ingest(platform, pipeline, run_job=run_job)
    found = {name: value for name, value in vars(result).items() if name not in ("seconds", "hint")}
    return dict(json.loads(json.dumps(found, default=str)))


def by_duckdb(rows: int, folder: Path) -> dict[str, Any]:
    """Ingest the bookings with DuckDB at a site in memory."""
    memory, settings = MemorySite("primary"), config.load()
    for bucket in ("landing", "lake"):
        memory.ensure_bucket(bucket, versioned=True)
    sites: Any = {settings.active_site: memory}
    here = Platform(settings, no_connection, _now, sites, MemoryLedger(), MemoryContinuity())
    return taken_in(here, memory, rows, "duckdb", folder)  # type: ignore[arg-type]  # a site in memory is one


def _now() -> datetime:
    return datetime.now(UTC)


def prove(servers: Servers, rows: int, folder: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Ingest with both engines, and examine the containers of Spark's pods."""
    duckdb = by_duckdb(rows, folder)
    tell(f"DuckDB's snapshot: {duckdb['snapshot']}")
    began = time.monotonic()
    with ExitStack() as ending:
        engine = ending.enter_context(Engine(IMAGE, ENGINE))
        double = ending.enter_context(DoubleCluster(in_pods.POOL, in_pods.NAMESPACE, engine))
        watcher = ending.enter_context(in_pods.watched(double, kills=False))
        port = int(str(servers.connections("s3_primary").extra["endpoint_url"]).rpartition(":")[2])
        ending.enter_context(_ways(engine, double, port, folder))
        in_pods.furnish(double)
        in_pods.grant(double.client(), double.namespace)
        made = docker("image", "inspect", "--format", "{{.Id}}", IMAGE).strip()
        image = f"registry.trial/rempart/spark@{made}"
        double.add_image(image)
        settings = in_pods.project(folder / "project", image, [f"http://{engine.gateway}"])
        site, ledger = in_pods.made_site(servers), MemoryLedger()
        there = Platform(
            settings,
            in_pods.reachable(servers.connections, engine.gateway),
            _now,
            {"primary": site},
            ledger,
            MemoryContinuity(),
            spark_pods=in_pods.in_pods(double),
        )
        spark = taken_in(there, site, rows, "spark", folder)
        figures["seconds: Spark in pods, with the read back"] = round(time.monotonic() - began, 1)
        until(lambda: not double.processes(), 60)  # executors end after the job
        ran, pods = dict(engine.ran), watcher.seen()
        made_of = f"{spark['snapshot']}, {spark['total_rows']} rows"
        check(checks, "Spark's snapshot is DuckDB's", spark == duckdb, made_of)
        (job,) = (record.body for record in ledger.find("spark-job"))
        figures["seconds: the job"] = job["seconds"]
        told = json.dumps([each.settings for each in ran.values()])
        secret = str(servers.connections("s3_primary").password)
        check(checks, "no secret in docker inspect", secret not in told and len(ran) > 1, f"{len(ran)} containers")
        look(pods, ran, checks, figures)
        closed(pods, folder, checks)


@contextmanager
def _ways(engine: Engine, double: DoubleCluster, port: int, folder: Path) -> Iterator[None]:
    """Let pods reach the site, and Kubernetes' API by TLS, at this machine's address in their network."""
    pair, api = make_pair(folder, engine.gateway), int(double.url.rpartition(":")[2])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    engine.certificate = pair.certificate.read_bytes()
    engine.variables = {"KUBERNETES_SERVICE_HOST": engine.gateway, "KUBERNETES_SERVICE_PORT": str(api)}
    loop = Loop()
    ways = [Forwarder(loop, engine.gateway, port), Forwarder(loop, engine.gateway, api, tls)]
    for way in ways:
        way.start()
    try:
        yield
    finally:
        for way in ways:
            way.close()
        loop.close()


def look(pods: Mapping[str, Any], ran: Mapping[str, Ran], checks: list[Check], figures: dict[str, Any]) -> None:
    """Examine the containers: each as its pod says, and within its memory."""
    drivers = {name for name, pod in pods.items() if pod["metadata"]["labels"][labels.ROLE] == DRIVER}
    roles = {name: "driver" if name in drivers else "executor" for name in ran}
    check(
        checks,
        "a driver and its executors were containers",
        sorted(set(roles.values())) == ["driver", "executor"] and set(ran) <= set(pods),
        ", ".join(f"{name}: {roles[name]}, exit code {each.code}" for name, each in sorted(ran.items())),
    )
    wrong = [f"{name}: {fault}" for name, each in ran.items() for fault in faults(each, roles[name])]
    check(checks, "each is confined as its pod says", not wrong, "; ".join(wrong) or f"{len(ran)} looked at")
    used = {}
    for name, each in sorted(ran.items()):
        limit = each.settings["HostConfig"]["Memory"] >> 20
        used[f"{roles[name]} {name}"] = f"own {each.own >> 20}, with files {each.peak >> 20}, limit {limit} MiB"
    figures["memory"] = used
    killed = [name for name, each in ran.items() if each.killed]
    measured = {roles[name] for name, each in ran.items() if each.own}
    fits = not killed and measured == {"driver", "executor"}
    check(checks, "no container needed more memory than its pod has", fits, f"{killed or json.dumps(used)}")


def faults(ran: Ran, role: str) -> list[str]:
    """Return how a container differs from what the platform's pods are. Pure."""
    host, found = ran.settings["HostConfig"], []
    if not host["ReadonlyRootfs"]:
        found.append("its root can be written")
    if host["CapDrop"] != ["ALL"] or "no-new-privileges" not in host["SecurityOpt"]:
        found.append("it may have rights of root")
    if ran.settings["Config"]["User"] != f"{USER}:{USER}":
        found.append(f"its user is {ran.settings['Config']['User']!r}")
    targets = {mount["Destination"] for mount in ran.settings["Mounts"]}
    token = any("serviceaccount" in target for target in targets)
    if token != (role == DRIVER):
        found.append("it has a token of Kubernetes" if token else "it has no token of Kubernetes")
    if set(ran.settings["NetworkSettings"]["Networks"]) != {ENGINE}:
        found.append("it is in another network")
    return found


def closed(pods: Mapping[str, Any], folder: Path, checks: list[Check]) -> None:
    """Look from inside a container with the user, rights and limits of an executor."""
    pod = next(pod for name, pod in pods.items() if pod["metadata"]["labels"][labels.ROLE] != DRIVER)
    script = f"ls {LEFT_OUT} 2>/dev/null; touch /opt/rempart/x /etc/x 2>&1; id -u; echo x > /dev/tcp/192.0.2.1/9"
    words = options(pod, pod["spec"]["containers"][0])
    command = ["docker", "run", "--rm", "--network", ENGINE, *words, "--entrypoint", "/bin/bash", IMAGE, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    seen = done.stdout.splitlines()
    right = len(seen) == 3 and all("Read-only" in line for line in seen[:2]) and seen[2] == str(USER)
    away = "unreachable" in done.stderr
    told = "; ".join([*seen, *done.stderr.strip().splitlines()[-1:]])
    check(checks, "it is read-only, not root, has no rempart.yaml, and reaches nobody", right and away, told)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make prove-spark-image", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="bookings to take in")
    chosen = parser.parse_args(arguments)
    why, ours = why_not(), reserved()
    if why := why or ("" if ours else "another run of it goes on here: wait for its end"):
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(NAME, [{"what": "the image of Spark does a job", "ok": None, "detail": f"not run: {why}"}], 0, {})
        return 1
    began, checks, figures = time.monotonic(), list[Check](), dict[str, Any]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            build(folder, figures)
            figures["MB"] = sizes((IMAGE,))
            with own_servers(folder / "var", ("site-primary",)) as servers:
                for bucket in ("landing", "lake"):
                    in_pods.made_site(servers).ensure_bucket(bucket, versioned=True)
                prove(servers, chosen.rows, folder, checks, figures)
        except (Exception, SystemExit) as error:
            check(checks, "every step could be taken", False, f"{type(error).__name__}: {error}")
    for figure, value in figures.items():
        print(f"     {figure}: {value}")
    return 0 if write(NAME, checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    sys.exit(main())
