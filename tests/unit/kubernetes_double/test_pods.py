"""The nodes' side: scheduling, running, logs, endings."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_asyncio
import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_double import KubernetesDouble
from tests.repositories import alive
from tests.unit.kubernetes_double.conftest import DIGEST, IMAGE, pod, reaches, until

pytestmark = pytest.mark.full

DEAF = "import time; print('up'); time.sleep(600)"
SLEEP = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); {DEAF}"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('no')); print('up'); time.sleep(600)"


def events(api: client.CoreV1Api, name: str) -> dict[str, int]:
    """The reasons of a pod's events, with their counts."""
    found = api.list_namespaced_event("training", field_selector=f"involvedObject.name={name}").items
    return {event.reason: event.count for event in found}


def condition(found: Any, name: str) -> Any:
    """One of a pod's conditions."""
    return next((each for each in found.status.conditions or [] if each.type == name), None)


def log(api: client.CoreV1Api, name: str, **options: Any) -> str:
    """A pod's log."""
    return str(api.read_namespaced_pod_log(name, "training", _preload_content=False, **options).data.decode())


def comes_up(api: client.CoreV1Api, name: str) -> None:
    """Wait until a pod's process has set up how it takes signals."""
    reaches(api, name, "Running")
    until(lambda: log(api, name) == "up\n")


def test_a_pod_runs_to_its_end(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("good"))
    api.create_namespaced_pod("training", pod("bad", "raise SystemExit(3)"))
    good, bad = reaches(api, "good", "Succeeded"), reaches(api, "bad", "Failed")
    ended = good.status.container_statuses[0]
    assert (ended.state.terminated.exit_code, ended.state.terminated.reason) == (0, "Completed")
    assert ended.image_id == f"registry.example/train@{DIGEST}" and good.spec.node_name == "gpu-1"
    assert bad.status.container_statuses[0].state.terminated.exit_code == 3
    assert log(api, "good") == "hello\n"
    assert {"Scheduled", "Pulled", "Created", "Started"} <= set(events(api, "good"))
    assert [(record.name, record.node, record.exit_code) for record in double.history] == [
        ("good", "gpu-1", 0),
        ("bad", "gpu-1", 3),
    ]
    assert double.processes() == 0


def test_a_watch_sees_a_pods_life(api: client.CoreV1Api) -> None:
    version = api.list_namespaced_pod("training").metadata.resource_version
    api.create_namespaced_pod("training", pod("a", SLEEP))
    seen: list[tuple[str, str, bool]] = []
    runs = ("MODIFIED", "Running", False)
    options = {"resource_version": version, "timeout_seconds": 120}
    for event in watch.Watch().stream(api.list_namespaced_pod, "training", **options):
        found = event["object"]
        seen.append((event["type"], found.status.phase, bool(found.metadata.deletion_timestamp)))
        if seen[-1] == runs and seen.count(runs) == 1:
            comes_up(api, "a")
            api.delete_namespaced_pod("a", "training", grace_period_seconds=60)
        if event["type"] == "DELETED":
            break
    assert ("MODIFIED", "Running", True) in seen
    assert seen[0][:2] == ("ADDED", "Pending") and seen[-1] == ("DELETED", "Failed", True)


def test_logs_follow_and_are_cut_as_asked(api: client.CoreV1Api, tmp_path: Path) -> None:
    read = tmp_path / "read"
    code = (
        f"import pathlib, time\nprint(0, flush=True)\nwhile not pathlib.Path({str(read)!r}).exists(): time.sleep(0.1)\n"
    )
    code += "for i in range(1, 4): time.sleep(2); print(i, flush=True)"
    api.create_namespaced_pod("training", pod("a", code))
    until(lambda: api.read_namespaced_pod("a", "training").status.phase != "Pending")
    answer = api.read_namespaced_pod_log("a", "training", follow=True, _preload_content=False)
    chunks = answer.stream()
    first = next(chunks)
    assert first == b"0\n"
    read.touch()  # it prints the rest only now
    assert b"".join([first, *chunks]) == b"0\n1\n2\n3\n"
    assert log(api, "a", tail_lines=1) == "3\n" and log(api, "a", limit_bytes=3) == "0\n1"
    with_times = log(api, "a", timestamps=True).splitlines()
    moment = with_times[2].split()[0]
    assert len(with_times) == 4 and len(moment) == len("2026-01-01T00:00:00.123456789Z")
    path = "/api/v1/namespaces/training/pods/a/log"
    query = [("sinceTime", moment)]
    since = api.api_client.call_api(
        path, "GET", query_params=query, auth_settings=["BearerToken"], _preload_content=False
    )
    assert since.data == b"2\n3\n"
    with pytest.raises(ApiException) as unknown:
        log(api, "a", container="other")
    assert unknown.value.status == 400


