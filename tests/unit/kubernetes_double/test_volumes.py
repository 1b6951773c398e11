"""What a pod finds in its volumes, how pods reach one another, and watches over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from kubernetes import client

from tests.kubernetes_double import KubernetesDouble
from tests.unit.kubernetes_double.conftest import client_of, pod, reaches, until

pytestmark = pytest.mark.full


def mounting(name: str, code: str, volume: dict[str, Any], path: str, **more: Any) -> dict[str, Any]:
    """A pod with a volume, at which its variable FILE points."""
    made = pod(name, code, env=[{"name": "FILE", "value": f"{path}/file"}], volumes=[{"name": "v", **volume}], **more)
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": path}]
    return made


def log(api: client.CoreV1Api, name: str) -> str:
    return str(api.read_namespaced_pod_log(name, "training", _preload_content=False).data.decode())


def test_a_pod_waits_for_its_secret_and_then_reads_it(api: client.CoreV1Api) -> None:
    shown = "import os; print(open(os.environ['FILE']).read())"
    volume = {"secret": {"secretName": "s", "items": [{"key": "k", "path": "file"}]}}
    api.create_namespaced_pod("training", mounting("a", shown, volume, "/run/held"))

    def missed() -> bool:
        found = api.list_namespaced_event("training", field_selector="involvedObject.name=a").items
        return any(event.reason == "FailedMount" and 'secret "s" not found' in event.message for event in found)

    until(missed)
    assert api.read_namespaced_pod("a", "training").status.phase == "Pending"
    api.create_namespaced_secret("training", {"metadata": {"name": "s"}, "stringData": {"k": "held", "other": "no"}})
    reaches(api, "a", "Succeeded")
    assert log(api, "a").strip() == "held"


def test_a_folder_of_a_pod_is_its_own_and_goes_with_it(api: client.CoreV1Api) -> None:
    code = "import os, pathlib; f = pathlib.Path(os.environ['FILE']); print(f.exists(), f); f.write_text('x')"
    for name in ("a", "b"):
        api.create_namespaced_pod("training", mounting(name, code, {"emptyDir": {}}, "/work"))
        reaches(api, name, "Succeeded")
    told = [log(api, name).split() for name in ("a", "b")]
    assert [each[0] for each in told] == ["False", "False"] and told[0][1] != told[1][1]


def test_a_projected_token_is_that_of_the_pods_account(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    double.add_service_account("training", "own")
    sources = [{"serviceAccountToken": {"path": "file"}}, {"configMap": {"name": "kube-root-ca.crt"}}]
    shown = "import os; print(open(os.environ['FILE']).read())"
    volume = {"projected": {"sources": sources}}
    api.create_namespaced_pod("training", mounting("a", shown, volume, "/var/run/account", serviceAccountName="own"))
    reaches(api, "a", "Succeeded")
    with pytest.raises(client.ApiException) as refused:
        client_of(double, log(api, "a").strip()).list_namespaced_pod("training")
    assert refused.value.status == 403 and "system:serviceaccount:training:own" in str(refused.value.body)


def test_pods_reach_one_another_at_their_addresses(api: client.CoreV1Api) -> None:
    serve = (
        "import os, socket; s = socket.create_server((os.environ['IP'], 7078)); print('up'); "
        "c, peer = s.accept(); print(c.recv(9).decode())"
    )
    address = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    api.create_namespaced_pod("training", pod("a", serve, env=address))
    until(lambda: reaches(api, "a", "Running") and "up" in log(api, "a"))
    there = api.read_namespaced_pod("a", "training").status.pod_ip
    api.create_namespaced_pod(
        "training", pod("b", f"import socket; socket.create_connection(({there!r}, 7078)).sendall(b'hello')")
    )
    reaches(api, "b", "Succeeded")
    reaches(api, "a", "Succeeded")
    assert log(api, "a").split() == ["up", "hello"]


def test_a_watch_over_a_websocket_tells_the_same(double: KubernetesDouble, api: client.CoreV1Api) -> None:
    headers = {"Authorization": f"Bearer {double.admin_token}"}
    url = f"{double.url}/api/v1/namespaces/training/pods?watch=true&labelSelector=app%3Dtrain"

    async def first() -> dict[str, Any]:
        async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(url) as socket:
            await asyncio.to_thread(api.create_namespaced_pod, "training", pod("a"))
            told: dict[str, Any] = json.loads((await socket.receive(timeout=60)).data)
            return told

    event = asyncio.run(first())
    assert event["type"] == "ADDED" and event["object"]["metadata"]["name"] == "a"
