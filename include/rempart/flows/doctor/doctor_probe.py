"""Run the doctor's pod: the job image and entry point, up to the point before data, and its network access.

The pod has no credentials, obeys the restricted profile, and is always deleted. A leftover of a killed doctor is
deleted by the next doctor after its deadline.
"""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from rempart.coordination.active import other_site
from rempart.errors import ConfigError, PlacementDenied
from rempart.flows.doctor.pool_cluster import Cluster
from rempart.settings.config import Config, Connections
from rempart.settings.pipeline import Trainer
from rempart.settings.sections import Classification, Pool
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.signals import sigterm_raises
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.egress import endpoint_of, parse_endpoint
from rempart.sovereignty.job_permission import JobSite, permitted
from rempart.sovereignty.pods import plan
from rempart.sovereignty.pool_pods import bare, image_at, queue_label
from rempart.spark.kubernetes.labels import DRIVER, ROLE
from rempart.spark.kubernetes.pods import PROGRAM as SPARK_COMMAND
from rempart.spark.order import code_version as spark_code
from rempart.training.job import Dataset, FeatureSpec, JobSpec, Output, Tracking, TrainerSpec
from rempart.training.kubernetes.doctor_images import is_for_spark
from rempart.training.kubernetes.facts import ENTRY_POINT, Probe, Reached, Unknown
from rempart.training.kubernetes.pod import COMMAND, CONTAINER, MANAGED_BY, environment
from rempart.training.permission import permit
from rempart.training.placement import image_for
from rempart.training.trainers import trainers

LABELS = MANAGED_BY | {"app.kubernetes.io/component": "doctor"}
_SPARK_LABELS = LABELS | {ROLE: DRIVER}
"""So that the network's policies for drivers hold for it."""
SECONDS = 180
"""Seconds within which the pod must start and answer."""
_NOT_STARTED = frozenset(
    (
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
    )
)
"""Kubelet reasons for containers that will never start as specified."""


def targets(config: Config, connections: Connections, pool: str) -> tuple[str | Reached, ...]:
    """Return the addresses that a job's pod must reach: the site, its standby site, and the tracking server, which no
    job of Spark needs.

    They are URLs without credentials. A connection without a known host is a finding at once.
    """
    addresses: list[str | Reached] = []
    standby = other_site(config, config.active_site)
    sites = [config.sites[name].connection for name in (config.active_site, standby) if name]
    for name in sites if is_for_spark(config, pool) else (*sites, "mlflow"):
        try:
            connection = connections(name)
            endpoint = endpoint_of(connection) or ""
        except ConfigError as error:
            addresses.append(Reached(f"connection {name}", False, error.what, error.hint))
            continue
        host, port = parse_endpoint(endpoint)
        named = endpoint.partition("://")[0] if "://" in endpoint else connection.schema
        scheme = named if named in ("http", "https") else "http" if name == "mlflow" else "tcp"
        where = f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
        remedy = f"Write its host into AIRFLOW_CONN_{name.upper()}, then ask again: `rempart pool doctor --probe`."
        nowhere = Reached(f"connection {name}", False, "the connection names no host", remedy)
        addresses.append(f"{scheme}://{where}" if host else nowhere)
    return tuple(addresses)


def probe_pod(config: Config, name: str, addresses: Sequence[str], *, on: date) -> dict[str, Any] | None:
    """Return the doctor's pod as the policy allows it, with the lowest classification of the pool; else None."""
    pool = config.gpu_pools[name]
    small = {"cpu": "500m", "memory": "1Gi"}
    runs, labels = (_spark, _SPARK_LABELS) if is_for_spark(config, name) else (_training, LABELS)
    for classification in ORDER:
        try:
            container = runs(config, pool, classification, addresses, on)
        except PlacementDenied:
            continue
        inside = bare(pool, CONTAINER) | {"terminationGracePeriodSeconds": 0}
        inside["containers"][0] |= container | {"resources": {"requests": small, "limits": small}}
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"doctor-{secrets.token_hex(5)}",
                "namespace": pool.namespace,
                "labels": labels | queue_label(pool),
            },
            "spec": inside,
        }
        planned = plan(config, pod, [classification], connection=pool.kubernetes_connection, on=on)
        if planned.pod:
            return planned.pod
    return None


def _training(
    config: Config, pool: Pool, classification: Classification, addresses: Sequence[str], on: date
) -> dict[str, Any]:
    """Return what a container of a training job's image runs. Raises PlacementDenied."""
    spec = permit(config, _job(config, classification), on=on)
    return {
        "image": image_for(config, pool),
        "command": [*COMMAND, "--probe", *addresses],
        "env": environment(spec),
    }


def _spark(
    config: Config, pool: Pool, classification: Classification, addresses: Sequence[str], on: date
) -> dict[str, Any]:
    """Return what a container of Spark's image runs: a driver's program, without an order. Raises PlacementDenied."""
    permitted(config, classification, [config.active_site], on=on)
    return {
        "image": image_at(pool, config.spark.image),
        "command": [*SPARK_COMMAND, "--probe", spark_code(), *addresses],
        "env": [{"name": name, "value": value} for name, value in TELEMETRY_OFF.items()],
    }


