"""`rempart pool doctor` against a Kubernetes API: its findings about right and wrong pools, and that no pod stays."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from rempart.errors import ConfigError
from rempart.flows.doctor import doctor_pool
from rempart.settings.config import Connection
from rempart.sovereignty.pods import REGION
from tests.clusters import until
from tests.integration.doctored_pool import (
    GPU,
    IMAGE,
    TODAY,
    Pool,
    failed,
    granted,
    manifests,
    new_pool,
    new_site,
    only,
)


@pytest.fixture
def site() -> Iterator[str]:
    yield from new_site()


@pytest.fixture
def pool(site: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    yield from new_pool(site, monkeypatch)


def test_a_pool_as_shipped_is_healthy_and_the_probe_leaves_nothing(pool: Pool) -> None:
    told = pool.findings(probe=True)
    assert failed(told) == set(), [finding for found in told.values() for finding in found if finding.outcome == "FAIL"]
    assert only(told, "policy personal").outcome == "ok"
    assert only(told, "policy sensitive").outcome == "warn"  # no SecNumCloud, and others are allowed
    assert only(told, "rights").outcome == only(told, "excess rights").outcome == "ok"
    assert "1 of 1 GPU left" in only(told, "quota").found
    assert "1 of 2 take jobs: gpu-1" in only(told, "nodes").found
    assert "2 free" in only(told, "gpus").found
    assert only(told, "image pull").found == "started on gpu-1"
    assert only(told, "entry point").outcome == "ok" and "spec of version 5" in only(told, "entry point").found
    assert [(check.outcome, check.found) for check in told["reach"]] == [("ok", f"{pool.site}: HTTP 403")] * 3
    assert pool.pods() == []
    assert doctor_pool.exit_code(pool.diagnoses()) == 0


def test_without_probe_nothing_is_created_and_that_is_said(pool: Pool) -> None:
    before = len(pool.double.history)
    told = pool.findings()
    assert only(told, "image pull").outcome == only(told, "reach").outcome == "not run"
    writes = [
        request
        for request in pool.double.requests
        if request.method != "GET" and request.user.startswith("system:service")
    ]
    assert all("/selfsubject" in write.path for write in writes) and len(pool.double.history) == before


def test_every_missing_right_is_named_and_every_excess(pool: Pool) -> None:
    rules = [rule for rule in granted() if rule["resources"] not in (["secrets"], ["events"])]
    more = {"apiGroups": [""], "resources": ["pods/exec", "secrets"], "verbs": ["get", "list"]}
    pool.allow([*rules, {**more, "namespaces": ["training"]}])
    told = pool.findings()
    missing = only(told, "rights")
    assert missing.outcome == "FAIL"
    assert all(right in missing.found for right in ("create secrets", "list events"))
    excess = only(told, "excess rights")
    assert excess.outcome == "FAIL"
    assert "get/list pods/exec" in excess.found and "list secrets" in excess.found


def test_rights_in_every_namespace_and_wildcards_are_excess(pool: Pool) -> None:
    pool.allow([{key: value for key, value in rule.items() if key != "namespaces"} for rule in granted()])
    told = pool.findings()
    assert only(told, "rights").outcome == "ok"
    assert "pods (in kube-system)" in only(told, "excess rights").found
    pool.token = pool.double.admin_token
    assert "* everything" in only(pool.findings(), "excess rights").found


def test_a_missing_quota_fails_and_a_full_one_warns(pool: Pool) -> None:
    core = client.CoreV1Api(pool.api)
    core.delete_namespaced_resource_quota("rempart-pool", "training")
    assert only(pool.findings(), "quota").outcome == "FAIL"
    quota = next(manifest for manifest in manifests("pool") if manifest["kind"] == "ResourceQuota")
    quota["spec"]["hard"] = {f"requests.{GPU}": "2"}
    core.create_namespaced_resource_quota("training", quota)
    more = only(pool.findings(), "quota")
    assert more.outcome == "warn" and "more than the contract grants" in more.found
    pool.pool = {"max_gpus": 3, "quota": 3}
    assert "a job of that size never fits" in only(pool.findings(), "quota").found


def test_gpu_nodes_elsewhere_take_no_job(pool: Pool) -> None:
    pool.double.remove_node("gpu-1")
    pool.double.add_node("gpu-9", {REGION: "dallas"}, {GPU: "8"}, provider_id="aws:///us-east-1a/i-1")
    pool.double.add_node("gpu-8", {}, {GPU: "8"})
    told = pool.findings()
    nodes = only(told, "nodes")
    assert nodes.outcome == "FAIL" and f"{REGION} is dallas" in nodes.found and f"{REGION} is not set" in nodes.found
    assert only(told, "operator").outcome == "ok" and "gpu-9" in only(told, "operator").found
    assert only(told, "gpus").outcome == "FAIL"
    pool.double.add_node("gpu-7", {REGION: "lyon"}, {GPU: "1"}, provider_id="aws:///us-east-1a/i-2")
    remedy = next(finding.remedy for finding in pool.findings()["operator"] if finding.outcome == "FAIL")
    assert "`kubectl taint node gpu-7 " in remedy
    pool.double.remove_node("gpu-7")
    pool.double.add_node("gpu-2", {REGION: "lyon"}, {GPU: "1"})
    told = pool.findings()
    assert only(told, "nodes").outcome == "ok" and only(told, "region").outcome == "warn"


def test_a_namespace_without_the_profile_and_an_open_network_fail(pool: Pool) -> None:
    core, network = client.CoreV1Api(pool.api), client.NetworkingV1Api(pool.api)
    core.patch_namespace("training", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}})
    network.delete_namespaced_network_policy("rempart-default-deny", "training")
    told = pool.findings()
    assert "baseline" in only(told, "namespace").found
    assert "Ingress of pods is not denied" in only(told, "network").found
    assert {"namespace", "network"} <= failed(told)


def test_a_namespace_queue_or_class_that_is_not_there_is_named(pool: Pool) -> None:
    pool.pool = {"priority_class": "gone", "queue": "gpus"}
    told = pool.findings()
    assert only(told, "priority class").outcome == only(told, "queue").outcome == "FAIL"


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_a_queue_is_told_with_its_state(pool: Pool, version: str) -> None:
    pool.pool = {"queue": "gpus"}
    pool.double.add_kueue(version)
    found = only(pool.findings(), "queue")
    assert found.outcome == "FAIL" and "LocalQueue gpus does not exist" in found.found
    pool.double.stop_kueue()
    pool.double.add_queue("training", "gpus", {GPU: "2"})
    found = only(pool.findings(), "queue")
    assert found.outcome == "warn" and "kueue-system" in found.remedy
    pool.double.stop_kueue(False)
    until(lambda: only(pool.findings(), "queue").found == "gpus, active")
    api = client.CustomObjectsApi(pool.api)
    api.delete_cluster_custom_object("kueue.x-k8s.io", version, "clusterqueues", "gpus")
    until(lambda: only(pool.findings(), "queue").outcome == "FAIL")
    found = only(pool.findings(), "queue")
    assert "ClusterQueueDoesNotExist" in found.found and "describe localqueue gpus -n training" in found.remedy


def test_an_api_that_is_away_fails_and_nothing_else_is_claimed(pool: Pool) -> None:
    pool.double.stop()
    (found,) = pool.diagnoses(probe=True)
    told = {finding.check: finding for finding in found.findings}
    assert told["cluster"].outcome == "FAIL" and "did not answer" in told["cluster"].found
    assert told["rights"].outcome == told["reach"].outcome == "not run"
    assert doctor_pool.exit_code([found]) == 2


def test_a_token_that_is_not_accepted_fails_everything(pool: Pool) -> None:
    pool.double.revoke_token(pool.token)
    (found,) = pool.diagnoses()
    told = {finding.check: finding for finding in found.findings}
    assert told["cluster"].outcome == "FAIL" and "401" in told["cluster"].found
    assert told["rights"].outcome == "not run" and "token" in told["cluster"].remedy
    assert doctor_pool.exit_code([found]) == 1


def test_a_connection_that_names_no_cluster_fails(pool: Pool) -> None:
    def empty(name: str) -> Connection:
        return Connection(name, "kubernetes")

    (found,) = doctor_pool.diagnose([], config=pool.config(), connections=empty, on=TODAY)
    (cluster,) = [finding for finding in found.findings if finding.check == "cluster"]
    assert "names no cluster" in cluster.found and doctor_pool.exit_code([found]) == 2
    with pytest.raises(ConfigError, match="Pool 'paris' is not declared"):
        doctor_pool.diagnose(["paris"], config=pool.config())


@pytest.mark.parametrize("prefix", ["", "extra__kubernetes__"])
@pytest.mark.parametrize("form", ["text", "mapping", "path"])
def test_the_connection_is_read_as_the_provider_reads_it(pool: Pool, tmp_path: Path, prefix: str, form: str) -> None:
    kubeconfig = pool.double.kubeconfig(pool.token)
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig), "utf-8")
    value = {"text": json.dumps(kubeconfig), "mapping": kubeconfig, "path": str(file)}[form]
    key = f"{prefix}{'kube_config_path' if form == 'path' else 'kube_config'}"

    def connections(name: str) -> Connection:
        return Connection(name, "kubernetes", extra={key: value})

    (found,) = doctor_pool.diagnose([], config=pool.config(), connections=connections, on=TODAY)
    assert found.answered and next(finding for finding in found.findings if finding.check == "rights").outcome == "ok"


def test_an_image_that_cannot_be_pulled_fails_and_the_pod_is_gone(pool: Pool) -> None:
    pool.image = f"registry.example.eu/rempart@sha256:{'b' * 64}"
    told = pool.findings(probe=True)
    pull = only(told, "image pull")
    assert pull.outcome == "FAIL" and "ImagePull" in pull.found
    assert only(told, "reach").outcome == "not run"
    assert pool.pods() == []


def test_an_image_of_an_undeclared_registry_is_never_started(pool: Pool) -> None:
    pool.registry = "elsewhere.example.eu"
    before = len(pool.double.history)
    told = pool.findings(probe=True)
    assert only(told, "image pull").outcome == "FAIL"
    assert all(finding.outcome == "FAIL" for finding in told["image"])
    assert len(pool.double.history) == before


def test_a_site_that_a_pod_cannot_reach_is_named(pool: Pool) -> None:
    with socket.socket() as held:  # bound and not listening
        held.bind(("127.0.0.1", 0))
        pool.site = f"http://127.0.0.1:{held.getsockname()[1]}"
        told = pool.findings(probe=True)
    assert [check.outcome for check in told["reach"]] == ["FAIL"] * 3 and "refused" in told["reach"][0].found.lower()
    assert pool.pods() == []


@pytest.mark.full
def test_a_pod_that_finds_no_place_is_deleted(pool: Pool) -> None:
    pool.double.cordon("gpu-1")
    pool.double.cordon("plain-1")
    told = pool.findings(probe=True, seconds=15)
    assert "Unschedulable" in only(told, "image pull").found and pool.pods() == []


def test_a_pod_whose_making_was_not_answered_is_deleted(pool: Pool) -> None:
    pool.double.fail(0, method="POST", path_contains="/pods", done=True)
    told = pool.findings(probe=True)
    assert only(told, "image pull").outcome == "FAIL" and pool.pods() == []
    assert len(pool.double.history) == 1


@pytest.mark.full
def test_the_pod_is_restricted_labelled_and_has_no_credentials(pool: Pool) -> None:
    made: list[dict[str, Any]] = []
    core = client.CoreV1Api(pool.api)
    seen = threading.Event()

    def watch() -> None:
        while not seen.is_set():
            for item in core.list_namespaced_pod("training").items:
                made.append(pool.api.sanitize_for_serialization(item))
                seen.set()
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        pool.findings(probe=True)
    finally:
        seen.set()
        watching.join()
    spec, text = made[0]["spec"], json.dumps(made[0])
    assert made[0]["metadata"]["labels"]["app.kubernetes.io/component"] == "doctor"
    assert spec["automountServiceAccountToken"] is False and "envFrom" not in spec["containers"][0]
    assert not [
        variable for variable in spec["containers"][0]["env"] if "CONN" in variable["name"] or "valueFrom" in variable
    ]
    assert "secretRef" not in text and "not-to-be-seen" not in text


SCRIPT = """
import json, sys
from datetime import date
from rempart.settings.config import Config, Connection
from rempart.flows.doctor import doctor_pool
config, kube, site = json.load(sys.stdin)
def connections(name):
    if name == "k8s_lyon":
        return Connection(name, "kubernetes", extra={"kube_config": kube})
    return Connection(name, "aws", "127.0.0.1", 9, extra={"endpoint_url": site})