def test_the_environment_is_what_the_spec_says(api: client.CoreV1Api) -> None:
    reference = {"secretKeyRef": {"name": "s3", "key": "token"}}
    names = [
        {"name": "TOKEN", "valueFrom": reference},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "BOTH", "value": "$(POD)-$(APP)-$$(POD)"},
    ]
    code = "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"
    api.create_namespaced_pod("training", pod("a", code, env=names))

    def waiting() -> Any:
        states = api.read_namespaced_pod("a", "training").status.container_statuses
        return states[0].state.waiting if states else None

    until(lambda: (state := waiting()) and state.reason == "CreateContainerConfigError")
    assert waiting().message == 'secret "s3" not found'
    api.create_namespaced_secret("training", {"metadata": {"name": "s3"}, "stringData": {"token": "t0p"}})
    # by itself the kubelet looks again after 10 s; a change of the pod wakes it
    api.patch_namespaced_pod("a", "training", {"metadata": {"annotations": {"woken": "yes"}}})
    reaches(api, "a", "Succeeded")
    env, directory = json.loads(log(api, "a"))
    assert env["TOKEN"] == "t0p" and env["BOTH"] == "a-train-$(POD)"
    assert env["HOME"] == directory and not Path(directory).exists()
    assert set(env) - {"LC_CTYPE"} == {"TOKEN", "POD", "APP", "BOTH", "HOME", "HOSTNAME", "PATH"}