def _job(config: Config, classification: Classification) -> JobSpec:
    """Return a job that never runs: its data set does not exist, and the entry point stops before reading it."""
    place, use = JobSite.of(config, config.active_site), Trainer().use
    return JobSpec(
        pipeline="doctor",
        classification=classification,
        task="regression",
        target=FeatureSpec(name="target", type="number"),
        features=(FeatureSpec(name="feature", type="number"),),
        dataset=Dataset(
            site=place,
            bucket=config.buckets.lake,
            key="doctor",
            sha256="0" * 64,
            rows=1,
            held_out="0" * 64,
            examples="0" * 64,
        ),
        trainer=TrainerSpec(use=use),
        tracking=Tracking(connection="mlflow", experiment="doctor"),
        output=Output(site=place, bucket=config.buckets.artifacts, prefix="doctor/"),
        snapshot="none",
        code_version=trainers.code_version(use),
    )


def run_probe(
    cluster: Cluster, config: Config, name: str, to: Sequence[str | Reached], *, on: date, seconds: float
) -> Probe:
    """Run the doctor's pod to its end and delete it. Return the refusal, the reason for waiting, or the findings."""
    pods = f"/api/v1/namespaces/{config.gpu_pools[name].namespace}/pods"
    left = _remove_leftovers(cluster, pods)
    pod = probe_pod(config, name, [target for target in to if isinstance(target, str)], on=on)
    if pod is None:
        return Probe("", False, "the policy allows no pod here with this image: see policy and image", left=left)
    pod["spec"]["activeDeadlineSeconds"] = int(seconds) + 60
    path = f"{pods}/{pod['metadata']['name']}"
    with sigterm_raises(SystemExit(128 + signal.SIGTERM)):  # the pod is deleted first
        try:
            created = cluster.post(pods, pod)
            result = Probe("", False, created.why) if isinstance(created, Unknown) else _follow(cluster, path, seconds)
        finally:
            gone = _delete(cluster, path)
    if result.reached is not None:
        result = replace(result, reached=(*result.reached, *(target for target in to if isinstance(target, Reached))))
    return replace(result, pod=pod["metadata"]["name"], left=" ".join(filter(None, (left, gone))))


def _follow(cluster: Cluster, path: str, seconds: float) -> Probe:
    until = time.monotonic() + seconds
    why = ""
    while time.monotonic() < until:
        pod = cluster.get(path)
        if isinstance(pod, Unknown):
            if pod.status == 404:
                return Probe("", False, f"the pod was deleted by somebody else. {why}".strip())
            why = pod.why
        else:
            status = pod.get("status") or {}
            state = next((container.get("state") or {} for container in status.get("containerStatuses") or ()), {})
            if ended := state.get("terminated"):
                return _answer(cluster, path, str(pod["spec"].get("nodeName") or ""), ended)
            waiting = state.get("waiting") or {}
            why = _why(status, waiting)
            if waiting.get("reason") in _NOT_STARTED:
                return Probe("", False, why)
            if status.get("phase") == "Failed":
                return Probe(
                    "", False, f"{status.get('reason') or 'Failed'}: {status.get('message') or ''}".strip(": ")
                )
        time.sleep(0.5)
    return Probe("", False, f"not within {seconds:.0f} s. {why}".strip())


def _why(status: Mapping[str, Any], waiting: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason')}: {condition.get('message') or ''}".strip(": ")
    if waiting:
        return f"{waiting.get('reason')}: {waiting.get('message') or ''}".strip(": ")
    return f"phase {status.get('phase') or 'not known'}"


def _answer(cluster: Cluster, path: str, node: str, ended: Mapping[str, Any]) -> Probe:
    code, log = ended.get("exitCode"), cluster.text(f"{path}/log")
    if isinstance(log, Unknown):
        return Probe("", True, f"exit status {code}; its log cannot be read: {log.why}", node)
    reached = []
    for line in log.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            data = json.loads(line)
            if data["stage"] == "ready":
                reached.append(Reached(ENTRY_POINT, True, f"spec of version {data['version']}, code {data['code']}"))
            elif data["stage"] == "failed":
                reached.append(Reached(ENTRY_POINT, False, f"{data['what']}. {data['hint']}"))
            else:
                reached.append(Reached(str(data["target"]), data["ok"] is True, str(data["detail"])))
    last = log.splitlines()[-1][:200] if log.strip() else "no output"
    return Probe("", True, f"exit status {code}: {last}", node, tuple(reached) or None)


def _delete(cluster: Cluster, path: str) -> str:
    """Delete a pod and wait until it is gone. Return why it is left, if it is."""
    why = ""
    for _ in range(20):
        answer = cluster.delete(path)
        if isinstance(answer, Unknown):
            if answer.status == 404:
                return ""
            why = answer.why
        time.sleep(0.5)
    return f"{path} could not be deleted: {why or 'it is still there'}"


def _remove_leftovers(cluster: Cluster, pods: str) -> str:
    """Delete pods of killed doctors: pods with its label that ended or passed their deadline."""
    labels = ",".join(f"{key}={value}" for key, value in LABELS.items())
    leftover_pods = cluster.items(pods, labelSelector=labels)
    if isinstance(leftover_pods, Unknown):
        return ""
    over = [pod["metadata"]["name"] for pod in leftover_pods if _is_over(pod, datetime.now(UTC))]
    return " ".join(filter(None, (_delete(cluster, f"{pods}/{name}") for name in over)))


def _is_over(pod: Mapping[str, Any], now: datetime) -> bool:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return True
    # a pod that found no node has no deadline of its own yet
    age = now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    return age.total_seconds() > float(pod["spec"].get("activeDeadlineSeconds", SECONDS))