loaded = Config.model_validate(config)
doctor_pool.diagnose([], probe=True, config=loaded, connections=connections, on=date(2026, 11, 24))
"""


def test_a_doctor_that_is_told_to_end_deletes_its_pod_first(pool: Pool, tmp_path: Path) -> None:
    pool.double.cordon("gpu-1")
    pool.double.cordon("plain-1")  # so that the pod waits
    told = [pool.data(), pool.double.kubeconfig(pool.token), pool.site]
    with (tmp_path / "output").open("w+") as output:
        doctor = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=output, stderr=output)
        assert doctor.stdin is not None
        doctor.stdin.write(json.dumps(told, default=str).encode())
        doctor.stdin.close()
        until = time.monotonic() + 60
        while not pool.pods() and doctor.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        assert pool.pods(), (doctor.poll(), (tmp_path / "output").read_text("utf-8"))
    doctor.send_signal(signal.SIGTERM)
    assert doctor.wait(60) == 128 + signal.SIGTERM
    assert pool.pods() == []


@pytest.mark.full
def test_a_pod_that_a_killed_doctor_left_is_deleted_by_the_next(pool: Pool) -> None:
    labels = {"app.kubernetes.io/managed-by": "rempart", "app.kubernetes.io/component": "doctor"}
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": [{"key": GPU, "operator": "Exists"}],
        "containers": [
            {
                "name": "base",
                "image": IMAGE,
                "command": ["true"],
                "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    core = client.CoreV1Api(pool.api)
    core.create_namespaced_pod("training", {"metadata": {"name": "doctor-old", "labels": labels}, "spec": spec})
    until = time.monotonic() + 20
    while core.read_namespaced_pod("doctor-old", "training").status.phase != "Succeeded" and time.monotonic() < until:
        time.sleep(0.1)
    assert failed(pool.findings(probe=True)) == set() and pool.pods() == []


def test_findings_are_lines_for_people_and_json_for_programs(pool: Pool) -> None:
    found = pool.diagnoses()
    lines = [line for diagnosis in found for line in diagnosis.lines()]
    assert lines[0] == "pool lyon" and any(line.startswith("not run  reach") for line in lines)
    data = json.loads(doctor_pool.as_json(found))
    assert data["exit_code"] == 0 and data["pools"][0]["ok"] is True
    assert {"check", "outcome", "found", "remedy"} == set(data["pools"][0]["findings"][0])


def test_what_a_driver_of_spark_may_do_is_asked_without_making_a_pod(pool: Pool) -> None:
    pool.spark = {"backend": "kubernetes", "image": IMAGE}
    told = pool.findings()
    assert only(told, "spark account").found == "rempart-spark, with rights to pods alone"
    assert only(told, "spark image").outcome == "ok"
    assert "no address of Kubernetes' API" in only(told, "spark api").found  # the address of documents is none
    rbac = client.RbacAuthorizationV1Api(pool.api)
    rbac.delete_namespaced_role_binding("rempart-spark", "training")
    assert "lacks these rights: create pods" in only(pool.findings(), "spark account").found
    client.CoreV1Api(pool.api).delete_namespaced_service_account("rempart-spark", "training")
    assert "does not exist" in only(pool.findings(), "spark account").found
    assert pool.pods() == []