def test_pods_wait_for_a_node_that_fits(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    double.add_node("cpu-1", taints=[{"key": "dedicated", "value": "x", "effect": "NoSchedule"}])
    api.create_namespaced_pod("training", pod("first", SLEEP, gpus=2))
    reaches(api, "first", "Running")
    api.create_namespaced_pod("training", pod("second", gpus=1))

    def why() -> Any:
        return condition(api.read_namespaced_pod("second", "training"), "PodScheduled")

    until(why)
    assert (why().status, why().reason) == ("False", "Unschedulable")
    words = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {dedicated: x}."
    assert why().message.startswith(words)
    double.add_node("gpu-2", labels={"region": "pl-waw"})
    until(lambda: events(api, "second").get("FailedScheduling", 0) >= 1 and "0/3" in why().message)
    api.delete_namespaced_pod("first", "training", grace_period_seconds=0)
    assert reaches(api, "second", "Succeeded").spec.node_name == "gpu-1"
    terms = [
        {"matchExpressions": [{"key": "region", "operator": "In", "values": ["nowhere"]}]},
        {"matchExpressions": [{"key": "region", "operator": "NotIn", "values": ["fr-par"]}]},
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    api.create_namespaced_pod("training", pod("third", affinity={"nodeAffinity": required}))
    assert reaches(api, "third", "Succeeded").spec.node_name == "gpu-2"


def test_a_gated_pod_waits_for_its_gate(api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("a", schedulingGates=[{"name": "kueue.x-k8s.io/admission"}]))
    gated = until(lambda: condition(api.read_namespaced_pod("a", "training"), "PodScheduled"))
    assert gated.reason == "SchedulingGated"
    operations = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
    api.patch_namespaced_pod("a", "training", operations)
    reaches(api, "a", "Succeeded")


def test_a_higher_priority_preempts(api: client.CoreV1Api) -> None:
    classes = client.SchedulingV1Api(api.api_client)
    classes.create_priority_class({"metadata": {"name": "urgent"}, "value": 100})
    api.create_namespaced_pod("training", pod("low", SLEEP, gpus=2, terminationGracePeriodSeconds=1))
    reaches(api, "low", "Running")
    api.create_namespaced_pod("training", pod("high", gpus=1, priorityClassName="urgent"))
    reaches(api, "high", "Succeeded")
    assert [left.metadata.name for left in api.list_namespaced_pod("training").items] == ["high"]


def test_an_unknown_image_backs_off_until_it_is_there(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("a", image="registry.example/other:1"))

    def reason() -> str:
        states = api.read_namespaced_pod("a", "training").status.container_statuses
        return states[0].state.waiting.reason if states else ""

    until(lambda: reason() == "ImagePullBackOff")
    told = api.list_namespaced_event("training").items
    assert "Error: ErrImagePull" in {event.message for event in told}
    assert events(api, "a")["Failed"] >= 1
    with pytest.raises(ApiException) as waiting:
        log(api, "a")
    assert waiting.value.status == 400 and "waiting to start" in str(waiting.value.body)
    double.add_image("registry.example/other:1")
    reaches(api, "a", "Succeeded")


def test_init_containers_come_first_and_a_failed_one_fails_the_pod(api: client.CoreV1Api) -> None:
    def init(code: str) -> list[dict[str, Any]]:
        command = ["python", "-c", code]
        return [{"name": "prepare", "image": IMAGE, "command": command}]

    api.create_namespaced_pod("training", pod("a", initContainers=init("print('ready')")))
    api.create_namespaced_pod("training", pod("b", initContainers=init("raise SystemExit(1)")))
    reaches(api, "a", "Succeeded")
    assert log(api, "a", container="prepare") == "ready\n"
    failed = reaches(api, "b", "Failed")
    assert failed.status.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_a_process_that_does_not_listen_for_sigterm_is_killed_after_its_grace(
    double: KubernetesDouble, api: client.CoreV1Api
) -> None:
    api.create_namespaced_pod("training", pod("a", DEAF))
    comes_up(api, "a")
    api.delete_namespaced_pod("a", "training", grace_period_seconds=600)
    with pytest.raises(ApiException, match=r'object is being deleted: pods \\"a\\" already exists'):
        api.create_namespaced_pod("training", pod("a"))
    api.delete_namespaced_pod("a", "training", grace_period_seconds=1)
    until(lambda: double.history[0].deleted)
    assert double.history[0].exit_code == 137


def test_a_deleted_pod_has_its_grace(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("a", STUBBORN, terminationGracePeriodSeconds=600))
    comes_up(api, "a")
    api.delete_namespaced_pod("a", "training")
    assert api.read_namespaced_pod("a", "training").metadata.deletion_grace_period_seconds == 600
    begun = time.monotonic()
    api.delete_namespaced_pod("a", "training", grace_period_seconds=1)
    until(lambda: api.list_namespaced_pod("training").items == [])
    assert time.monotonic() - begun > 0.9
    assert double.history[0].exit_code == 137 and double.processes() == 0


def test_an_evicted_pod_fails_and_the_eviction_api_deletes(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    for name in ("a", "b"):
        api.create_namespaced_pod("training", pod(name, SLEEP))
        comes_up(api, name)
    double.evict("a", "training", grace=60)
    evicted = reaches(api, "a", "Failed")
    assert evicted.status.reason == "Evicted" and "low on resource" in evicted.status.message
    assert condition(evicted, "DisruptionTarget").reason == "TerminationByKubelet"
    assert evicted.status.container_statuses[0].state.terminated.exit_code == 143
    api.create_namespaced_pod_eviction("b", "training", {"metadata": {"name": "b"}})
    until(lambda: len(api.list_namespaced_pod("training").items) == 1)
    assert double.history[1].deleted


def test_a_drained_node_takes_no_more_pods(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("a", SLEEP, terminationGracePeriodSeconds=1))
    reaches(api, "a", "Running")
    double.drain("gpu-1")
    until(lambda: api.list_namespaced_pod("training").items == [])
    api.create_namespaced_pod("training", pod("b"))
    until(lambda: "FailedScheduling" in events(api, "b"))
    double.cordon("gpu-1", unschedulable=False)
    reaches(api, "b", "Succeeded")


def test_the_pods_of_a_lost_node_are_deleted_and_go_with_it(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("a", SLEEP))
    reaches(api, "a", "Running")
    double.node_lost("gpu-1")
    until(lambda: api.read_namespaced_pod("a", "training").metadata.deletion_timestamp)
    lost = api.read_namespaced_pod("a", "training")
    assert lost.status.phase == "Running"
    assert condition(lost, "DisruptionTarget").reason == "DeletionByTaintManager"
    assert condition(api.read_node("gpu-1"), "Ready").status == "Unknown"
    until(lambda: double.processes() == 0)
    with pytest.raises(ApiException) as unreachable:
        log(api, "a")
    assert unreachable.value.status == 500
    double.remove_node("gpu-1")
    until(lambda: api.list_namespaced_pod("training").items == [])


def test_a_node_that_is_back_finishes_what_it_lost(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("a", SLEEP))
    reaches(api, "a", "Running")
    double.node_lost("gpu-1", after=60)
    double.node_back("gpu-1")
    failed = reaches(api, "a", "Failed")
    assert failed.status.container_statuses[0].state.terminated.reason == "ContainerStatusUnknown"
    api.create_namespaced_pod("training", pod("b"))
    reaches(api, "b", "Succeeded")


def test_deadline_and_memory_end_a_pod(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    api.create_namespaced_pod("training", pod("slow", SLEEP, activeDeadlineSeconds=1))
    api.create_namespaced_pod("training", pod("large", SLEEP))
    reaches(api, "large", "Running")
    double.oom_kill("large", "training")
    ended = reaches(api, "large", "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    assert reaches(api, "slow", "Failed").status.reason == "DeadlineExceeded"


def test_the_asynchronous_client_works_as_well(double: KubernetesDouble) -> None:
    async def talk() -> list[str]:
        loader = kubernetes_asyncio.config.kube_config.KubeConfigLoader(config_dict=double.kubeconfig())
        configuration = kubernetes_asyncio.client.Configuration()
        await loader.load_and_set(configuration)
        async with kubernetes_asyncio.client.ApiClient(configuration) as connection:
            api = kubernetes_asyncio.client.CoreV1Api(connection)
            await api.create_namespaced_pod("training", pod("a", "print('from afar')"))
            phases = []
            async with kubernetes_asyncio.watch.Watch() as watcher:
                async for event in watcher.stream(api.list_namespaced_pod, "training", timeout_seconds=120):
                    phases.append(event["object"].status.phase)
                    if phases[-1] == "Succeeded":
                        break
            text = await api.read_namespaced_pod_log("a", "training", container="base", timestamps=True)
            await api.delete_namespaced_pod("a", "training")
            return [*phases, text.split(" ", 1)[1].strip()]

    seen = asyncio.run(talk())
    assert seen[-2:] == ["Succeeded", "from afar"]


def test_no_process_outlives_a_killed_test(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    body = pod("a", code)
    program = (
        "import sys, time\n"
        "from kubernetes import client, config\n"
        "from tests.kubernetes_double import KubernetesDouble\n"
        "double = KubernetesDouble(namespaces=['training']).start()\n"
        "double.add_node('n')\n"
        f"double.add_image({IMAGE!r})\n"
        "api = client.CoreV1Api(config.new_client_from_config_dict(double.kubeconfig()))\n"
        f"api.create_namespaced_pod('training', {body!r})\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root) as test:
        try:
            until(lambda: pid_file.exists() and pid_file.read_text())
            pid = int(pid_file.read_text())
            os.kill(pid, 0)
        finally:
            test.kill()

    until(lambda: not alive(pid))
